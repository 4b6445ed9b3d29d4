"""One file in, its text out: plain text exactly as it is, other formats as Markdown. Nothing is
fetched."""

from collections.abc import Callable
from pathlib import Path

from longreach.corpus.documents import apart, csv
from longreach.corpus.documents.base import Converted, shown
from longreach.corpus.documents.encodings.decode import decode_text, encodable
from longreach.corpus.documents.epub import book as epub
from longreach.corpus.documents.html import page as html
from longreach.corpus.documents.limits import Limits, applied, exceeded, size
from longreach.corpus.documents.office import docx, pptx, xlsx
from longreach.corpus.documents.pdf import document as pdf
from longreach.errors import DocumentError
from longreach.wording import counted

_PLAIN = frozenset(
    {".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex", ".srt", ".vtt"}
)
_CONVERTERS: dict[str, Callable[[bytes, str], Converted]] = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), html.convert),
    ".pdf": pdf.convert,
    **dict.fromkeys((".docx", ".docm", ".dotx", ".dotm"), docx.convert),
    ".epub": epub.convert,
    **dict.fromkeys((".csv", ".tsv", ".tab"), csv.convert),
    **dict.fromkeys((".xlsx", ".xlsm"), xlsx.convert),
    **dict.fromkeys((".pptx", ".pptm", ".ppsx"), pptx.convert),
}
SUFFIXES = _PLAIN | frozenset(_CONVERTERS)
"""Suffixes, in lower case, of the files that are picked up in a folder."""
_PIECE_BYTES = 1 << 16
_MOST_NOTES = 100
_LONGEST_NOTE = 1000


def read(path: Path, limits: Limits | None = None) -> Converted:
    """Reads one file as text; a text file comes back exactly, less its byte-order mark.

    Whatever takes more than decoding is done in a process of its own, so that no file can use up
    time and memory.

    Args:
        path: The file.
        limits: What it may cost; None for the defaults.

    Raises:
        DocumentError: It is missing, empty, locked, damaged, binary, in an unknown encoding, or
            costs too much.
    """
    limits = limits or Limits()
    name = shown(path)
    raw = _bytes(path, name, limits)
    if not raw:
        raise DocumentError(f"{name} is empty: give it content, or omit it.")
    suffix = path.suffix.lower()
    if (suffix not in _CONVERTERS and _is_utf8(raw)) or not apart.is_possible():
        with applied(limits):
            converted = convert(suffix, raw, name)
    else:
        converted = apart.convert_apart(suffix, raw, name, limits)
    if len(converted.text) > limits.text_characters:
        raise exceeded(
            name,
            f"has a text of {counted(len(converted.text), 'character')}",
            "text_characters",
            limits,
        )
    if not converted.text.strip():
        raise DocumentError(f"{name} is empty, it holds no text: give it content, or omit it.")
    if not encodable(converted.text):
        raise DocumentError(
            f"{name} holds half characters (lone surrogates): save it again as UTF-8 text."
        )
    return converted


def convert(suffix: str, raw: bytes, name: str) -> Converted:
    """Converts the bytes of a file, in this process.

    Args:
        suffix: In lower case; says how they are read.
        raw: The bytes.
        name: The file as messages call it.

    Raises:
        DocumentError: They cannot be read.
    """
    text, notes = _CONVERTERS.get(suffix, _plain)(raw, name)
    if len(notes) > _MOST_NOTES:
        notes = (
            *notes[:_MOST_NOTES],
            f"There are {len(notes) - _MOST_NOTES:,} more notes like these.",
        )
    return Converted(text, tuple(note[:_LONGEST_NOTE] for note in notes))


def _bytes(path: Path, name: str, limits: Limits) -> bytes:
    try:
        if path.is_dir():
            raise DocumentError(
                f"{name} is a folder, not a file: name a file in it, or use find to list them."
            )
        if path.exists() and not path.is_file():
            raise DocumentError(
                f"{name} is not a regular file: save its content to a file and name that."
            )
        length = path.stat().st_size
        if length > limits.file_bytes:  # before one byte of it is read
            raise exceeded(name, f"has {size(length)}", "file_bytes", limits)
        pieces = []
        with path.open("rb") as file:
            # Some files claim to have no size, or grow meanwhile.
            while piece := file.read(max(length + 1, _PIECE_BYTES)):
                pieces.append(piece)
                if sum(map(len, pieces)) > limits.file_bytes:
                    raise exceeded(
                        name, f"has more than {size(limits.file_bytes)}", "file_bytes", limits
                    )
    except FileNotFoundError as error:
        raise DocumentError(f"{name} does not exist: check the path.") from error
    except PermissionError as error:
        raise DocumentError(
            f"{name} may not be read: ask for permission to read it, or copy it elsewhere."
        ) from error
    except (OSError, ValueError) as error:
        raise DocumentError(
            f"{name} cannot be read ({error}): check the path and the disk."
        ) from error
    return b"".join(pieces)


def _is_utf8(raw: bytes) -> bool:
    """Whether a text file needs no search for its encoding, which is what takes time."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _plain(raw: bytes, name: str) -> Converted:
    return Converted(decode_text(raw, name))
