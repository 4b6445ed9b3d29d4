"""The text layer of one page of a PDF, and whether it is all that the page shows."""

import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from longreach.corpus.documents.pdf.objects import resolve

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader
    from pypdf.generic import DictionaryObject, StreamObject

_MOST_BYTES = 75_000_000
"""Of a content stream, unpacked; pypdf has the same limit."""
_PAINTING = frozenset(
    {b"S", b"s", b"f", b"F", b"f*", b"B", b"B*", b"b", b"b*", b"sh", b"INLINE IMAGE"}
)
_FILLING = frozenset({b"f", b"F", b"f*"})
_SHOWING = frozenset({b"Tj", b"TJ", b"'", b'"'})
_WHITE = {b"g": [1], b"rg": [1, 1, 1], b"k": [0, 0, 0, 0]}
# Encodings of composite fonts that lead to characters without a table of the font's own.
_KNOWN_ENCODING = re.compile(
    r"/(Uni.*-(UCS2|UTF16)|GB-EUC|GBpc-EUC|GBK-EUC|GBK2K|ETen-B5|ETenms-B5|90ms-RKSJ)-[HV]"
)
# Names of glyphs that say nothing of the character: g23, cid5, glyph7, a102.
_NAMELESS = re.compile(r"/?(g|G|c|C|a|f|F|x|cid|CID|glyph|index|char|Char|gid)[0-9]+")
# Above this share of unreadable letters the text of a page is omitted.
_GARBLED_SHARE = 0.3
# Bullets from fonts of symbols are no letters to worry about.
_ODD_SHARE = 0.05


class State(Enum):
    """How much of a page could be read."""

    FINE = "fine"
    NO_TEXT = "it shows something, but has no text layer"
    GARBLED = "its fonts do not say which letters they show"
    PARTLY_GARBLED = "some of its fonts do not say so"
    DAMAGED = "nothing of it can be read"
    PARTLY_DAMAGED = "a part of it can be read"


class PageText(NamedTuple):
    """The text of a page, the number of its letters, and the page unless it is missing."""

    text: str
    state: State
    letters: int = 0
    page: "PageObject | None" = None


class _Fonts:
    """Counts the letters that a page shows in readable fonts and in others."""

    def __init__(self) -> None:
        self.letters = 0
        self.unreadable = 0
        self._readable: dict[int, bool] = {}
        self._kept: list[Any] = []

    def count(
        self,
        text: str,
        matrix: object,
        text_matrix: object,
        font: "DictionaryObject | None",
        size: object,
    ) -> None:
        """Counts a piece of text, for which pypdf calls it."""
        letters = "".join(text.split())
        self.letters += len(letters)
        if font is not None and id(font) not in self._readable:
            self._readable[id(font)] = _is_readable(font)
            # No other font can get its id while it is kept.
            self._kept.append(font)
        if font is not None and not self._readable[id(font)]:
            self.unreadable += len(letters)
            return
        odd = sum(map(_is_odd, letters))
        if odd > _ODD_SHARE * len(letters) and len(letters) > 1:
            self.unreadable += odd


