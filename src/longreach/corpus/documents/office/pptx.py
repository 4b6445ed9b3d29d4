"""PPTX to text: slides in order, each with its shapes, tables, charts, notes and comments."""

import io
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from longreach.corpus.documents.archive import check_unpacked
from longreach.corpus.documents.base import Converted
from longreach.corpus.documents.html.page import markdown
from longreach.corpus.documents.office.cursor import Place
from longreach.corpus.documents.office.formulas import MATH, to_latex
from longreach.corpus.documents.office.package import (
    COMPATIBILITY,
    RELATIONSHIP,
    opened_package,
    parse,
)

if TYPE_CHECKING:
    from lxml.etree import _Element
    from pptx.slide import Slide

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
_NEW_CHART = "{http://schemas.microsoft.com/office/drawing/2014/chartex}chart"
# Beside a chart of the newer kind stands a text for older programs that it cannot be shown.
_TEXTS = (_A + "t", MATH + "t", _NEW_CHART)


def convert(raw: bytes, name: str) -> Converted:
    """Reads a presentation, hidden slides too; see `Format.convert` for arguments and errors."""
    with opened_package(raw, name, ".pptx") as package:
        from lxml import etree
        from pptx import Presentation

        check_unpacked(package.archive, name)
        page = etree.Element("html")
        writer = _Writer(etree.SubElement(page, "body"))
        for number, slide in enumerate(Presentation(io.BytesIO(raw)).slides, 1):
            writer.read(slide, number)
        text = markdown(etree.tostring(page, encoding="unicode", method="html"))
        return Converted(text, writer.notes())


class _Writer:
    """Reads slides into HTML."""

    def __init__(self, body: "_Element") -> None:
        self._body = body
        self._place = Place(body)
        self._lost: Counter[str] = Counter()
        self._slide: Any = None

    def notes(self) -> tuple[str, ...]:
        """Returns one sentence for each kind of thing that could not be read."""
        return tuple(
            f"{count} {what} is not read." if count == 1 else f"{count} {what}s are not read."
            for what, count in sorted(self._lost.items())
        )

    def read(self, slide: "Slide", number: int) -> None:
        """Appends a slide."""
        self._slide = slide
        _choose_alternatives(slide.element)
        title = slide.shapes.title
        mark = " (hidden)" if slide.element.get("show") in ("0", "false") else ""
        words = " ".join(title.text_frame.text.split()) if title is not None else ""
        self._place.open("h2")
        self._place.say(f"Slide {number}{mark}" + (f": {words}" if words else ""))
        self._place.close()
        self._read_shapes(
            shape for shape in slide.shapes if title is None or shape.shape_id != title.shape_id
        )
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            frame = slide.notes_slide.notes_text_frame
            if frame.text.strip():
                self._read_paragraphs(frame._txBody, "Notes: ")
        self._read_comments()

    def _read_shapes(self, shapes: Iterable[Any]) -> None:
        for shape in sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0)):
            properties = shape._element._nvXxPr.cNvPr
            described = properties.get("descr", "").strip()
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
        for paragraph in frame.iter(_A + "p"):
            self._place.open("p")
            self._place.say(label)
            label = ""
            self._read_pieces(paragraph)
            self._place.close()

    def _read_pieces(self, parent: "_Element") -> None:
        for piece in parent:
            if piece.tag in (_A + "r", _A + "fld"):
                properties = piece.find(_A + "rPr")
                raised = 0
                if (
                    properties is not None
                    and properties.get("baseline", "").lstrip("-").isdecimal()
                ):
                    raised = int(properties.get("baseline", "0"))
                if raised:
                    self._place.enter("sup" if raised > 0 else "sub")
                self._place.say("".join(text.text or "" for text in piece.iter(_A + "t")))
                if raised:
                    self._place.leave()
            elif piece.tag == _A + "br":
                self._place.enter("br")
                self._place.leave()
            elif piece.tag == MATH + "oMath":
                self._place.say(f"${to_latex(piece)}$")
            elif isinstance(piece.tag, str) and piece.tag not in (_A + "pPr", _A + "endParaRPr"):
                self._read_pieces(piece)

    def _read_table(self, table: Any) -> None:
        from lxml.etree import SubElement

        made = SubElement(self._body, "table")
        outer = self._place
        for number, row in enumerate(table.rows):
            line = SubElement(made, "tr")
            for cell in row.cells:
                if cell.is_spanned:
                    continue
                box = SubElement(line, "td" if number or not table.first_row else "th")
                if cell.is_merge_origin:
                    box.set("colspan", str(cell.span_width))
                    box.set("rowspan", str(cell.span_height))
                self._place = Place(box)
                self._read_paragraphs(cell._tc)
        self._place = outer

    def _read_chart(self, chart: Any) -> None:
        from lxml.etree import SubElement

        try:
            title = (
                chart.chart_title.text_frame.text
                if chart.has_title and chart.chart_title.has_text_frame
                else ""
            )
            series = []
            for plot in chart.plots:
                series += [(one.name, list(one.values)) for one in plot.series]
            categories = [
                " / ".join(map(str, levels))
                for levels in chart.plots[0].categories.flattened_labels
            ]
        except MemoryError:
            raise
        except Exception:  # kinds of charts that python-pptx does not know
            self._lost["chart"] += 1
            return
        if title.strip():
            self._place.open("p")
            self._place.say(f"Chart: {title}")
            self._place.close()
        if series and not categories:  # the positions of points are no categories
            self._lost["chart"] += 1
        made = SubElement(self._body, "table")
        rows = [["", *(name or "" for name, _ in series)]]
        for index in range(max([len(categories), *(len(values) for _, values in series)])):
            named = categories[index] if index < len(categories) else ""
            numbers = [values[index] if index < len(values) else None for _, values in series]
            rows.append(
                [named, *("" if number is None else f"{number:.15g}" for number in numbers)]
            )
        for row in rows:
            line = SubElement(made, "tr")
            for text in row:
                SubElement(line, "th" if row is rows[0] else "td").text = text

    def _read_frame(self, element: "_Element") -> None:
        """Reads a diagram; what else has no text is counted if it holds any."""
        for diagram in element.iter(_DIAGRAM + "relIds"):
            try:
                part = self._slide.part.related_part(diagram.get(RELATIONSHIP + "dm", ""))
            except KeyError:
                self._lost["diagram"] += 1
                return
            self._read_paragraphs(parse(part.blob))
        if next(element.iter(_NEW_CHART), None) is not None:
            self._lost["chart"] += 1
        if next(element.iter("{*}oleObj"), None) is not None:
            self._lost["embedded object"] += 1

    def _read_comments(self) -> None:
        for relationship in self._slide.part.rels.values():
            if relationship.is_external or not relationship.reltype.endswith("/comments"):
                continue
            root = parse(relationship.target_part.blob)
            for comment in root.iter("{*}cm"):
                texts = [piece.text or "" for piece in comment.iter("{*}text", "{*}t")]
                if "".join(texts).strip():
                    self._place.open("p")
                    self._place.say(f"Comment: {''.join(texts)}")
                    self._place.close()


def _choose_alternatives(root: "_Element") -> None:
    """Replaces each choice among alternatives by the first with text, else by the first."""
    for alternatives in list(root.iter(COMPATIBILITY + "AlternateContent")):
        parent = alternatives.getparent()
        ways = list(alternatives)
        if parent is None or not ways:
            continue
        chosen = next((way for way in ways if next(way.iter(*_TEXTS), None) is not None), ways[0])
        place = parent.index(alternatives)
        parent.remove(alternatives)
        for child in reversed(list(chosen)):
            parent.insert(place, child)
