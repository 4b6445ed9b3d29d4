"""One file in, its text out: plain text exactly as it is, other formats as Markdown. Nothing is fetched."""

from collections.abc import Callable
from pathlib import Path

from longreach.corpus.documents import docx, epub, html, pdf
from longreach.corpus.documents.base import Converted, shown
from longreach.corpus.documents.encoding import decode_text, encodable
from longreach.errors import DocumentError

_PLAIN = frozenset({".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex", ".srt", ".vtt"})
_CONVERTERS: dict[str, Callable[[bytes, str], Converted]] = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), html.convert),
    ".pdf": pdf.convert,
    **dict.fromkeys((".docx", ".docm", ".dotx", ".dotm"), docx.convert),
    ".epub": epub.convert,
}
SUFFIXES = _PLAIN | frozenset(_CONVERTERS)
"""Suffixes, in lower case, of the files that are picked up in a folder."""


def read(path: Path) -> Converted:
    """Reads one file as text; a text file comes back exactly, less its byte-order mark.

    Raises:
        DocumentError: It is missing, empty, locked, damaged, binary, or in an unknown encoding.
    """
    name = shown(path)
    try:
        if path.is_dir():
            raise DocumentError(f"{name} is a folder, not a file: name a file in it, or use find to list them.")
        if path.exists() and not path.is_file():
            raise DocumentError(f"{name} is not a regular file: save its content to a file and name that.")
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise DocumentError(f"{name} does not exist: check the path.") from error
    except PermissionError as error:
        raise DocumentError(f"{name} may not be read: ask for permission to read it, or copy it elsewhere.") from error
    except (OSError, ValueError) as error:
        raise DocumentError(f"{name} cannot be read ({error}): check the path and the disk.") from error
    if not raw:
        raise DocumentError(f"{name} is empty: give it content or leave it out.")
    converted = _CONVERTERS.get(path.suffix.lower(), _plain)(raw, name)
    if not converted.text.strip():
        raise DocumentError(f"{name} is empty, it holds no text: give it content or leave it out.")
    if not encodable(converted.text):
        raise DocumentError(f"{name} holds half characters (lone surrogates): save it again as UTF-8 text.")
    return converted


def _plain(raw: bytes, name: str) -> Converted:
    return Converted(decode_text(raw, name))
