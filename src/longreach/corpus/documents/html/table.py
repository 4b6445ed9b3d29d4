"""The cells of an HTML table as rows of equal width."""

import bisect
import re
from collections import deque
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

_MOST_COLUMNS = 1000  # as in browsers
_MOST_ROWS = 65534
_LINES = re.compile(r"[ \n]{2,}|\n")
# A cell with a nested table that has less text than this is part of a table of data.
_SMALL_CELL = 300
_LEAST_SPARSE = 10_000


class Cell(NamedTuple):
    """A cell: its text, its span, and whether it is a heading or holds a table."""

    text: str
    columns: int
    rows: int
    heading: bool
    nested: bool


@dataclass
class Table:
    """Rows of cells as they come; `format_lines` lays them out."""

    groups: list[list[list[Cell]]] = field(default_factory=list)

    def begin_group(self) -> None:
        """Begins a group of rows (`<thead>`, `<tbody>`, `<tfoot>`), which no cell spans beyond."""
        self.groups.append([])

    def begin_row(self) -> None:
        """Begins a row."""
        if not self.groups:
            self.begin_group()
        self.groups[-1].append([])

    def add(self, cell: Cell) -> None:
        """Appends a cell to the last row."""
        if not self.groups or not self.groups[-1]:
            self.begin_row()
        self.groups[-1][-1].append(cell)

    def list_rows(self) -> list[list[Cell]]:
        """Returns the rows of all groups."""
        return list(chain.from_iterable(self.groups))

    def list_cells(self) -> list[Cell]:
        """Returns the cells of all rows."""
        return list(chain.from_iterable(self.list_rows()))

    def is_layout(self) -> bool:
        """Returns whether the table only places things on the page.

        Such a table has one column, or cells with large tables in them.
        """
        for cell in self.list_cells():
            if cell.nested and len(cell.text) > _SMALL_CELL:
                return True
        return max(map(len, self.list_rows()), default=0) < 2

    def list_blocks(self) -> list[str]:
        """Returns the texts of all cells, one after another."""
        return [cell.text for cell in self.list_cells() if cell.text.strip()]

    def format_lines(self) -> list[str]:
        """Returns the rows as lines of a Markdown table.

        A cell that spans columns or rows is repeated in each.
        """
        rows = self._place_cells()
        columns = sorted(set(chain.from_iterable(rows)))
        size = sum(len(cell.text) + 4 for cell in self.list_cells())
        # Few cells can span, or ask for, millions: then rows are as long as they are, and nothing
        # is repeated.
        sparse = len(columns) * len(rows) > _LEAST_SPARSE + 20 * size
        left = _LEAST_SPARSE + 4 * size
        has_headings = self._has_headings()
        lines = []
        for number, row in enumerate(rows):
            texts = []
            for column in sorted(row) if sparse else columns:
                text, first = row.get(column, ("", True))
                if not first:
                    left -= len(text)
                    if sparse or left < 0:
                        text = ""
                texts.append(text)
            if not any(texts):
                continue
            lines.append("| " + " | ".join(texts) + " |")
            if number == 0 and has_headings:
                lines.append("| " + " | ".join(["---"] * len(texts)) + " |")
        return lines

    def _has_headings(self) -> bool:
        """Returns whether the first row consists of headings."""
        first = next(iter(self.list_rows()), [])
        return bool(first) and all(cell.heading for cell in first)

    def _place_cells(self) -> list[dict[int, "_Placed"]]:
        """Returns each row's texts by column, with cells from the rows above.

        Columns in which no cell begins are omitted.
        """
        starts: set[int] = set()
        spans: list[list[_Span]] = []
        repeats = _LEAST_SPARSE + 10 * len(self.list_cells())
        for group in self.groups:
            placed_group = _place(group, starts, repeats)
            repeats -= sum(map(len, placed_group))
            spans.extend(placed_group)
        order = sorted(starts)
        rows = []
        for row in spans:
            placed: dict[int, _Placed] = {}
            for span in row:
                # A cell over the whole width is a heading for the row, not a value of each column.
                whole = len(row) == 1 and span.width > 1
                for column in _select_between(order, span.column, span.column + span.width):
                    begins = span.first and column == span.column
                    text = span.text
                    if whole and column != span.column:
                        text = ""
                    placed[column] = _Placed(text, begins)
            rows.append(placed)
        return rows


class _Placed(NamedTuple):
    text: str
    first: bool


class _Span(NamedTuple):
    column: int
    width: int
    text: str
    first: bool


class _Above(NamedTuple):
    """A cell that reaches into the next `rows` rows."""

    span: _Span
    rows: int


def _place(group: list[list[Cell]], starts: set[int], repeats: int) -> list[list[_Span]]:
    """Gives each cell its column, as browsers do: the next one that no cell from above covers.

    Cells are repeated in the rows below until that was done `repeats` times, a bound that only
    made-up tables reach.
    """
    above: list[_Above] = []
    rows = []
    for row in group:
        # Each row costs the cells that reach into it, whatever is in it.
        repeats -= len(above)
        if repeats < 0:
            above = []
        line = sorted(cell.span for cell in above)
        taken = deque(line)
        above = [_Above(cell.span, cell.rows - 1) for cell in above if cell.rows > 1]
        column = 0
        for cell in row:
            while taken and taken[0].column <= column:
                covering = taken.popleft()
                column = max(column, covering.column + covering.width)
            # Where no cell begins, a column is only the inside of a wide cell.
            starts.add(column)
            width = cell.columns
            if taken:
                # It ends where a cell from above begins.
                width = min(width, taken[0].column - column)
            text = cell.text
            if cell.nested:
                text = _flatten(text)
            span = _Span(column, width, _LINES.sub(" ", text), True)
            line.append(span)
            if cell.rows > 1:
                above.append(_Above(span._replace(first=False), cell.rows - 1))
            column += width
        rows.append(line)
    return rows


def _flatten(text: str) -> str:
    """Writes the rows of a nested table without bars, which belong to the outer table."""
    lines = []
    for line in text.split("\n"):
        if line.startswith("| ") and line.endswith(" |"):
            values = []
            for value in map(str.strip, line[2:-2].split(" | ")):
                # Dashes alone are the rule below the headings.
                if value.strip("-"):
                    values.append(value)
            if not values:
                continue
            line = ", ".join(values) + ";"
        lines.append(line)
    return "\n".join(lines).strip(";")


def _select_between(order: list[int], first: int, end: int) -> list[int]:
    """Returns the numbers of a sorted list from `first` up to, and without, `end`."""
    return order[bisect.bisect_left(order, first) : bisect.bisect_left(order, end)]


def parse_span(value: str | None, rows: bool) -> int:
    """Returns the number in a `colspan` or `rowspan`.

    A `rowspan` of 0 reaches to the end of its group.
    """
    most = _MOST_COLUMNS
    if rows:
        most = _MOST_ROWS
    digits = re.match(r"[ \t\n\r\f]*\+?(\d{1,9})", value or "", re.ASCII)
    if digits is None:
        return 1
    number = int(digits[1])
    if number == 0:
        return most if rows else 1
    return min(number, most)
