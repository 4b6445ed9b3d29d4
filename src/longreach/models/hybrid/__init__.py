"""Hybrid models: architecture, conversion, generation and the self-check."""
