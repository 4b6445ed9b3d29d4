"""PPTX to text: slides in order, each with its shapes, tables, charts, notes and comments."""

import io
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from longreach.corpus.documents.archive import check_unpacked
from longreach.corpus.documents.base import Converted
from longreach.corpus.documents.html.page import to_markdown
from longreach.corpus.documents.office.cursor import WritingPlace
from longreach.corpus.documents.office.formulas import to_latex
from longreach.corpus.documents.office.names import DIAGRAM, DRAWING, MATH, NEW_CHART, TEXTS
from longreach.corpus.documents.office.package import (
    COMPATIBILITY,
    RELATIONSHIP,
    open_package,
    parse,
    read_text,
)

if TYPE_CHECKING:
    from lxml.etree import _Element
    from pptx.slide import Slide

_P = DRAWING + "p"
_T = DRAWING + "t"
_RUNS = (DRAWING + "r", DRAWING + "fld")
_PROPERTIES = (DRAWING + "pPr", DRAWING + "endParaRPr")


class _Series(NamedTuple):
    """A row of numbers in a chart."""

    name: str
    values: list[float | None]


class _Chart(NamedTuple):
    """What a chart shows."""

    title: str
    series: list[_Series]
    categories: list[str]


def convert(raw: bytes, name: str) -> Converted:
    """Reads a presentation, hidden slides too; see `Format.convert` for arguments and errors."""
    with open_package(raw, name, ".pptx") as package:
        from lxml import etree
        from pptx import Presentation

        check_unpacked(package.archive, name)
        page = etree.Element("html")
        writer = _Writer(etree.SubElement(page, "body"))
        for number, slide in enumerate(Presentation(io.BytesIO(raw)).slides, 1):
            writer.read(slide, number)
        text = to_markdown(etree.tostring(page, encoding="unicode", method="html"))
        return Converted(text, writer.describe_losses())


class _Writer:
    """Reads slides into HTML."""

    def __init__(self, body: "_Element") -> None:
        self._body = body
        self._place = WritingPlace(body)
        self._lost: Counter[str] = Counter()
        self._slide: Any = None

    def describe_losses(self) -> tuple[str, ...]:
        """Returns one sentence for each kind of thing that could not be read."""
        sentences = []
        for what, count in sorted(self._lost.items()):
            if count == 1:
                sentences.append(f"{count} {what} is not read.")
            else:
                sentences.append(f"{count} {what}s are not read.")
        return tuple(sentences)

    def read(self, slide: "Slide", number: int) -> None:
        """Appends a slide."""
        self._slide = slide
        # python-pptx passes over shapes that stand in alternatives.
        _choose_alternatives(slide.element)
        heading = f"Slide {number}"
        if slide.element.get("show") in ("0", "false"):
            heading += " (hidden)"
        shapes = list(slide.shapes)
        title = slide.shapes.title
        if title is not None:
            words = " ".join(title.text_frame.text.split())
            if words:
                heading += f": {words}"
            shapes = [shape for shape in shapes if shape.shape_id != title.shape_id]
        self._say_line("h2", heading)
        self._read_shapes(shapes)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            frame = slide.notes_slide.notes_text_frame
            if frame.text.strip():
                self._read_paragraphs(frame._txBody, "Notes: ")
        self._read_comments()

    def _say_line(self, tag: str, text: str) -> None:
        self._place.open(tag)
        self._place.say(text)
        self._place.close()

    def _read_shapes(self, shapes: Iterable[Any]) -> None:
        # From the top, then from the left.
        for shape in sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0)):
            properties = shape._element._nvXxPr.cNvPr
            described = properties.get("descr", "").strip()
            # What an image stands for comes before what is in it.
            if described:
                self._place.open("p")
                self._place.enter("img", alt=" ".join(described.split()))
                self._place.close()
            if hasattr(shape, "shapes"):
                self._read_shapes(shape.shapes)
            elif getattr(shape, "has_table", False):
                self._read_table(shape.table)
            elif getattr(shape, "has_chart", False):
                self._read_chart(shape.chart)
            elif shape.has_text_frame:
                self._read_paragraphs(shape.text_frame._txBody)
            else:
                self._read_frame(shape._element)

    def _read_paragraphs(self, frame: "_Element", label: str = "") -> None:
        for paragraph in frame.iter(_P):
            self._place.open("p")
            self._place.say(label)
            label = ""
            self._read_pieces(paragraph)
            self._place.close()

    def _read_pieces(self, parent: "_Element") -> None:
        for piece in parent:
            if piece.tag in _RUNS:
                raised = _read_baseline(piece.find(DRAWING + "rPr"))
                if raised:
                    self._place.enter("sup" if raised > 0 else "sub")
                self._place.say(read_text(piece, _T))
                if raised:
                    self._place.leave()
            elif piece.tag == DRAWING + "br":
                self._place.enter("br")
                self._place.leave()
            elif piece.tag == MATH + "oMath":
                self._place.say(f"${to_latex(piece)}$")
            elif isinstance(piece.tag, str) and piece.tag not in _PROPERTIES:
                self._read_pieces(piece)

    def _read_table(self, table: Any) -> None:
        from lxml.etree import SubElement

        made = SubElement(self._body, "table")
        # Cells have lines of their own.
        outer = self._place
        for number, row in enumerate(table.rows):
            line = SubElement(made, "tr")
            kind = "th" if number == 0 and table.first_row else "td"
            for cell in row.cells:
                # The cell that covers it was written already.
                if cell.is_spanned:
                    continue
                box = SubElement(line, kind)
                if cell.is_merge_origin:
                    box.set("colspan", str(cell.span_width))
                    box.set("rowspan", str(cell.span_height))
                self._place = WritingPlace(box)
                self._read_paragraphs(cell._tc)
        self._place = outer

    def _read_chart(self, chart: Any) -> None:
        from lxml.etree import SubElement

        try:
            read = _read_chart(chart)
        except MemoryError:
            raise
        except Exception:  # kinds of charts that python-pptx does not know
            self._lost["chart"] += 1
            return
        if read.title.strip():
            self._say_line("p", f"Chart: {read.title}")
        if read.series and not read.categories:
            # The positions of points are no categories.
            self._lost["chart"] += 1
        made = SubElement(self._body, "table")
        for number, row in enumerate(_tabulate(read)):
            line = SubElement(made, "tr")
            for text in row:
                SubElement(line, "th" if number == 0 else "td").text = text

    def _read_frame(self, element: "_Element") -> None:
        """Reads a diagram; what else has no text is counted if it holds any."""
        for diagram in element.iter(DIAGRAM + "relIds"):
            try:
                part = self._slide.part.related_part(diagram.get(RELATIONSHIP + "dm", ""))
            except KeyError:
                self._lost["diagram"] += 1
                return
            self._read_paragraphs(parse(part.blob))
        if next(element.iter(NEW_CHART), None) is not None:
            self._lost["chart"] += 1
        if next(element.iter("{*}oleObj"), None) is not None:
            self._lost["embedded object"] += 1

    def _read_comments(self) -> None:
        for relationship in self._slide.part.rels.values():
            if relationship.is_external or not relationship.reltype.endswith("/comments"):
                continue
            root = parse(relationship.target_part.blob)
            for comment in root.iter("{*}cm"):
                text = read_text(comment, "{*}text", "{*}t")
                if text.strip():
                    self._say_line("p", f"Comment: {text}")


