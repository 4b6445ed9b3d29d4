"""A walk over the elements of an HTML page that writes its text."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from longreach.corpus.documents.html import tags
from longreach.corpus.documents.html.list import ListNumbering
from longreach.corpus.documents.html.result import HtmlText, normalize_line
from longreach.corpus.documents.html.table import Cell, Table, parse_span
from longreach.corpus.documents.html.writer import TextWriter, enclose, lower_text, raise_text

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_MOST_WRITERS = 200
# What a child of an element of MathML is, by its place.
_SCRIPTS = {
    ("msup", 1): "sup",
    ("msub", 1): "sub",
    ("munder", 1): "sub",
    ("msubsup", 1): "sub",
    ("msubsup", 2): "sup",
    ("munderover", 1): "sub",
    ("munderover", 2): "sup",
    ("mfrac", 0): "fraction-top",
    ("mfrac", 1): "fraction-bottom",
}
_SHOWN_INPUTS = frozenset(
    {"", "text", "search", "email", "tel", "url", "number", "date", "time", "submit", "button"}
)
_ADDRESS = re.compile(r"(?:https?://|ftp://|mailto:|tel:)\S+$", re.IGNORECASE)


@dataclass
class _Open:
    """An open element: how many elements it has had, and what is to be done when it ends."""

    tag: str
    close: Callable[[], None] | None = None
    children: int = 0


@dataclass
class PageWalk:
    """Writes the text of each node it enters; `leave` ends the node that was entered last."""

    _writers: list[TextWriter] = field(default_factory=lambda: [TextWriter()])
    _open: list[_Open] = field(default_factory=list)
    _tables: list[Table] = field(default_factory=list)
    # Of each cell, by the number of writers outside it: whether there is a table in it.
    _with_table: dict[int, bool] = field(default_factory=dict)
    _lists: list[ListNumbering | None] = field(default_factory=list)
    _headings: set[str] = field(default_factory=set)
    _title: str | None = None
    # How many elements of these kinds are open.
    _inside: Counter[str] = field(default_factory=Counter)

    @property
    def _writer(self) -> TextWriter:
        return self._writers[-1]

    def enter(self, node: "LexborNode") -> bool:
        """Begins a node; returns whether the nodes inside it are to be entered too."""
        tag = str(node.tag)
        opened = _Open(tag)
        if tag == "-text":
            self._write(str(node.text_content or ""))
        elif not self._is_unread(tag):
            role = tag
            if self._open:
                parent = self._open[-1]
                # The second child of `<msup>` is what is raised: no tag says so.
                role = _SCRIPTS.get((parent.tag, parent.children), tag)
                parent.children += 1
            opened.close = self._begin(role, node)
            self._open.append(opened)
            return True
        self._open.append(opened)
        return False

    def _is_unread(self, tag: str) -> bool:
        if tag.startswith(("-", "!")) or tag in tags.UNREAD:
            return True
        return tag in ("title", "desc", "metadata") and bool(self._inside["svg"])

    def leave(self) -> None:
        """Ends the node that was entered last."""
        close = self._open.pop().close
        if close is not None:
            close()

    def finish(self) -> HtmlText:
        """Returns what was read."""
        return HtmlText(self._title or "", self._writer.read(), frozenset(self._headings))

    def _write(self, text: str) -> None:
        if self._inside["pre"]:
            self._writer.write_exactly(text)
        elif not self._inside["math"] or text.strip():
            self._writer.write(text)

    def _begin(self, tag: str, node: "LexborNode") -> Callable[[], None] | None:
        """Begins an element; returns what ends it."""
        # Beyond the limit, parts are read like any other element: only made-up pages nest so deep.
        if tag in tags.PARTS and len(self._writers) < _MOST_WRITERS:
            return self._begin_part(tag, node)
        if tag == "table" and len(self._tables) < _MOST_WRITERS:
            return self._begin_table()
        if self._tables and tag in tags.ROWS:
            if tag == "tr":
                self._tables[-1].begin_row()
            else:
                self._tables[-1].begin_group()
            return None
        if tag == "br":
            self._break()
        elif tag in ("img", "area"):
            self._write_image(node)
        elif tag == "input":
            self._write_input(node)
        elif tag == "hr":
            self._write_block("---")
        elif tag in ("math", "svg"):
            return self._count(tag)
        elif tag == "a":
            return self._begin_link(node)
        elif tag in tags.STRUCK:
            self._writer.mark("~~")
            return self._end_struck
        elif tag == "q":
            self._writer.write('"')
            return self._end_quote
        else:
            return self._begin_box(tag, node)
        return None

    def _break(self) -> None:
        if self._inside["heading"]:
            self._writer.add_space()
        else:
            self._writer.break_line()

    def _write_block(self, text: str) -> None:
        self._writer.break_block(2)
        self._writer.write_exactly(text)
        self._writer.break_block(2)

    def _write_image(self, node: "LexborNode") -> None:
        alternative = _get_attribute(node, "alt").strip()
        # A single character is a drop capital or an emoji, part of the word that it stands in.
        if len(alternative) == 1:
            self._writer.write(alternative)
        else:
            self._write_apart(alternative)

    def _write_input(self, node: "LexborNode") -> None:
        kind = _get_attribute(node, "type").lower()
        if kind == "image":
            self._write_image(node)
        elif kind in _SHOWN_INPUTS:
            self._write_apart(_get_attribute(node, "value"))

    def _write_apart(self, text: str) -> None:
        self._writer.add_space()
        self._writer.write(text)
        self._writer.add_space()

    def _count(self, tag: str) -> Callable[[], None]:
        self._inside[tag] += 1

        def end() -> None:
            self._inside[tag] -= 1

        return end

    def _begin_link(self, node: "LexborNode") -> Callable[[], None]:
        writer = self._writer
        length = writer.measure()
        address = _get_attribute(node, "href").strip()

        def end() -> None:
            shown = writer.read_since(length)
            # An address that the text spells out anyway is not repeated.
            bare = re.sub(r"^(mailto|tel):|/$", "", address)
            if shown and _ADDRESS.match(address) and bare not in shown:
                writer.link(re.sub(r"^mailto:", "", address))

        return end

    def _end_struck(self) -> None:
        # Nothing is written for struck-out blanks.
        if not self._writer.unmark("~~"):
            self._writer.close_up("~~")

    def _end_quote(self) -> None:
        self._writer.close_up('"')

    def _begin_part(self, tag: str, node: "LexborNode") -> Callable[[], None]:
        """Begins an element whose text is looked at as a whole before it is written."""
        # What is raised is written differently when it is longer than a word.
        self._writers.append(TextWriter())
        end = {
            "sup": self._end_sup,
            "sub": self._end_sub,
            "rt": self._end_ruby,
            "fraction-top": self._end_top,
            "fraction-bottom": self._end_bottom,
            "title": self._end_title,
        }
        return end.get(tag) or partial(self._end_cell, tag, node)

    def _end_part(self) -> str:
        return self._writers.pop().read().strip(" \n")

    def _end_sup(self) -> None:
        text = self._end_part()
        self._write_exactly(raise_text(self._writer.get_base(), text))

    def _end_sub(self) -> None:
        text = self._end_part()
        self._write_exactly(lower_text(self._writer.get_base(), text))

    def _end_ruby(self) -> None:
        text = self._end_part()
        if text:
            self._write_exactly(f"({text})")

    def _end_top(self) -> None:
        text = self._end_part()
        self._writer.add_space()
        self._write_exactly(enclose(text) + "/")

    def _end_bottom(self) -> None:
        self._write_exactly(enclose(self._end_part()))
        self._writer.add_space()

    def _end_title(self) -> None:
        text = self._end_part()
        # The first one counts, as in browsers.
        if self._title is None:
            self._title = text

    def _write_exactly(self, text: str) -> None:
        self._writer.write_exactly(text)

    def _end_cell(self, tag: str, node: "LexborNode") -> None:
        text = self._end_part()
        columns = parse_span(_get_attribute(node, "colspan"), rows=False)
        rows = parse_span(_get_attribute(node, "rowspan"), rows=True)
        nested = self._with_table.pop(len(self._writers), False)
        if self._tables:
            self._tables[-1].add(Cell(text, columns, rows, tag == "th", nested))
        else:
            self._write_apart(text)

    def _begin_table(self) -> Callable[[], None]:
        self._writer.break_block(2)
        # The cell that this table is in, if any, is what the last writer writes.
        self._with_table[len(self._writers) - 1] = True
        self._tables.append(Table())
        return self._end_table

    def _end_table(self) -> None:
        table = self._tables.pop()
        if table.is_layout():
            for text in table.list_blocks():
                self._write_block(text)
        else:
            self._write_block("\n".join(table.format_lines()))

    def _begin_box(self, tag: str, node: "LexborNode") -> Callable[[], None] | None:
        """Begins a block, a line, a box within a line, or an element that changes nothing."""
        edge = tags.find_edge(tag, _get_attribute(node, "style"))
        # A list within a list begins on the next line, without an empty line.
        if edge == "paragraph" and tag in tags.LISTS and self._lists:
            edge = "line"
        self._end_box(edge)
        closes: list[Callable[[], None]] = []
        if tag in tags.LISTS:
            closes.append(self._begin_list(tag, node))
        elif tag == "li":
            closes.append(self._begin_item(node))
        elif tag in tags.HEADINGS:
            closes.append(self._begin_heading(tag))
        elif tag in tags.PRE:
            closes.append(self._count("pre"))
        elif tag == "optgroup":
            self._writer.write(_get_attribute(node, "label"))
            self._writer.break_block(1)
        if not closes and not edge:
            return None

        def end() -> None:
            for close in closes:
                close()
            self._end_box(edge)

        return end

    def _end_box(self, edge: str) -> None:
        if edge == "paragraph":
            self._writer.break_block(2)
        elif edge == "line":
            self._writer.break_block(1)
        elif edge == "box":
            self._writer.add_space()

    def _begin_list(self, tag: str, node: "LexborNode") -> Callable[[], None]:
        numbering = None
        if tag == "ol":
            numbering = ListNumbering.of(node)
        self._lists.append(numbering)
        writer = self._writer
        writer.indent += 1

        def end() -> None:
            self._lists.pop()
            writer.indent -= 1

        return end

    def _begin_item(self, node: "LexborNode") -> Callable[[], None]:
        # An item outside of any list has a bullet, too.
        numbering = None
        if self._lists:
            numbering = self._lists[-1]
        mark = "- "
        if numbering is not None:
            mark = numbering.next(_get_attribute(node, "value"))
        writer = self._writer
        writer.mark(mark)

        def end() -> None:
            writer.unmark(mark)

        return end

    def _begin_heading(self, tag: str) -> Callable[[], None]:
        writer = self._writer
        # Written only with the first text: empty headings leave nothing.
        mark = "#" * int(tag[1]) + " "
        writer.mark(mark)
        length = writer.measure()
        count_down = self._count("heading")

        def end() -> None:
            count_down()
            writer.unmark(mark)
            self._headings.add(normalize_line(writer.read_since(length)))

        return end


def _get_attribute(node: "LexborNode", name: str) -> str:
    return str(node.attributes.get(name) or "")
