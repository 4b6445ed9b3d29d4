"""Files made to do harm: each is refused or read within its limits, and its neighbors in the folder are read."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from longreach.corpus.documents import Document, Skipped, read_all
from tests.fuzz.documents import LIMITS, seeds
from tests.fuzz.tally import Clock, Tally, sentence_problem

_GOOD = "A neighbor that has to be read."
_S = b"http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def run(folder: Path) -> Tally:
    """Reads a folder of one hostile file and one good one, for each of them."""
    tally = Tally("hostile files")
    with Clock(tally):
        for name, raw in hostile_files():
            here = folder / "here"
            here.mkdir()
            (here / "good.txt").write_text(_GOOD, encoding="utf-8")
            write(here / name, raw)
            tally.attempt(name, lambda here=here: check(here))
            for path in here.iterdir():
                path.unlink()
            here.rmdir()
    return tally


def write(path: Path, raw: bytes | int) -> None:
    """Writes bytes, or a sparse file of so many."""
    if isinstance(raw, bytes):
        path.write_bytes(raw)
        return
    with path.open("wb") as file:
        os.truncate(file.fileno(), raw)


def check(folder: Path) -> str:
    """Reads a folder and returns what became of the hostile file in it."""
    found = list(read_all([folder], limits=LIMITS))
    if not any(isinstance(item, Document) and item.text == _GOOD for item in found):
        return "FAILED the neighbor was not read"
    skipped = [item for item in found if isinstance(item, Skipped)]
    for item in skipped:
        if sentence_problem(item.reason):
            return f"FAILED the reason {sentence_problem(item.reason)}: {item.reason!r:.200}"
    return "refused" if skipped else "read within the limits"


def hostile_files() -> Iterator[tuple[str, bytes | int]]:
    """The files: a name and its bytes, or the size of a sparse file."""
    yield from _large()
    yield from _pages()
    yield from _archives()
    yield from _pdfs()
    yield from _texts()


def _large() -> Iterator[tuple[str, bytes | int]]:
    for suffix in (".txt", ".md", ".html", ".pdf", ".docx", ".epub", ".csv", ".xlsx", ".pptx"):
        yield f"sparse{suffix}", 20 << 30


def _pages() -> Iterator[tuple[str, bytes]]:
    for size in (80_000, 2_000_000):
        yield f"blanks-{size}.html", b"<p>x" + b" " * size + b"y"
        yield f"unclosed-{size}.html", b"<a href='" * (size // 9)
        yield f"open-{size}.html", b"<" * size
        yield f"entities-{size}.html", b"&amp" * (size // 4)
        yield f"comments-{size}.html", b"<!--" * (size // 4)
        yield f"attributes-{size}.html", b"<p " + b"a=1 " * (size // 4) + b">x"
        yield f"doctype-{size}.html", b"<!DOCTYPE " * (size // 10) + b"<p>x"
        yield f"script-{size}.html", b"<script>" * (size // 8)
    for tag in (b"div", b"b", b"table", b"ul><li", b"blockquote", b"span", b"sup", b"ruby", b"svg", b"select", b"a"):
        yield f"nested-{tag.decode()[:2]}.html", b"<" + tag + b">" + (b"<" + tag + b">") * 30_000 + b"x"
    for span in (b"1000000", b"-1", b"99999999999999999999"):
        yield f"span-{span.decode()}.html", b"<table><tr><td rowspan=%s colspan=%s>x<td>y</table>" % (span, span)
    yield "cells.html", b"<table>" + b"<tr>" + b"<td colspan=1000 rowspan=1000>x" * 500 + b"</table>"


def _archives() -> Iterator[tuple[str, bytes]]:
    zeros = b"\0" * (1 << 20)
    for name, parts in (("one", 1024), ("many", 64)):
        yield (
            f"bomb-{name}.docx",
            _zip(
                {"word/document.xml": zeros * parts}
                if name == "one"
                else {f"word/{n}.xml": zeros for n in range(parts * 16)}
            ),
        )
    document = seeds()[".docx"][0]
    yield "unused.docx", _with_member(document, "word/media/unused.bin", zeros * 1024)
    yield "members.docx", _with_members(document, 200_000)
    for depth in (1_000, 20_000, 200_000):
        body = f"<w:tbl {_W}><w:tr><w:tc>" * depth
        yield (
            f"nested-{depth}.docx",
            _replaced(document, "word/document.xml", f"<w:document {_W}><w:body>{body}".encode()),
        )
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]><x>&l9;</x>'.encode()
    outside = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY o SYSTEM "file:///etc/passwd">]><x>&o;</x>'
    for suffix, member in (
        (".docx", "word/document.xml"),
        (".xlsx", "xl/workbook.xml"),
        (".pptx", "ppt/presentation.xml"),
    ):
        whole = seeds()[suffix][0]
        for name, text in (("laughs", bomb), ("outside", outside), ("empty", b""), ("zeros", zeros)):
            yield f"{name}{suffix}", _replaced(whole, member, text)
    book = seeds()[".epub"][0]
    for name, text in (("laughs", bomb), ("outside", outside)):
        for member in ("META-INF/container.xml", "OEBPS/b.opf", "OEBPS/a.xhtml"):
            yield f"{name}-{member.rpartition('/')[2]}.epub", _replaced(book, member, text)
    spine = b'<itemref idref="a"/>' * 10_000
    opf = b'<package><manifest><item id="a" href="a.xhtml"/></manifest><spine>' + spine + b"</spine></package>"
    yield "one page often.epub", _replaced(book, "OEBPS/b.opf", opf)
    large = _replaced(book, "OEBPS/a.xhtml", b"<p>" + b"word " * 200_000)
    yield "one long page often.epub", _replaced(large, "OEBPS/b.opf", opf)
    for href in (b"../../../etc/passwd", b"/etc/passwd", b"file:///etc/passwd", b"http://127.0.0.1:9/x", b"a.xhtml%00"):
        yield (
            f"href-{len(href)}.epub",
            _replaced(book, "OEBPS/b.opf", opf.replace(b"a.xhtml", href).replace(spine, b'<itemref idref="a"/>')),
        )
    yield "itself.epub", _with_member(book, "OEBPS/inner.epub", book * 100)
    cell = b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    sheet = b'<worksheet xmlns="%s"><sheetData>%s</sheetData></worksheet>' % (_S, cell)
    yield "far.xlsx", _replaced(seeds()[".xlsx"][0], "xl/worksheets/sheet1.xml", sheet)
    lying = bytearray(_zip({"word/document.xml": zeros * 64}))
    at = lying.find(b"PK\x01\x02")
    lying[at + 24 : at + 28] = struct.pack("<I", 10)
    yield "lying.docx", bytes(lying)
    yield "huge directory.docx", document[:-4] + b"\xff\xff\xff\xff"


def _pdfs() -> Iterator[tuple[str, bytes]]:
    packed = zlib.compress(b"\0" * (256 << 20), 9)
    for filters, data in (("/FlateDecode", packed), ("[/FlateDecode /FlateDecode]", zlib.compress(packed, 9))):
        yield (
            f"flate-{len(filters)}.pdf",
            _pdf_with(b"<</Length %d/Filter %s>>stream\n" % (len(data), filters.encode()) + data + b"\nendstream"),
        )
    yield "loop.pdf", _pdf_of({1: b"<</Type/Catalog/Pages 2 0 R>>", 2: b"<</Type/Pages/Count 9/Kids[2 0 R]>>"})
    yield "count.pdf", _pdf_of({1: b"<</Type/Catalog/Pages 2 0 R>>", 2: b"<</Type/Pages/Count 999999999/Kids[]>>"})
    yield "self.pdf", _pdf_with(b"<</Length 3 0 R>>stream\n(x) Tj\nendstream")
    resources = b"/Resources<</XObject<</A 4 0 R>>>>"
    form = b"<</Type/XObject/Subtype/Form/BBox[0 0 1 1]%s/Length 5>>stream\n/A Do\nendstream" % resources
    yield "form in itself.pdf", _pdf_with(form)
    yield "arrays.pdf", _pdf_with(b"[" * 100_000)
    yield "dictionaries.pdf", _pdf_with(b"<</A" * 100_000)
    yield "names.pdf", b"%PDF-1.7\n" + b"/#20" * 500_000
    yield "objects.pdf", b"%PDF-1.7\n" + b"1 0 obj<<>>endobj\n" * 100_000
    yield (
        "xref.pdf",
        b"%PDF-1.7\nxref\n0 99999999999\ntrailer<</Size 99999999999/Root 1 0 R/Prev 9>>startxref\n9\n%%EOF",
    )
    operators = b"BT " + b"(x) Tj " * 200_000 + b"ET"
    yield "operators.pdf", _pdf_with(b"<</Length %d>>stream\n" % len(operators) + operators + b"\nendstream")


def _texts() -> Iterator[tuple[str, bytes]]:
    for mark in (b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        yield f"half a unit-{mark.hex()}.txt", mark + b"a\0b"
    yield "two tables of contents.pptx", seeds()[".pptx"][0] * 2
    yield "escape sequences.txt", b"\x1b$B" * 200_000
    yield "one line.txt", b"a" * 30_000_000
    yield "escapes.txt", b"\x1b[2J\x1b]0;x\x07 text " * 1000
    yield "bidi.txt", "\u202etxt.exe \u2066 text".encode() * 1000
    yield "combining.txt", ("e" + "\u0301" * 200_000).encode()
    yield "quotes.csv", b'"' * 3_000_000
    yield "columns.csv", b"," * 3_000_000
    yield "rows.csv", b"\n" * 3_000_000
    yield "half.txt", bytes(range(128, 256)) * 20_000
    yield "utf7.html", b"<meta charset=utf-7><p>+ADw-script+AD4-"
    yield "replacement.html", b"<meta charset=iso-2022-kr><p>text"


def _zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _members(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _replaced(raw: bytes, name: str, content: bytes) -> bytes:
    return _zip(_members(raw) | {name: content})


def _with_member(raw: bytes, name: str, content: bytes) -> bytes:
    return _zip(_members(raw) | {name: content})


def _with_members(raw: bytes, count: int) -> bytes:
    return _zip(_members(raw) | {f"x/{number}": b"" for number in range(count)})


def _pdf_of(objects: dict[int, bytes]) -> bytes:
    """A PDF of these objects, without a table of where they lie."""
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (number, content) for number, content in objects.items())
    return b"%PDF-1.7\n" + body + b"trailer<</Root 1 0 R/Size %d>>\n%%%%EOF" % (len(objects) + 1)


def _pdf_with(content: bytes) -> bytes:
    """A PDF of one page with this content stream."""
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<</XObject<</A 4 0 R>>>>>>"
    pages = b"<</Type/Pages/Count 1/Kids[3 0 R]>>"
    return _pdf_of({1: b"<</Type/Catalog/Pages 2 0 R>>", 2: pages, 3: page, 4: content})