def _is_odd(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Co", "Cn") or character == "\ufffd"


def read_page(reader: "PdfReader", index: int) -> PageText:
    """Reads a page; what goes wrong inside it concerns no other page."""
    try:
        page = reader.pages[index]
    except MemoryError:
        raise
    except Exception:  # whatever a damaged page raises
        return PageText("", State.DAMAGED)
    fonts = _Fonts()
    try:
        intact = _is_intact(page)
        text = page.extract_text(visitor_text=fonts.count).strip("\n")
    except MemoryError:
        raise
    except Exception:
        return PageText("", State.DAMAGED, page=page)
    letters = fonts.letters
    if fonts.unreadable > _GARBLED_SHARE * letters:
        return PageText("", State.GARBLED if intact else State.DAMAGED, letters, page)
    if text.strip():
        state = State.FINE
        if not intact:
            state = State.PARTLY_DAMAGED
        elif fonts.unreadable > 0:
            state = State.PARTLY_GARBLED
        return PageText(text, state, letters, page)
    if not intact:
        return PageText("", State.DAMAGED, page=page)
    if _shows_something(page):
        return PageText("", State.NO_TEXT, page=page)
    return PageText("", State.FINE, page=page)


def _is_intact(page: "PageObject") -> bool:
    """Returns whether all streams of a page's content are there and whole."""
    from pypdf.generic import ArrayObject, StreamObject

    if "/Contents" not in page:
        return True
    contents = resolve(page["/Contents"])
    streams = list(contents) if isinstance(contents, ArrayObject) else [contents]
    for reference in streams:
        stream = resolve(reference)
        if not isinstance(stream, StreamObject) or not _is_whole(stream):
            return False
    return True


def _is_whole(stream: "StreamObject") -> bool:
    """Returns whether a stream can be unpacked to its end; pypdf is content with the beginning."""
    from pypdf.filters import ASCII85Decode, ASCIIHexDecode

    filters = resolve(stream.get("/Filter", []))
    if not isinstance(filters, list):
        filters = [filters]
    data = stream._data
    for name in filters:
        if name in ("/ASCII85Decode", "/A85"):
            data = ASCII85Decode.decode(data)
        elif name in ("/ASCIIHexDecode", "/AHx"):
            data = ASCIIHexDecode.decode(data)
            if isinstance(data, str):
                data = data.encode("latin-1")
        elif name in ("/FlateDecode", "/Fl"):
            return _can_inflate(data)
        else:
            # Filters of images: pypdf reads these whole, or says that it cannot.
            return True
    return True


def _can_inflate(data: bytes) -> bool:
    # Some writers cut the checksum off, so the packed data are judged without it, and by it where
    # it is there.
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        unpacked = unpacking.decompress(data[2:], _MOST_BYTES)
    except zlib.error:
        return False
    if not unpacking.eof:
        return False
    checksum = unpacking.unused_data[:4]
    return len(checksum) < 4 or zlib.adler32(unpacked) == int.from_bytes(checksum, "big")


def _shows_something(page: "PageObject") -> bool:
    """Returns whether anything but white is painted on a page."""
    from pypdf.generic import ContentStream

    pending = [(page.get_contents(), page.get("/Resources"))]
    seen: set[int] = set()
    while pending:
        content, resources = pending.pop()
        if content is None:
            continue
        white = False
        for operands, operator in content.operations:
            if operator in _WHITE:
                white = list(operands) == _WHITE[operator]
            elif operator in (b"cs", b"sc", b"scn", b"Q"):
                white = False
            elif operator in _SHOWING:
                return True
            elif operator in _PAINTING:
                if not white or operator not in _FILLING:
                    return True
            elif operator == b"Do":
                drawn = _find_drawn(resources, operands)
                if drawn is None:
                    continue
                if drawn.get("/Subtype") != "/Form":
                    return True
                if id(drawn) not in seen:
                    seen.add(id(drawn))
                    inner = ContentStream(drawn, page.pdf)
                    pending.append((inner, drawn.get("/Resources", resources)))
    return False


def _find_drawn(resources: object, operands: Sequence[object]) -> Any:
    """Returns the form or the image that an operator draws; None if it is missing."""
    if resources is None or not operands:
        return None
    found = resolve(resolve(resources).get("/XObject"))
    if found is None:
        return None
    return resolve(found.get(operands[0]))


def _is_readable(font: "DictionaryObject") -> bool:
    """Returns whether a font says which characters its codes stand for."""
    from pypdf.generic import StreamObject

    if "/ToUnicode" in font:
        table = font["/ToUnicode"].get_object()
        return not isinstance(table, StreamObject) or _is_whole(table)
    encoding = resolve(font.get("/Encoding"))
    if font.get("/Subtype") == "/Type0":
        return isinstance(encoding, str) and bool(_KNOWN_ENCODING.fullmatch(encoding))
    names = list(_iterate_glyphs(encoding))
    nameless = len(list(filter(_NAMELESS.fullmatch, names)))
    return "Dingbats" in str(font.get("/BaseFont", "")) or 2 * nameless <= len(names)


def _iterate_glyphs(encoding: object) -> Iterator[str]:
    """Yields the names of the glyphs by which an encoding differs from a usual one."""
    if not isinstance(encoding, dict):
        return
    for entry in resolve(encoding.get("/Differences")) or ():
        if isinstance(entry, str):
            yield entry
