"""Model files from anywhere to a model and its tokenizer."""
