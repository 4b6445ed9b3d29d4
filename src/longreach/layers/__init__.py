"""Which layers of a model need full attention, found by measuring without any training."""
