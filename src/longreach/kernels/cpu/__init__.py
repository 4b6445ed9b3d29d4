"""Sparse attention in portable PyTorch."""
