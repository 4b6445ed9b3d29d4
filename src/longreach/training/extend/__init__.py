"""Training a model for a longer window."""
