"""Tables of WordprocessingML as tables of HTML."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from longreach.corpus.documents.office.names import OMITTED, W
from longreach.corpus.documents.office.properties import find_child, parse_whole, read_value

if TYPE_CHECKING:
    from lxml.etree import _Element

_LONGEST_SPAN = 1000


def write_table(
    source: "_Element", table: "_Element", read_cell: "Callable[[_Element, _Element], None]"
) -> None:
    """Writes the rows of a table.

    Args:
        source: The table of WordprocessingML.
        table: The table of HTML that rows are appended to.
        read_cell: Appends what a cell of the first holds to a cell of the second.
    """
    # For each column, the cell that one further down may continue.
    above: dict[int, _Element] = {}
    for row in _find_members(source, "tr"):
        # A tracked change removed it.
        if find_child(find_child(row, "trPr"), "del") is None:
            _write_row(row, table, above, read_cell)


def _write_row(
    row: "_Element",
    table: "_Element",
    above: "dict[int, _Element]",
    read_cell: "Callable[[_Element, _Element], None]",
) -> None:
    from lxml.etree import SubElement

    properties = find_child(row, "trPr")
    line = SubElement(table, "tr")
    is_heading = find_child(properties, "tblHeader") is not None
    column = _skip_columns(line, read_value(properties, "gridBefore"))
    for cell in _find_members(row, "tc"):
        look = find_child(cell, "tcPr")
        span = min(max(parse_whole(read_value(look, "gridSpan"), 1), 1), _LONGEST_SPAN)
        merge = find_child(look, "vMerge")
        if merge is not None and merge.get(f"{W}val") != "restart" and column in above:
            _add_span(above[column], "rowspan", 1)
        # The older way to join cells of a row.
        elif read_value(look, "hMerge") == "continue" and len(line):
            _add_span(line[-1], "colspan", span)
        else:
            made = SubElement(line, "th" if is_heading else "td")
            if span > 1:
                made.set("colspan", str(span))
            read_cell(cell, made)
            above.pop(column, None)
            if merge is not None:
                above[column] = made
        # Cells are matched by their columns, as a row may have fewer cells than the one above.
        column += span
    _skip_columns(line, read_value(properties, "gridAfter"))


def _add_span(cell: "_Element", name: str, more: int) -> None:
    cell.set(name, str(int(cell.get(name, "1")) + more))


def _find_members(element: "_Element", name: str) -> "list[_Element]":
    """Returns the rows of a table or the cells of a row.

    Those in content controls and tracked insertions count too, those of inner tables do not.
    """
    found: list[_Element] = []
    for child in element:
        if child.tag == W + name:
            found.append(child)
        elif isinstance(child.tag, str) and child.tag not in OMITTED and child.tag != W + "tbl":
            found += _find_members(child, name)
    return found


def _skip_columns(row: "_Element", count: str) -> int:
    """Appends an empty cell over as many columns as a row omits; returns their number."""
    from lxml.etree import SubElement

    skipped = min(max(parse_whole(count, 0), 0), _LONGEST_SPAN)
    if skipped:
        cell = SubElement(row, "td")
        if skipped > 1:
            cell.set("colspan", str(skipped))
    return skipped
