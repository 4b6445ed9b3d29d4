"""Compressors: the contract in `base`, the table of methods in `registry`.

Everything about one method lies in its own module or folder.
"""
