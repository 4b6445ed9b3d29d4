"""BABILong: bAbI's facts in prose."""
