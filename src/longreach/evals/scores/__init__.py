"""How answers are scored: metrics by name, overlap of words, intervals."""
