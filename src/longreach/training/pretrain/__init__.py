"""Training a compressor."""
