"""WordprocessingML to HTML.

Readers made for showing a document drop what this one is for: text boxes, numbers of paragraphs,
moved text, symbols, mathematics. So everything is read that is not known to be no text, and what
cannot be read is counted.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from longreach.corpus.documents.encodings.decode import decode_html
from longreach.corpus.documents.office.cursor import WritingPlace
from longreach.corpus.documents.office.fields import find_codes
from longreach.corpus.documents.office.formulas import to_latex
from longreach.corpus.documents.office.names import (
    CHART,
    DIAGRAM,
    DRAWING,
    MATH,
    NEW_CHART,
    OFFICE,
    OMITTED,
    TEXTS,
    VML,
    WORD_DRAWING,
    W,
)
from longreach.corpus.documents.office.numbering import Numbering
from longreach.corpus.documents.office.package import (
    COMPATIBILITY,
    RELATIONSHIP,
    Link,
    Package,
    read_text,
)
from longreach.corpus.documents.office.properties import find_child, is_on, parse_whole, read_value
from longreach.corpus.documents.office.styles import Styles
from longreach.corpus.documents.office.symbols import UnknownSymbol, decode_symbol
from longreach.corpus.documents.office.table import write_table

if TYPE_CHECKING:
    from lxml.etree import _Element

_INSERTED = (".html", ".htm", ".xhtml", ".txt")
_PRIVATE_USE = re.compile("[\uf000-\uf0ff]")
_VERTICAL = {"superscript": "sup", "subscript": "sub"}


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
        self._place = WritingPlace(None)
        self._label = ""
        self._font = ""
        self._handlers: dict[str, Callable[[_Element], None]] = {
            W + "p": self._read_paragraph,
            W + "r": self._read_run,
            W + "t": self._read_text,
            W + "tab": lambda _: self._say("\t"),
            W + "ptab": lambda _: self._say("\t"),
            W + "br": lambda _: self._break(),
            W + "cr": lambda _: self._break(),
            W + "noBreakHyphen": lambda _: self._say("\u2011"),
            W + "softHyphen": lambda _: self._say("\u00ad"),
            W + "sym": self._read_symbol,
            W + "fldChar": self._read_field,
            W + "hyperlink": self._read_hyperlink,
            W + "tbl": self._read_table,
            W + "ruby": self._read_ruby,
            W + "footnoteReference": self._read_note,
            W + "endnoteReference": self._read_note,
            W + "txbxContent": self._read_box,
            W + "altChunk": self._read_inserted,
            W + "subDoc": lambda _: self._lose("subdocument"),
            COMPATIBILITY + "AlternateContent": self._read_alternative,
            MATH + "oMath": lambda element: self._read_formula(element, "$"),
            MATH + "oMathPara": self._read_formulas,
            DRAWING + "p": self._read_drawn_paragraph,
            CHART + "chart": lambda _: self._lose("chart"),
            NEW_CHART: lambda _: self._lose("chart"),
            DIAGRAM + "relIds": self._read_diagram,
            WORD_DRAWING + "docPr": self._describe,
            VML + "textpath": self._read_word_art,
            OFFICE + "OLEObject": self._count_embedded,
        }

    def read(self, root: "_Element", part: str, block: "_Element", label: str = "") -> None:
        """Appends what an element of a part holds to `block`.

        A label stands before its first paragraph.
        """
        self._links = self._package.read_links(part)
        # Before the walk, because the end of a code is told by what follows it.
        self._codes = find_codes(root)
        self._label = label
        self._read_into(root, block)
        self._label = ""

    # A cell has lines of its own, while a line of the text around the table may be open.
    def _read_into(self, element: "_Element", block: "_Element") -> None:
        outer = self._place
        self._place = WritingPlace(block)
        self._visit(element)
        self._place.close()
        self._place = outer

    def _visit(self, element: "_Element") -> None:
        for child in element:
            # An element that nobody knows may hold text: it is read, and not omitted.
            handler = self._handlers.get(child.tag)
            if handler is not None:
                handler(child)
            elif isinstance(child.tag, str) and child.tag not in OMITTED:
                self._visit(child)

    def _visit_box(self, box: "_Element") -> None:
        self._handlers.get(box.tag, self._visit)(box)

    # Blocks

    def _read_paragraph(self, element: "_Element") -> None:
        properties = element.find(W + "pPr")
        place = self._place
        if place.joined:
            place.joined = False
        else:
            self._open_paragraph(properties)
        # The label belongs to the first paragraph, and a note may begin with a table.
        if self._label:
            self._say(self._label + " ")
            self._label = ""
        self._visit(element)
        mark = find_child(properties, "rPr")
        for change in ("del", "moveFrom"):
            if find_child(mark, change) is not None:
                # Without its mark a paragraph runs on into the next one.
                place.joined = True
                return
        place.close()
        # Text boxes are anchored in a paragraph, but would cut its sentence in two.
        for box in place.take_boxes():
            self._visit_box(box)
            place.close()

    def _open_paragraph(self, properties: "_Element | None") -> None:
        look = self._styles.describe_paragraph(properties)
        rule = None
        if look.list_number:
            rule = self._numbering.find_rule(look.list_number, look.level)
        if rule is not None and rule.is_bullet:
            self._place.open_item(look.level)
            return
        # A heading may be numbered, too: then the number stands in it.
        self._place.open(f"h{look.heading}" if look.heading else "p")
        if rule is not None:
            number = self._numbering.count(look.list_number, look.level)
            if number:
                self._say(number + " ")

    def _read_table(self, element: "_Element") -> None:
        from lxml.etree import SubElement

        self._place.close()
        table = SubElement(self._place.block, "table")
        # An item after the table is not the next one of the list before it.
        self._place.end_lists()
        write_table(element, table, self._read_into)

    def _read_inserted(self, element: "_Element") -> None:
        from lxml import html

        link = self._links.get(element.get(RELATIONSHIP + "id", ""))
        raw = None
        if link is not None and not link.external:
            raw = self._package.read(link.target)
        if link is None or raw is None or not link.target.lower().endswith(_INSERTED):
            self._lose("inserted file")
            return
        text = decode_html(raw, link.target)
        if link.target.lower().endswith(".txt"):
            self._place.open("p")
            self._say(text)
        else:
            parser = html.HTMLParser(encoding="utf-8")
            # Parsed as HTML, so that its headings and tables become those of the text.
            body = html.document_fromstring(text.encode(), parser=parser).find("body")
            self._place.close()
            if body is not None:
                self._place.block.append(body)
        self._place.close()

    # Pieces of a line

    def _read_run(self, element: "_Element") -> None:
        properties = element.find(W + "rPr")
        look = self._styles.describe_run(properties)
        if look.hidden:
            # A run without text, such as the mark of a page break, loses nothing.
            if read_text(element, W + "t"):
                self._lose("hidden text")
            return
        # Characters of a run may be places in a font of symbols.
        fonts = find_child(properties, "rFonts")
        self._font = ""
        if fonts is not None:
            self._font = fonts.get(f"{W}ascii", fonts.get(f"{W}hAnsi", ""))
        marks = []
        if look.vertical in _VERTICAL:
            marks.append(_VERTICAL[look.vertical])
        if look.struck:
            marks.append("s")
        for mark in marks:
            self._place.enter(mark)
        self._visit(element)
        for _ in marks:
            self._place.leave()

    def _read_text(self, element: "_Element") -> None:
        if element in self._codes:
            return
        text = element.text or ""
        # Fonts of symbols put them into the private use area of Unicode.
        if not _PRIVATE_USE.search(text):
            self._say(text)
            return
        for character in text:
            self._say_symbol(character, self._font)

    def _read_symbol(self, element: "_Element") -> None:
        code = element.get(f"{W}char", "")
        try:
            character = chr(int(code, 16))
        except (ValueError, OverflowError):
            self._lose("symbol")
            return
        self._say_symbol(character, element.get(f"{W}font", ""))

    def _say_symbol(self, character: str, font: str) -> None:
        try:
            self._say(decode_symbol(character, font))
        except UnknownSymbol as unknown:
            self._lose(str(unknown))

    def _read_field(self, element: "_Element") -> None:
        # The older kind of form keeps what was ticked or chosen in the field itself.
        box = element.find(f"{W}ffData/{W}checkBox")
        if box is not None:
            chosen = box.find(W + "checked")
            if chosen is None:
                chosen = box.find(W + "default")
            self._say("☒" if is_on(chosen) else "☐")
        choices = element.find(f"{W}ffData/{W}ddList")
        if choices is not None:
            entries = [entry.get(f"{W}val", "") for entry in choices.iter(W + "listEntry")]
            index = read_value(choices, "result") or read_value(choices, "default")
            chosen_index = parse_whole(index, 0)
            if 0 <= chosen_index < len(entries):
                self._say(entries[chosen_index])

    def _read_hyperlink(self, element: "_Element") -> None:
        link = self._links.get(element.get(RELATIONSHIP + "id", ""))
        if link is None or not link.external:
            self._visit(element)
            return
        self._place.enter("a", href=link.target)
        self._visit(element)
        self._place.leave()

    def _read_ruby(self, element: "_Element") -> None:
        # As in pages of HTML: the base, then how it is read.
        for base in element.iter(W + "rubyBase"):
            self._visit(base)
        for reading in element.iter(W + "rt"):
            self._say("(")
            self._visit(reading)
            self._say(")")

    def _read_note(self, element: "_Element") -> None:
        # The text of the note follows at the end, behind the same number.
        kind = "footnote" if element.tag == W + "footnoteReference" else "endnote"
        self.notes.append((kind, element.get(f"{W}id", "")))
        self._say(f"[{len(self.notes)}]")

    def _read_alternative(self, element: "_Element") -> None:
        """Reads the first of several alternatives that holds text, else the first."""
        ways = [way for way in element if isinstance(way.tag, str)]
        for way in ways:
            if next(way.iter(*TEXTS), None) is not None:
                self._visit(way)
                return
        if ways:
            self._visit(ways[0])

    def _read_formulas(self, element: "_Element") -> None:
        for formula in element.iter(MATH + "oMath"):
            self._read_formula(formula, "$$")

    def _read_formula(self, element: "_Element", sign: str) -> None:
        latex = to_latex(element)
        if latex:
            self._say(f"{sign}{latex}{sign}")

    # What stands beside the text

    def _read_box(self, element: "_Element") -> None:
        if self._place.has_line:
            self._place.boxes.append(element)
        else:
            self._visit(element)

    def _read_drawn_paragraph(self, element: "_Element") -> None:
        if self._place.has_line:
            self._place.boxes.append(element)
            return
        self._place.open("p")
        for piece in element.iter(DRAWING + "t", DRAWING + "br"):
            if piece.tag == DRAWING + "br":
                self._say(" ")
            else:
                self._say(piece.text or "")
        self._place.close()

    def _read_diagram(self, element: "_Element") -> None:
        link = self._links.get(element.get(RELATIONSHIP + "dm", ""))
        root = None
        if link is not None and not link.external:
            root = self._package.parse_part(link.target)
        if root is None:
            self._lose("diagram")
        else:
            self._read_box(root)

    def _read_word_art(self, element: "_Element") -> None:
        text = element.get("string", "")
        if text.strip():
            self._say(f" {text} ")

    def _describe(self, element: "_Element") -> None:
        text = element.get("descr", "")
        if text.strip():
            self._place.enter("img", alt=" ".join(text.split()))
            self._place.leave()

    def _count_embedded(self, element: "_Element") -> None:
        self._lose(f"embedded object ({element.get('ProgID', 'unknown')})")

    def _lose(self, what: str) -> None:
        self.lost[what] += 1

    def _say(self, text: str) -> None:
        self._place.say(text)

    def _break(self) -> None:
        self._place.enter("br")
        self._place.leave()
