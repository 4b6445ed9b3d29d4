"""Training an adapter that answers from a corpus."""
