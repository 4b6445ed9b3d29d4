"""One file in, its text out: plain text exactly as it is, other formats as Markdown. Nothing is fetched."""

import functools
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longreach.corpus.encoding import OLE, decode_html, decode_text, encodable, quiet
from longreach.errors import DocumentError

_HTML = frozenset({".html", ".htm", ".xhtml"})
_PLAIN = frozenset({".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex", ".srt", ".vtt"})
SUFFIXES = _PLAIN | _HTML | {".pdf", ".docx", ".epub"}
"""Suffixes, in lower case, of the files that are picked up in a folder."""


def read(path: Path) -> str:
    """Read one file as text; a text file comes back exactly, less its byte-order mark.

    Raises:
        DocumentError: It is missing, empty, locked, damaged, binary, or in an unknown encoding.
    """
    name, suffix = shown(path), path.suffix.lower()
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
    text = _READERS.get(suffix, decode_text)(raw, name)
    if not text.strip():
        raise DocumentError(f"{name} is empty, it holds no text: give it content or leave it out.")
    if not encodable(text):
        raise DocumentError(f"{name} holds half characters (lone surrogates): save it again as UTF-8 text.")
    return text


def _html(raw: bytes, name: str) -> str:
    text = decode_html(raw, name)
    with _converting(name, ".html"):
        return _convert(text.encode(), name, ".html")


def _archive(raw: bytes, name: str, suffix: str) -> str:
    locked = f"{name} is password-protected: remove the password or the copy protection first."
    if raw.startswith(OLE):
        advice = f"remove the password, or save it again as {suffix}."
        raise DocumentError(f"{name} is password-protected, or an old Office file: {advice}")
    with _converting(name, suffix), zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = archive.infolist()
        if any(member.flag_bits & 1 for member in members):
            raise DocumentError(locked)
        for page in (member.filename for member in members if Path(member.filename).suffix.lower() in _HTML):
            try:  # the converter would guess an encoding, and say nothing
                decode_html(archive.read(page), f"{name} (in it, {page})")
            except DocumentError as error:
                if "META-INF/encryption.xml" in archive.namelist():
                    raise DocumentError(locked) from error
                raise
    return _convert(raw, name, suffix)


def _convert(raw: bytes, name: str, suffix: str) -> str:
    from markitdown import StreamInfo

    with _converting(name, suffix):
        about = StreamInfo(extension=suffix, charset="utf-8")
        return str(_markitdown(suffix).convert_stream(io.BytesIO(raw), stream_info=about).text_content)


@functools.cache
def _markitdown(suffix: str) -> Any:
    """A MarkItDown that knows one format only: a damaged file is not tried as another, and nothing is fetched."""
    from markitdown import MarkItDown, converters

    kinds = {".html": converters.HtmlConverter, ".docx": converters.DocxConverter, ".epub": converters.EpubConverter}
    engine = MarkItDown(enable_builtins=False, enable_plugins=False)
    engine.register_converter(kinds[suffix]())
    return engine


def _pdf(raw: bytes, name: str) -> str:
    from pypdf import PasswordType, PdfReader
    from pypdf.errors import DependencyError

    with _converting(name, ".pdf"):
        try:
            reader = PdfReader(io.BytesIO(raw))
            if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
                raise DocumentError(f"{name} is password-protected: remove the password, e.g. with qpdf --decrypt.")
            text = "\n\n".join(page.extract_text() for page in reader.pages)
        except DependencyError as error:
            advice = "pip install cryptography, or save a copy without protection."
            raise DocumentError(f"{name} is encrypted in a way that needs another package: {advice}") from error
    if not text.strip():
        advice = "run OCR on it first, e.g. with ocrmypdf."
        raise DocumentError(f"{name} has no text layer (it is empty or scanned): {advice}")
    return text


@contextmanager
def _converting(name: str, suffix: str) -> Iterator[None]:
    """Silence the converters, and turn whatever they raise into one sentence."""
    try:
        with quiet():
            yield
    except DocumentError:
        raise
    except Exception as error:
        what = f"{name} is damaged or is not a {suffix} file"
        raise DocumentError(f"{what}: open it in its own program and save it again, or export it as text.") from error


def shown(path: str | Path) -> str:
    """A path as it can be printed, whatever bytes are in it."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


_READERS: dict[str, Callable[[bytes, str], str]] = {
    **dict.fromkeys(_HTML, _html),
    ".pdf": _pdf,
    ".docx": functools.partial(_archive, suffix=".docx"),
    ".epub": functools.partial(_archive, suffix=".epub"),
}
