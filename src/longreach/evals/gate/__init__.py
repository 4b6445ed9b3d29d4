"""The gate: which way of reading a corpus answers held-out questions best."""
