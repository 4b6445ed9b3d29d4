"""Mutated documents of every format: each is read, or refused with one sentence that names it."""

import io
import random
import zipfile
from pathlib import Path

import docx
import openpyxl
import pptx
from reportlab.pdfgen import canvas

from longreach.corpus.documents.convert import read
from longreach.corpus.documents.limits import Limits
from tests.fuzz.mutation import damaged, damaged_archive
from tests.fuzz.tally import Clock, Tally, sentence_problem

LIMITS = Limits(seconds=20)
_LINE = "The tenant shall give ninety days of notice. "
_HTML = (
    "<html><head><meta charset='utf-8'><title>Lease</title></head><body><h1>Lease</h1><p>The <b>tenant</b> pays 10"
    "<sup>3</sup> é.<table><tr><th>A<th>B<tr><td rowspan=2>1<td>2<tr><td>3</table><ul><li>one<li>two</ul></body></html>"
)


def seeds() -> dict[str, list[bytes]]:
    """Whole documents by suffix, made here."""
    return {
        ".txt": [
            (_LINE * 20).encode(),
            "Az első szerződő fél a bérlő.".encode("cp1250"),
            "Договор аренды квартиры. ".encode("cp1251") * 9,
            "契約書の内容は次の通りです。".encode("iso-2022-jp") * 5,
            (_LINE * 5).encode("utf-16"),
        ],
        ".html": [_HTML.encode(), _HTML.replace("utf-8", "shift_jis").encode("cp932", "replace")],
        ".csv": [b'name,days\nnotice,90\n"a, b",1\n' * 5],
        ".docx": [_docx()],
        ".xlsx": [_xlsx()],
        ".pptx": [_pptx()],
        ".epub": [_epub()],
        ".pdf": [_pdf()],
    }


def run(count: int, seed: int, folder: Path) -> Tally:
    """Reads `count` mutated documents."""
    tally, made = Tally("mutated documents"), seeds()
    suffixes = list(made)
    chance = random.Random(seed)
    with Clock(tally):
        for number in range(count):
            suffix = suffixes[number % len(suffixes)]
            raw = chance.choice(made[suffix])
            other = chance.choice(made[chance.choice(suffixes)])
            archive = zipfile.is_zipfile(io.BytesIO(raw))
            change = damaged_archive if archive and chance.random() < 0.7 else damaged
            path = folder / f"document-{number}{suffix}"
            path.write_bytes(change(raw, other, chance))
            tally.attempt(f"seed {seed}, {path.name}", lambda path=path: check(path))
            path.unlink()
    return tally


def check(path: Path) -> str:
    """Reads a document and returns what became of it; notes are whole sentences of one line."""
    text, notes = read(path, LIMITS)
    for note in notes:
        if sentence_problem(note):
            return f"FAILED the note {sentence_problem(note)}: {note!r:.200}"
    return "read, with notes" if notes else "read" if text.strip() else "FAILED no text and no refusal"


def _docx() -> bytes:
    document, out = docx.Document(), io.BytesIO()
    document.add_heading("Lease")
    document.add_paragraph(_LINE * 3)
    table = document.add_table(2, 2)
    table.cell(0, 0).merge(table.cell(1, 0)).text = "merged"
    document.sections[0].header.paragraphs[0].text = "A header"
    document.save(out)
    return out.getvalue()


def _xlsx() -> bytes:
    book, out = openpyxl.Workbook(), io.BytesIO()
    book.active.append(["name", "days"])
    book.active.append(["notice", 90])
    book.active.merge_cells("A3:B3")
    book.save(out)
    return out.getvalue()


def _pptx() -> bytes:
    slides, out = pptx.Presentation(), io.BytesIO()
    slide = slides.slides.add_slide(slides.slide_layouts[1])
    slide.shapes.title.text = "Lease"
    slide.placeholders[1].text = _LINE
    slides.save(out)
    return out.getvalue()


def _epub() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        rootfile = '<rootfile full-path="OEBPS/b.opf" media-type="application/oebps-package+xml"/>'
        archive.writestr("META-INF/container.xml", f"<container><rootfiles>{rootfile}</rootfiles></container>")
        items = '<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/><item id="b" href="b.xhtml"/>'
        spine = '<spine><itemref idref="a"/><itemref idref="b"/></spine>'
        archive.writestr("OEBPS/b.opf", f"<package><metadata/><manifest>{items}</manifest>{spine}</package>")
        archive.writestr("OEBPS/a.xhtml", _HTML)
        archive.writestr("OEBPS/b.xhtml", f"<html><body><p>{_LINE}</p></body></html>")
    return out.getvalue()


def _pdf() -> bytes:
    out = io.BytesIO()
    page = canvas.Canvas(out)
    for number in range(3):
        page.drawString(72, 720, f"Page {number}: {_LINE}")
        page.showPage()
    page.save()
    return out.getvalue()
