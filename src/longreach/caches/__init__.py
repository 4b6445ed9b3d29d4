"""Floor 2: key-value caches."""
