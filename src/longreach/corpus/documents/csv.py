"""Comma-separated values, and values separated by other signs, to a table."""

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from longreach.corpus.documents.base import Converted, explain_failures
from longreach.corpus.documents.encodings.decode import decode_text
from longreach.corpus.documents.grid import format_table, is_sparse

# In the order of preference where several part the first rows equally well: a comma is often a
# decimal sign.
_DELIMITERS = ("\t", ";", "|", ",")
_SAMPLE_ROWS = 200
_SAMPLE_CHARACTERS = 100_000


class _Dialect(NamedTuple):
    """How the values are parted and quoted."""

    delimiter: str
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
    strict: bool = True


class _Size(NamedTuple):
    rows: int
    columns: int
    cells: int


def convert(raw: bytes, name: str) -> Converted:
    """Reads a file of separated values; see `Format.convert` for arguments and errors.

    A file whose rows have one value each is no table, and comes back as it is.
    """
    text = decode_text(raw, name).replace("\r\n", "\n").replace("\r", "\n")
    body = text
    first, _, rest = text.partition("\n")
    if first.lower().startswith("sep=") and len(first) == 5:  # what Excel writes to itself
        delimiter = first[4]
        body = rest
    elif name.lower().endswith((".tsv", ".tab")):
        delimiter = "\t"
    else:
        delimiter = _find_delimiter(text)
    with explain_failures(name, ".csv"), _allow_any_length():
        dialect = _find_quoting(body, delimiter)
        size = _measure(body, dialect)
        if size.columns < 2:
            return Converted(text)
        columns = size.columns
        if is_sparse(size.rows, size.columns, size.cells):
            # Rows are not filled up.
            columns = 0
        return Converted("\n".join(format_table(_read_rows(body, dialect), columns)))


def _find_delimiter(text: str) -> str:
    """Returns the sign that parts most of the first rows into equally many values."""
    sample = text[:_SAMPLE_CHARACTERS]
    if len(text) > len(sample):
        sample = sample[: sample.rfind("\n") + 1] or sample
    best = ","
    most = 0.0
    for delimiter in _DELIMITERS:
        widths: Counter[int] = Counter()
        for row in _read_rows(sample, _Dialect(delimiter, strict=False)):
            widths[len(row)] += 1
            if widths.total() == _SAMPLE_ROWS:
                break
        rows = widths.total()
        # Rows of one value are not parted at all.
        widths.pop(1, None)
        widths.pop(0, None)
        if not widths:
            continue
        share = max(widths.values()) / rows
        if share > most:
            most = share
            best = delimiter
    return best


def _find_quoting(text: str, delimiter: str) -> _Dialect:
    """Returns how values are quoted: as usual in CSV, unless that fails before the end."""
    dialect = _Dialect(delimiter)
    try:
        for _ in _read_rows(text, dialect):
            pass
    except csv.Error:
        if text.count('"') % 2 == 0:
            return _Dialect(delimiter, strict=False)
        # One mark without its twin would swallow the rest of the file.
        return _Dialect(delimiter, csv.QUOTE_NONE, strict=False)
    return dialect


def _measure(text: str, dialect: _Dialect) -> _Size:
    rows = 0
    columns = 0
    cells = 0
    for row in _read_rows(text, dialect):
        rows += 1
        cells += len(row)
        columns = max(columns, len(row))
    return _Size(rows, columns, cells)


def _read_rows(text: str, dialect: _Dialect) -> Iterator[list[str]]:
    lines = io.StringIO(text, newline="")
    return csv.reader(
        lines, delimiter=dialect.delimiter, quoting=dialect.quoting, strict=dialect.strict
    )


@contextmanager
def _allow_any_length() -> Iterator[None]:
    """Lets values be longer than 128 KB."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)
