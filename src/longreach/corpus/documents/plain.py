"""Plain text, exactly as it is."""

from longreach.corpus.documents.base import Converted
from longreach.corpus.documents.encodings.decode import decode_text


def convert(data: bytes, name: str) -> Converted:
    """Returns the text of a file; see `Format.convert`."""
    return Converted(decode_text(data, name))
