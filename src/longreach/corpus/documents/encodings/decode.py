"""Bytes to text: exactly, in the encoding they are in, or not at all."""

import codecs
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from longreach.corpus.documents.encodings import escapes, labels
from longreach.corpus.documents.encodings.guess import guess
from longreach.corpus.documents.encodings.prose import (
    count_beyond_ascii,
    count_oddities,
    has_controls,
)
from longreach.errors import DocumentError

OLE = b"\xd0\xcf\x11\xe0"
_MAGIC = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x7fELF": "a program",
    b"%PDF-": "a PDF",
    OLE: "an old or encrypted Office file",
}
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UTF8_CHARACTER = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")
_COMMENT = re.compile(rb"<!--.*?(?:-->|$)", re.DOTALL)
_XML_DECLARATION = re.compile(
    rb"\s*<\?xml\b[^<>]*?\bencoding\s*=\s*[\"']\s*([\w.:-]+)", re.IGNORECASE
)
_META = re.compile(rb"<meta\b[^<>]*?\bcharset\s*=\s*[\"']?\s*([^\s\"'/>;]+)", re.IGNORECASE)
# Browsers look at the first 1,024 bytes, and again where they meet the declaration later.
_DECLARED_WITHIN = 65_536
# This many characters of UTF-8 are no accident in a page that says that it is in another encoding.
_CLEARLY_UTF8 = 4


def decode_text(raw: bytes, name: str, markup: bool = False) -> str:
    """Decodes plain text, less its byte-order mark.

    Args:
        raw: The bytes.
        name: The file as messages call it.
        markup: Whether there are tags in it, which say nothing about the language.

    Raises:
        DocumentError: It is no text, or its encoding is not certain.
    """
    kind = _find_by_start(raw, _MAGIC)
    encoding = _find_by_start(raw, _MARKS) or "utf-8"
    if kind is None and encoding == "utf-8" and b"\0" in raw:
        kind = "no text: a NUL byte"
    if kind:
        advice = (
            "give it its real suffix if it is a PDF, DOCX or EPUB, else convert it to UTF-8 text."
        )
        raise DocumentError(f"{name} is a binary file, not text (it holds {kind}): {advice}")
    if encoding == "utf-8":
        text = _decode_seven_bit(raw, name)
        if text is not None:
            return text
    try:
        text = raw.decode(encoding)
        # The codecs of UTF-16 and UTF-32 remove the mark themselves.
        return text.removeprefix("\ufeff") if encoding == "utf-8" else text
    except UnicodeDecodeError as error:
        what = f"marked as {encoding} but is not"
        if encoding == "utf-8":
            what = "neither UTF-8 nor a recognizable encoding"
            # UTF-8 that was cut short inside its last character is in no other encoding.
            if error.reason != "unexpected end of data":
                guessed = _guess(raw, markup)
                if guessed is not None:
                    return guessed
        where = f"(first bad byte at offset {error.start})"
        raise DocumentError(
            f"{name} is {what} {where}: convert it to UTF-8, e.g. with iconv."
        ) from error


def _find_by_start(raw: bytes, table: dict[bytes, str]) -> str | None:
    """Returns the entry of a table whose key the bytes start with."""
    for start, entry in table.items():
        if raw.startswith(start):
            return entry
    return None


def decode_html(raw: bytes, name: str) -> str:
    """Decodes a page by its byte-order mark, else by what it declares, else like plain text.

    Raises:
        DocumentError: The encoding is not certain, or not the declared one.
    """
    label = _find_declaration(raw)
    if label is None or raw.startswith((codecs.BOM_UTF8, *_MARKS)):
        return decode_text(raw, name, markup=True)
    if labels.is_seven_bit(label):
        text = labels.decode(raw, label)
        if text is None:
            said = (
                f"{name} says that it is in {label}, but it is not, or that encoding cannot be read"
            )
            raise DocumentError(f"{said}: convert it to UTF-8, e.g. with iconv, and declare that.")
        return text
    if labels.find_codec(label) in (None, "utf-8"):
        return decode_text(raw, name, markup=True)
    if _decode_utf8(raw) is not None and not _is_believable(label, raw):
        return decode_text(raw, name, markup=True)
    text = labels.decode(raw, label)
    if text is None or has_controls(text) or _is_odd(text):
        return decode_text(raw, name, markup=True)
    return text


def _find_declaration(raw: bytes) -> str | None:
    """Returns the encoding that the XML declaration or the first `<meta charset>` names."""
    head = raw[:_DECLARED_WITHIN]
    found = _XML_DECLARATION.match(head) or _META.search(_COMMENT.sub(b"", head))
    return found[1].decode("latin-1") if found else None


def _is_believable(label: str, raw: bytes) -> bool:
    """Returns whether bytes that are valid UTF-8 are rather in the encoding they declare."""
    if raw.isascii() or len(_UTF8_CHARACTER.findall(raw)) >= _CLEARLY_UTF8:
        return False
    text = labels.decode(raw, label)
    return text is not None and count_oddities(text) == 0


def _is_odd(text: str) -> bool:
    odd = count_oddities(text)
    return odd > 2 and odd > 0.02 * count_beyond_ascii(text)


def _decode_seven_bit(raw: bytes, name: str) -> str | None:
    """Decodes bytes of ASCII that stand for other characters; None if they do not.

    Raises:
        DocumentError: They do, but in an encoding that is not known.
    """
    if escapes.is_escaped(raw):
        text = escapes.decode_iso_2022(raw)
        if text is not None:
            return text
        what = (
            "switches between sets of characters with escapes, as ISO-2022-JP does, but is not in a"
            " known encoding"
        )
        raise DocumentError(f"{name} {what}: convert it to UTF-8, e.g. with iconv.")
    if not raw.isascii():
        return None
    text = escapes.decode_hz(raw) if b"~{" in raw else None
    if text is None and b"+" in raw:
        text = escapes.decode_utf_7(raw)
    return text


def _guess(raw: bytes, markup: bool) -> str | None:
    """Decodes bytes that are not UTF-8, if one encoding is clearly the right one."""
    bad = len(_HIGH_BYTE.findall(_UTF8_CHARACTER.sub(b"", raw)))
    # Damaged UTF-8: elsewhere such sequences are rarer accidents.
    if 2 * len(_UTF8_CHARACTER.findall(raw)) >= bad:
        return None
    with silence_libraries():
        return guess(raw, markup)


def _decode_utf8(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def is_encodable(text: str) -> bool:
    """Returns whether a text has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Keeps what converters and detectors log and warn away from the user's terminal."""
    levels = {}
    for name in ("pypdf", "markitdown", "mammoth", "charset_normalizer", "chardet"):
        logger = logging.getLogger(name)
        levels[logger] = logger.level
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
