"""Models: loading them, making hybrids of them, and what the rest asks of them.

Only this package touches the internals of transformers' models.
"""
