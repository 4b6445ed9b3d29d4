"""Weighted pooling: its options, compressor and training."""
