"""Files, folders and texts in, documents out; one format a module."""

from longreach.corpus.documents.sources import Document, Skipped, find, read_all

__all__ = ["Document", "Skipped", "find", "read_all"]
