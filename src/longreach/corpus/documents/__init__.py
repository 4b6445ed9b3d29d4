"""Files, folders and texts in, documents out; one format a module."""

from longreach.corpus.documents.folders import Selection, Skipped
from longreach.corpus.documents.limits import Limits
from longreach.corpus.documents.sources import Document, Found, find, read_all

__all__ = ["Document", "Found", "Limits", "Selection", "Skipped", "find", "read_all"]
