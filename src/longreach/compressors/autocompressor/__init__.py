"""AutoCompressor: its options, compressor, checkpoints and training."""
