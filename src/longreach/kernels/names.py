"""What the implementations of sparse attention are called. Imports no torch."""

IMPLEMENTATIONS = ("auto", "reference", "cpu", "flex", "triton")
