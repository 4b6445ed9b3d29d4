"""XLSX to text: each sheet as a table, with the values of formulas when the file was saved."""

import bisect
import io
import re
from typing import TYPE_CHECKING, NamedTuple

from longreach.corpus.documents.archive import check_unpacked
from longreach.corpus.documents.base import Converted
from longreach.corpus.documents.grid import format_table, is_sparse
from longreach.corpus.documents.office.names import DRAWING
from longreach.corpus.documents.office.number_format import show_value
from longreach.corpus.documents.office.package import Package, open_package, read_text

if TYPE_CHECKING:
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet

# A formula without a stored result. An empty text is a result: its cell is of the kind "str".
_UNCOMPUTED = re.compile(
    rb"<(?:\w+:)?c\b(?![^>]*\bt=\"str\")[^>]*>\s*<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)"
    rb"\s*(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)
_MERGED = re.compile(
    rb'<(?:\w+:)?mergeCell\b[^>]*\bref="([A-Z]{1,3}[0-9]{1,7}:[A-Z]{1,3}[0-9]{1,7})"'
)
_MOST_ROWS = 1_048_576
# Merged cells are repeated as long as the table stays within a few times what the sheet holds.
_LEAST_REPEATS = 10_000
_REPEATS_PER_CELL = 4


class _CellPlace(NamedTuple):
    """A cell's place, from 1."""

    row: int
    column: int


def convert(raw: bytes, name: str) -> Converted:
    """Reads a workbook sheet by sheet, hidden ones too; see `Format.convert`.

    Empty rows and columns are omitted. A merged cell is repeated in each of its places. A sheet
    that is empty nearly everywhere comes as one line for each cell: "B7: 12".
    """
    with open_package(raw, name, ".xlsx") as package:
        from openpyxl import load_workbook

        check_unpacked(package.archive, name, (".xml", ".rels"))
        parts = _find_parts(package)
        # Read row by row: the other way makes a cell of each place that a merged area covers, which
        # may be billions.
        workbook = load_workbook(io.BytesIO(raw), data_only=True, read_only=True)
        blocks = []
        notes = []
        for sheet in workbook.worksheets:
            part = parts.get(sheet.title, "")
            source = package.read(part) or b""
            blocks.append(_read_sheet(sheet, package, part, source))
            missing = len(_UNCOMPUTED.findall(source))
            if missing:
                many = f"{missing} formulas" if missing > 1 else "a formula"
                notes.append(
                    f"Sheet {sheet.title} has {many} without a stored result: open the file in a"
                    " spreadsheet program, save it, and add it again."
                )
        return Converted("\n\n".join(filter(None, blocks)), tuple(notes))


def _find_parts(package: Package) -> dict[str, str]:
    """Returns the name of the part of each sheet."""
    main = next(iter(package.list_related("", "officeDocument")), "xl/workbook.xml")
    links = package.read_links(main)
    parts = {}
    for sheet in package.iterate(main, "{*}sheet"):
        for key, identity in sheet.attrib.items():
            if key.endswith("}id"):
                link = links.get(identity)
                if link is not None and not link.external:
                    parts[sheet.get("name", "")] = link.target
                break
    return parts


def _read_sheet(sheet: "ReadOnlyWorksheet", package: Package, part: str, source: bytes) -> str:
    values = _read_values(sheet)
    parts = ["\n".join(_format_table(values, source))]
    parts += _read_shapes(package, part)
    parts += _read_remarks(package, part)
    parts = list(filter(None, parts))
    if not parts:
        return ""
    title = f"## {sheet.title}"
    if sheet.sheet_state != "visible":
        title += " (hidden)"
    return "\n\n".join([title, *parts])


def _read_values(sheet: "ReadOnlyWorksheet") -> dict[_CellPlace, str]:
    # What a sheet says of its size is often wrong.
    sheet.reset_dimensions()
    values = {}
    for number, row in enumerate(sheet.iter_rows(), 1):
        if number > _MOST_ROWS:
            break
        for column, cell in enumerate(row, 1):
            if cell.value is not None:
                text = show_value(cell.value, cell.number_format or "").strip()
                if text:
                    values[_CellPlace(number, column)] = text
    return values


def _format_table(values: dict[_CellPlace, str], source: bytes) -> list[str]:
    rows = sorted({place.row for place in values})
    columns = sorted({place.column for place in values})
    if is_sparse(len(rows), len(columns), len(values)):
        from openpyxl.utils import get_column_letter

        lines = []
        for place, text in values.items():
            lines.append(f"{get_column_letter(place.column)}{place.row}: {text}")
        return lines
    _repeat_merged(source, values, rows, columns)
    table = []
    for row in rows:
        table.append([values.get(_CellPlace(row, column), "") for column in columns])
    return list(format_table(table, len(columns)))


def _repeat_merged(
    source: bytes, values: dict[_CellPlace, str], rows: list[int], columns: list[int]
) -> None:
    from openpyxl.utils import range_boundaries

    left_over = _LEAST_REPEATS + _REPEATS_PER_CELL * len(values)
    for area in _MERGED.finditer(source):
        left, top, right, bottom = range_boundaries(area[1].decode())
        text = values.get(_CellPlace(top, left), "")
        if not text:
            continue
        # Only rows and columns that hold something are in the table.
        across = columns[bisect.bisect_left(columns, left) : bisect.bisect_right(columns, right)]
        down = rows[bisect.bisect_left(rows, top) : bisect.bisect_right(rows, bottom)]
        if len(across) == len(columns) > 1:  # a heading over the whole sheet
            continue
        # Few merged cells can cover millions of places.
        left_over -= len(across) * len(down)
        if left_over < 0:
            return
        for row in down:
            for column in across:
                values.setdefault(_CellPlace(row, column), text)


def _read_remarks(package: Package, part: str) -> list[str]:
    """Returns the notes on cells."""
    remarks = []
    for comments in _find_related(package, part, "comments"):
        for comment in package.iterate(comments, "{*}comment"):
            text = " ".join(read_text(comment, "{*}t").split())
            if text:
                remarks.append(f"Note on {comment.get('ref', 'a cell')}: {text}")
    return remarks


def _read_shapes(package: Package, part: str) -> list[str]:
    """Returns the paragraphs of text boxes and shapes that lie on a sheet."""
    found = []
    for drawing in _find_related(package, part, "drawing"):
        for paragraph in package.iterate(drawing, DRAWING + "p"):
            text = read_text(paragraph, DRAWING + "t").strip()
            if text:
                found.append(text)
    return found


def _find_related(package: Package, part: str, kind: str) -> list[str]:
    """Returns the parts of a kind that a sheet refers to; none if its own part is not known."""
    if not part:
        return []
    return package.list_related(part, kind)
