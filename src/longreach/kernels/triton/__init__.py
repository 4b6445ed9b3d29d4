"""Sparse attention as Triton kernels."""
