"""Files, folders and texts in, documents out; see `formats` for what is read."""

from longreach.corpus.documents.base import Converted
from longreach.corpus.documents.folders import Selection, Skipped
from longreach.corpus.documents.formats import Format, list_suffixes, register, unregister
from longreach.corpus.documents.limits import Limits
from longreach.corpus.documents.sources import Document, Found, find, read_all

__all__ = [
    "Converted",
    "Document",
    "Format",
    "Found",
    "Limits",
    "Selection",
    "Skipped",
    "find",
    "list_suffixes",
    "read_all",
    "register",
    "unregister",
]
