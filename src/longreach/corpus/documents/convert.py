"""One file in, its text out: plain text exactly as it is, other formats as Markdown.

Nothing is fetched.
"""

from pathlib import Path

from longreach.corpus.documents import apart
from longreach.corpus.documents.base import Converted, show_path
from longreach.corpus.documents.encodings.decode import is_encodable
from longreach.corpus.documents.formats import find_format
from longreach.corpus.documents.limits import Limits, apply_limits, explain_excess, format_bytes
from longreach.errors import DocumentError
from longreach.wording import counted

_PIECE_BYTES = 1 << 16


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
    name = show_path(path)
    return convert_bytes(_read_bytes(path, name, limits), name, path.suffix, limits)


def convert_bytes(raw: bytes, name: str, suffix: str, limits: Limits | None = None) -> Converted:
    """Converts the bytes of a file as `read` does, wherever they came from.

    Args:
        raw: The bytes.
        name: The file as messages call it.
        suffix: What says which format they are in, such as ".pdf"; others are plain text.
        limits: What it may cost; None for the defaults.

    Raises:
        DocumentError: As for `read`.
    """
    limits = limits or Limits()
    if not raw:
        raise DocumentError(f"{name} is empty: give it content, or omit it.")
    format = find_format(suffix)
    # A process costs more than decoding, and a search for an encoding may take long.
    is_simple = not format.isolated and _is_utf8(raw)
    if is_simple or not apart.is_possible():
        with apply_limits(limits):
            converted = format.convert(raw, name)
    else:
        converted = apart.convert_apart(format, raw, name, limits)
    # What was converted here was not counted yet.
    if len(converted.text) > limits.text_characters:
        characters = counted(len(converted.text), "character")
        raise explain_excess(name, f"has a text of {characters}", "text_characters", limits)
    if not converted.text.strip():
        raise DocumentError(f"{name} is empty, it holds no text: give it content, or omit it.")
    # They could not be stored.
    if not is_encodable(converted.text):
        raise DocumentError(
            f"{name} holds half characters (lone surrogates): save it again as UTF-8 text."
        )
    return converted


def _read_bytes(path: Path, name: str, limits: Limits) -> bytes:
    try:
        if path.is_dir():
            raise DocumentError(
                f"{name} is a folder, not a file: name a file in it, or use find to list them."
            )
        # A pipe or a device may never end.
        if path.exists() and not path.is_file():
            raise DocumentError(
                f"{name} is not a regular file: save its content to a file and name that."
            )
        length = path.stat().st_size
        # Before one byte of it is read.
        if length > limits.file_bytes:
            raise explain_excess(name, f"has {format_bytes(length)}", "file_bytes", limits)
        pieces = []
        with path.open("rb") as file:
            # Some files claim to have no size, or grow meanwhile.
            while piece := file.read(max(length + 1, _PIECE_BYTES)):
                pieces.append(piece)
                if sum(map(len, pieces)) > limits.file_bytes:
                    more = f"has more than {format_bytes(limits.file_bytes)}"
                    raise explain_excess(name, more, "file_bytes", limits)
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
    """Returns whether a text file needs no search for its encoding, which is what takes time."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
