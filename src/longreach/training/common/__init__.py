"""What every training run has in common."""
