"""Answers from a corpus: retrieve, choose, assemble, generate, stream, cite."""