def _read_baseline(properties: "_Element | None") -> int:
    """Returns how far a run is raised, below zero if it is lowered."""
    if properties is None:
        return 0
    baseline = properties.get("baseline", "")
    if not baseline.lstrip("-").isdecimal():
        return 0
    return int(baseline)


def _read_chart(chart: Any) -> _Chart:
    title = ""
    if chart.has_title and chart.chart_title.has_text_frame:
        title = chart.chart_title.text_frame.text
    series = []
    for plot in chart.plots:
        for one in plot.series:
            series.append(_Series(one.name or "", list(one.values)))
    categories = []
    for levels in chart.plots[0].categories.flattened_labels:
        categories.append(" / ".join(map(str, levels)))
    return _Chart(title, series, categories)


def _tabulate(chart: _Chart) -> list[list[str]]:
    """Returns a row for each category, below a row of headings."""
    length = max([len(chart.categories), *(len(one.values) for one in chart.series)])
    rows = [["", *(one.name for one in chart.series)]]
    for index in range(length):
        # A series may have more values than there are categories, or fewer.
        row = ["".join(chart.categories[index : index + 1])]
        for one in chart.series:
            number = next(iter(one.values[index : index + 1]), None)
            row.append("" if number is None else f"{number:.15g}")
        rows.append(row)
    return rows


def _choose_alternatives(root: "_Element") -> None:
    """Replaces each choice among alternatives by the first with text, else by the first."""
    for alternatives in list(root.iter(COMPATIBILITY + "AlternateContent")):
        parent = alternatives.getparent()
        ways = list(alternatives)
        if parent is None or not ways:
            continue
        chosen = ways[0]
        for way in ways:
            if next(way.iter(*TEXTS), None) is not None:
                chosen = way
                break
        place = parent.index(alternatives)
        parent.remove(alternatives)
        for child in reversed(list(chosen)):
            parent.insert(place, child)
