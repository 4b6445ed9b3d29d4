"""Bytes to text in the right encoding, or a refusal."""
