"""Floor 6: how well answers are."""
