"""WordprocessingML to HTML.

Readers made for showing a document drop what this one is for: text boxes, numbers of paragraphs,
moved text, symbols, mathematics. So everything is read that is not known to be no text, and what
cannot be read is counted.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from longreach.corpus.documents.encodings.decode import decode_html
from longreach.corpus.documents.office.cursor import Place
from longreach.corpus.documents.office.fields import field_codes
from longreach.corpus.documents.office.formulas import MATH, to_latex
from longreach.corpus.documents.office.numbering import Numbering, W, value, whole
from longreach.corpus.documents.office.package import COMPATIBILITY, RELATIONSHIP, Link, Package
from longreach.corpus.documents.office.styles import Styles

if TYPE_CHECKING:
    from lxml.etree import _Element

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_CHART = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
_DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
_OFFICE = "{urn:schemas-microsoft-com:office:office}"
_VML = "{urn:schemas-microsoft-com:vml}"
_PLACE = "{http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing}"
# Properties, codes of fields, and what a tracked change has taken away.
_OMITTED = frozenset(
    W + name
    for name in (
        "del",
        "moveFrom",
        "delText",
        "delInstrText",
        "instrText",
        "pPr",
        "rPr",
        "tblPr",
        "tblPrEx",
        "tblGrid",
    )
) | frozenset(
    W + name
    for name in (
        "trPr",
        "tcPr",
        "sectPr",
        "sdtPr",
        "sdtEndPr",
        "smartTagPr",
        "customXmlPr",
        "rubyPr",
    )
)
_NEW_CHART = "{http://schemas.microsoft.com/office/drawing/2014/chartex}chart"
# Beside a chart of the newer kind stands a text for older programs that it cannot be shown.
_TEXTS = (W + "t", _A + "t", MATH + "t", _NEW_CHART)
_LONGEST_SPAN = 1000


class Writer:
    """Reads parts of a document, one after the other, into HTML elements.

    Attributes:
        lost: How often something of a kind was met that cannot be read.
        notes: The footnotes and endnotes referred to so far, in order, as kind and id.
    """

    def __init__(self, package: Package, styles: Styles, numbering: Numbering) -> None:
        self.lost: Counter[str] = Counter()
        self.notes: list[tuple[str, str]] = []
        self._package = package
        self._styles = styles
        self._numbering = numbering
        self._links: dict[str, Link] = {}
        self._codes: set[Any] = set()
        self._place = Place(None)
        self._label = ""
        self._font = ""
        self._handlers: dict[str, Callable[[_Element], None]] = {
            W + "p": self._paragraph,
            W + "r": self._run,
            W + "t": self._text,
            W + "tab": lambda _: self._say("\t"),
            W + "ptab": lambda _: self._say("\t"),
            W + "br": lambda _: self._break(),
            W + "cr": lambda _: self._break(),
            W + "noBreakHyphen": lambda _: self._say("\u2011"),
            W + "softHyphen": lambda _: self._say("\u00ad"),
            W + "sym": self._symbol,
            W + "fldChar": self._field,
            W + "hyperlink": self._hyperlink,
            W + "tbl": self._table,
            W + "ruby": self._ruby,
            W + "footnoteReference": self._note,
            W + "endnoteReference": self._note,
            W + "txbxContent": self._box,
            W + "altChunk": self._inserted,
            W + "subDoc": lambda _: self._lose("subdocument"),
            COMPATIBILITY + "AlternateContent": self._alternative,
            MATH + "oMath": lambda element: self._formula(element, "$"),
            MATH + "oMathPara": self._formulas,
            _A + "p": self._drawn_paragraph,
            _CHART + "chart": lambda _: self._lose("chart"),
            _NEW_CHART: lambda _: self._lose("chart"),
            _DIAGRAM + "relIds": self._diagram,
            _PLACE + "docPr": lambda element: self._alternative_text(element.get("descr", "")),
            _VML + "textpath": self._word_art,
            _OFFICE + "OLEObject": lambda element: self._lose(
                f"embedded object ({element.get('ProgID', 'unknown')})"
            ),
        }

    def read(self, root: "_Element", part: str, block: "_Element", label: str = "") -> None:
        """Appends what an element of a part holds to `block`.

        A label stands before its first paragraph.
        """
        self._links = self._package.links(part)
        self._codes = field_codes(root)
        self._label = label
        self._within(root, block)
        self._label = ""

    def _within(self, element: "_Element", block: "_Element") -> None:
        outer = self._place
        self._place = Place(block)
        self._visit(element)
        self._place.close()
        self._place = outer

    def _visit(self, element: "_Element") -> None:
        for child in element:
            handler = self._handlers.get(child.tag)
            if handler is not None:
                handler(child)
            elif isinstance(child.tag, str) and child.tag not in _OMITTED:
                self._visit(child)

    def _visit_box(self, box: "_Element") -> None:
        self._handlers.get(box.tag, self._visit)(box)

    # Blocks

    def _paragraph(self, element: "_Element") -> None:
        properties = element.find(W + "pPr")
        place = self._place
        if place.joined:
            place.joined = False
        else:
            self._open_paragraph(properties)
        if self._label:
            self._say(self._label + " ")
            self._label = ""
        self._visit(element)
        mark = None if properties is None else properties.find(W + "rPr")
        if mark is not None and (
            mark.find(W + "del") is not None or mark.find(W + "moveFrom") is not None
        ):
            # Without its mark a paragraph runs on into the next one.
            place.joined = True
            return
        place.close()
        for box in place.take_boxes():
            self._visit_box(box)
            place.close()

    def _open_paragraph(self, properties: "_Element | None") -> None:
        look = self._styles.paragraph(properties)
        rule = self._numbering.rule(look.list_number, look.level) if look.list_number else None
        if rule is not None and rule.is_bullet:
            self._place.open_item(look.level)
            return
        self._place.open(f"h{look.heading}" if look.heading else "p")
        if rule is not None:
            number = self._numbering.count(look.list_number, look.level)
            self._say(number + " " if number else "")

    def _table(self, element: "_Element") -> None:
        from lxml.etree import SubElement

        self._place.close()
        table = SubElement(self._place.block, "table")
        self._place.end_lists()
        # For each column, the cell that one further down may continue.
        above: dict[int, _Element] = {}
        for row in _members(element, "tr"):
            properties = row.find(W + "trPr")
            if properties is not None and properties.find(W + "del") is not None:
                continue
            line = SubElement(table, "tr")
            kind = "td"
            if properties is not None and properties.find(W + "tblHeader") is not None:
                kind = "th"
            column = _skip(line, value(properties, "gridBefore"))
            for cell in _members(row, "tc"):
                look = cell.find(W + "tcPr")
                span = min(max(whole(value(look, "gridSpan"), 1), 1), _LONGEST_SPAN)
                merge = None if look is None else look.find(W + "vMerge")
                if merge is not None and merge.get(f"{W}val") != "restart" and column in above:
                    first = above[column]
                    first.set("rowspan", str(int(first.get("rowspan", "1")) + 1))
                elif value(look, "hMerge") == "continue" and len(line):
                    line[-1].set("colspan", str(int(line[-1].get("colspan", "1")) + span))
                else:
                    made = SubElement(line, kind)
                    if span > 1:
                        made.set("colspan", str(span))
                    self._within(cell, made)
                    above.pop(column, None)
                    if merge is not None:
                        above[column] = made
                column += span
            _skip(line, value(properties, "gridAfter"))

    def _inserted(self, element: "_Element") -> None:
        from lxml import html

        link = self._links.get(element.get(RELATIONSHIP + "id", ""))
        raw = None if link is None or link.external else self._package.read(link.target)
        if (
            link is None
            or raw is None
            or not link.target.lower().endswith((".html", ".htm", ".xhtml", ".txt"))
        ):
            self._lose("inserted file")
            return
        text = decode_html(raw, link.target)
        if link.target.lower().endswith(".txt"):
            self._place.open("p")
            self._say(text)
        else:
            body = html.document_fromstring(
                text.encode(), parser=html.HTMLParser(encoding="utf-8")
            ).find("body")
            self._place.close()
            self._place.block.extend(() if body is None else [body])
        self._place.close()

    # Pieces of a line

    def _run(self, element: "_Element") -> None:
        properties = element.find(W + "rPr")
        look = self._styles.run(properties)
        if look.hidden:
            if any(text.text for text in element.iter(W + "t")):
                self._lose("hidden text")
            return
        fonts = None if properties is None else properties.find(W + "rFonts")
        self._font = "" if fonts is None else fonts.get(f"{W}ascii", fonts.get(f"{W}hAnsi", ""))
        marks = [
            {"superscript": "sup", "subscript": "sub"}.get(look.vertical),
            "s" if look.struck else None,
        ]
        entered = [mark for mark in marks if mark]
        for mark in entered:
            self._place.enter(mark)
        self._visit(element)
        for _ in entered:
            self._place.leave()

    def _text(self, element: "_Element") -> None:
        if element in self._codes:
            return
        text = element.text or ""
        if any("\uf000" <= character <= "\uf0ff" for character in text):
            text = "".join(self._from_symbol_font(character, self._font) for character in text)
        self._say(text)

    def _symbol(self, element: "_Element") -> None:
        code = element.get(f"{W}char", "")
        try:
            character = chr(int(code, 16))
        except (ValueError, OverflowError):
            self._lose("symbol")
            return
        self._say(self._from_symbol_font(character, element.get(f"{W}font", "")))

    def _from_symbol_font(self, character: str, font: str) -> str:
        """Returns the character that a place in a font of symbols shows."""
        from mammoth.docx.dingbats import dingbats

        code = ord(character)
        known = dingbats.get((font, code - 0xF000 if 0xF000 <= code <= 0xF0FF else code))
        if known is not None:
            return chr(known)
        if 0xE000 <= code <= 0xF8FF or 0xD800 <= code < 0xE000:
            self._lose(f"symbol of the font {font or 'that is not named'}")
            return ""
        return character

    def _field(self, element: "_Element") -> None:
        # The older kind of form keeps what was ticked or chosen in the field itself.
        box = element.find(f"{W}ffData/{W}checkBox")
        if box is not None:
            checked = box.find(W + "checked")
            chosen = box.find(W + "default") if checked is None else checked
            on = chosen is not None and chosen.get(f"{W}val", "1") not in ("0", "false")
            self._say("☒" if on else "☐")
        choices = element.find(f"{W}ffData/{W}ddList")
        if choices is not None:
            entries = [entry.get(f"{W}val", "") for entry in choices.iter(W + "listEntry")]
            chosen_index = whole(value(choices, "result") or value(choices, "default"), 0)
            if 0 <= chosen_index < len(entries):
                self._say(entries[chosen_index])

    def _hyperlink(self, element: "_Element") -> None:
        link = self._links.get(element.get(RELATIONSHIP + "id", ""))
        if link is None or not link.external:
            self._visit(element)
            return
        self._place.enter("a", href=link.target)
        self._visit(element)
        self._place.leave()

    def _ruby(self, element: "_Element") -> None:
        for base in element.iter(W + "rubyBase"):
            self._visit(base)
        for reading in element.iter(W + "rt"):
            self._say("(")
            self._visit(reading)
            self._say(")")

    def _note(self, element: "_Element") -> None:
        kind = "footnote" if element.tag == W + "footnoteReference" else "endnote"
        self.notes.append((kind, element.get(f"{W}id", "")))
        self._say(f"[{len(self.notes)}]")

    def _alternative(self, element: "_Element") -> None:
        """Reads the first of several alternatives that holds text, else the first."""
        ways = [way for way in element if isinstance(way.tag, str)]
        for way in ways:
            if next(way.iter(*_TEXTS), None) is not None:
                self._visit(way)
                return
        if ways:
            self._visit(ways[0])

    def _formulas(self, element: "_Element") -> None:
        for formula in element.iter(MATH + "oMath"):
            self._formula(formula, "$$")

    def _formula(self, element: "_Element", sign: str) -> None:
        latex = to_latex(element)
        if latex:
            self._say(f"{sign}{latex}{sign}")

    # What stands beside the text

    def _box(self, element: "_Element") -> None:
        if self._place.has_line:
            self._place.boxes.append(element)
        else:
            self._visit(element)

    def _drawn_paragraph(self, element: "_Element") -> None:
        if self._place.has_line:
            self._place.boxes.append(element)
            return
        self._place.open("p")
        for piece in element.iter(_A + "t", _A + "br"):
            self._say(" " if piece.tag == _A + "br" else piece.text or "")
        self._place.close()

    def _diagram(self, element: "_Element") -> None:
        link = self._links.get(element.get(RELATIONSHIP + "dm", ""))
        root = None if link is None or link.external else self._package.tree(link.target)
        if root is None:
            self._lose("diagram")
        else:
            self._box(root)

    def _word_art(self, element: "_Element") -> None:
        text = element.get("string", "")
        if text.strip():
            self._say(f" {text} ")

    def _alternative_text(self, text: str) -> None:
        if text.strip():
            self._place.enter("img", alt=" ".join(text.split()))
            self._place.leave()

    def _lose(self, what: str) -> None:
        self.lost[what] += 1

    def _say(self, text: str) -> None:
        self._place.say(text)

    def _break(self) -> None:
        self._place.enter("br")
        self._place.leave()


def _members(element: "_Element", name: str) -> "list[_Element]":
    """Yields the rows of a table or the cells of a row.

    Those in content controls and tracked insertions count too.
    """
    found: list[_Element] = []
    for child in element:
        if child.tag == W + name:
            found.append(child)
        elif isinstance(child.tag, str) and child.tag not in _OMITTED and child.tag != W + "tbl":
            found += _members(child, name)
    return found


def _skip(row: "_Element", count: str) -> int:
    from lxml.etree import SubElement

    skipped = min(max(whole(count, 0), 0), _LONGEST_SPAN)
    if skipped:
        SubElement(row, "td", {"colspan": str(skipped)} if skipped > 1 else {})
    return skipped
