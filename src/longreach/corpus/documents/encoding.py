"""Bytes to text: exactly, in the encoding they are in, or not at all."""

import codecs
import logging
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

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
_UTF8_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_DECLARED = re.compile(rb"<(?:meta\b[^>]*?charset|\?xml\b[^>]*?encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_LEGACY = ["cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "koi8_r", "cp932", "gb18030", "big5", "cp949"]
# Accented letters of French and Dutch, German and Nordic, Iberian, Italian, Icelandic: cp1252 prose keeps to one set.
_ALPHABETS = ("àâæçèéêëîïôùûüÿœ", "àáäåæèéêëïöøüß", "àáâãçèéêíïñòóôõúü", "àèéìíîòóùú", "áæéðíóöøúýþ")
_SYMBOLS = ("No", "Po", "Ps", "Pe", "Pi", "Pf", "Sc", "Sk", "Sm", "So")
# In prose a control character never occurs; a capital after a small letter or a symbol inside a word is rare.
_ODD = re.compile(r"x|[al]U|lA|[aAlU]s(?=[aAlU])")
_TOLERATED = 0.02


def decode_text(raw: bytes, name: str) -> str:
    """Decodes plain text, less its byte-order mark; raises DocumentError where the encoding is not certain."""
    kind = next((kind for magic, kind in _MAGIC.items() if raw.startswith(magic)), None)
    encoding = next((encoding for mark, encoding in _MARKS.items() if raw.startswith(mark)), "utf-8")
    if kind is None and encoding == "utf-8" and b"\0" in raw:
        kind = "no text: a NUL byte"
    if kind:
        advice = "give it its real suffix if it is a PDF, DOCX or EPUB, else convert it to UTF-8 text."
        raise DocumentError(f"{name} is a binary file, not text (it holds {kind}): {advice}")
    try:
        return raw.decode(encoding).removeprefix("\ufeff" if encoding == "utf-8" else "")
    except UnicodeDecodeError as error:
        what = f"marked as {encoding} but is not"
        if encoding == "utf-8":
            what = "neither UTF-8 nor a recognisable encoding"
            cut = error.reason == "unexpected end of data"  # cut short inside its last character
            text = None if cut else _legacy(raw)
            if text is not None:
                return text
        where = f"(first bad byte at offset {error.start})"
        raise DocumentError(f"{name} is {what} {where}: convert it to UTF-8, e.g. with iconv.") from error


def decode_html(raw: bytes, name: str) -> str:
    """Decodes a page by what it declares, else like plain text."""
    declared = _DECLARED.search(raw[:4096])
    if declared and _decoded(raw, "utf-8") is None and not raw.startswith(tuple(_MARKS)):
        encoding = declared[1].decode().lower()
        # As browsers do: pages that say Latin-1 are written in its superset.
        text = _decoded(raw, "cp1252" if encoding in ("iso-8859-1", "latin-1", "latin1", "us-ascii") else encoding)
        if text is not None and _oddities(text) <= _TOLERATED:
            return text
    return decode_text(raw, name)


def _legacy(raw: bytes) -> str | None:
    """Decode bytes that are not UTF-8, if one encoding is clearly the right one."""
    bad = sum(count for byte, count in Counter(_UTF8_CHARACTER.sub(b"", raw)).items() if byte > 0x7F)
    if 4 * len(_UTF8_CHARACTER.findall(raw)) >= bad:  # damaged UTF-8: elsewhere such sequences are rare accidents
        return None
    western = _decoded(raw, "cp1252")
    if western is not None and _oddities(western) <= _TOLERATED and _is_western(western):
        return western

    from charset_normalizer import from_bytes

    with quiet():
        guesses = {_decoded(raw, guess.encoding): guess.coherence for guess in from_bytes(raw, cp_isolation=_LEGACY)}
    ranked = sorted((_oddities(text), -score, text) for text, score in guesses.items() if text)
    if not ranked or ranked[0][0] > _TOLERATED:
        return None
    # Its own first choice is often wrong on a sentence or two, so: a known language, and a clear lead over the rest.
    oddities, low, text = ranked[0]
    rivals = (other for odd, other, _ in ranked[1:] if odd == oddities)
    return text if low <= -0.3 and all(other - low >= 0.1 for other in rivals) else None


def _decoded(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except (LookupError, UnicodeError):
        return None


def _oddities(text: str) -> float:
    """Share of foreign characters that stand where a wrong codec, and not a writer, would put them."""
    codes = {}
    for character in set(text):
        kind, plain = unicodedata.category(character), character < "\x80"
        code = "."
        if kind in ("Lu", "Ll"):
            code = {"Lu": "AU", "Ll": "al"}[kind][not plain]
        elif character in "\ufffd¤" or (kind in ("Cc", "Co", "Cn") and character not in "\t\n\v\f\r"):
            code = "x"
        elif character in "ªº" or (not plain and character not in "´’…·" and kind in _SYMBOLS):
            code = "s"
        codes[ord(character)] = code
    foreign = sum(character > "\x7f" for character in text)
    return len(_ODD.findall(text.translate(codes))) / max(1, foreign)


def _is_western(text: str) -> bool:
    letters = Counter(character for character in text.lower() if character.isalpha() and character not in "ªºµ")
    plain = sum(count for character, count in letters.items() if character < "\x80")
    accented = letters.total() - plain
    within = max(sum(letters[character] for character in alphabet) for alphabet in _ALPHABETS)
    return accented <= plain and 10 * (accented - within) <= accented


def encodable(text: str) -> bool:
    """Whether a text has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what converters and detectors log and warn away from the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("pypdf", "markitdown", "mammoth", "charset_normalizer")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
