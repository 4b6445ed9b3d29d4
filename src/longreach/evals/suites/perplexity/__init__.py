"""Perplexity by position on held-out texts."""
