"""Records of published data sets: JSON lines, JSON, CSV, or rows of the Hub.

What is wrong is named by its line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from longreach.datasets.hub import load_hub_rows
from longreach.datasets.jsonlines import Record, read_records
from longreach.errors import UsageError
from longreach.jsontext import JsonValue, parse_json


class QuestionRecord(NamedTuple):
    """One question about a document.

    Attributes:
        document: A name for the text; all items of one document have the same text.
        text: What the question is about.
        question: The question, with its choices where it has some.
        answers: What is right.
        where: Where it stands.
        classes: Names that an answer is to be one of.
    """

    document: str
    text: str
    question: str
    answers: tuple[str, ...]
    where: str
    classes: tuple[str, ...] = ()


def json_lines(path: Path) -> Iterator[Record]:
    """Yields one record a line. Errors are those of `read_records`."""
    return read_records(path)


def json_file(path: Path) -> JsonValue:
    """Returns what a file of JSON holds."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise UsageError(
            f"'{path}' is not JSON ({error}): give the file as it was published."
        ) from error


def json_items(path: Path) -> Iterator[Record]:
    """Yields one record an item of a list."""
    items = json_file(path)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UsageError(f"'{path}' is not a list of objects: give the file as it was published.")
    for number, item in enumerate(items, 1):
        yield Record(f"Item {number} of '{path}'", item)


def csv_rows(path: Path) -> Iterator[Record]:
    """Yields one record a row below the header; a row with more or fewer fields is refused."""
    # Line ends are left to the csv module, since fields in quotes may contain some.
    table = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for row in table:
            where = f"Line {table.line_num} of '{path}'"
            # What the csv module says of rows with more or fewer fields.
            if None in row or None in row.values():
                raise UsageError(f"{where} has other fields than the header: correct or remove it.")
            yield Record(where, row)
    except csv.Error as error:
        raise UsageError(
            f"Line {table.line_num} of '{path}' is not CSV ({error}): correct or remove it."
        ) from error


def hub_records(given: str, config: str | None, split: str) -> Iterator[Record]:
    """Yields one record a row of a data set of the Hub. Errors: see `load_hub_rows`."""
    for number, row in enumerate(load_hub_rows(given, config=config, split=split), 1):
        yield Record(f"Row {number} of {given}", row)


def read_text(path: Path) -> str:
    """Returns the text of a file.

    Raises:
        UsageError: It cannot be read, or is not UTF-8.
    """
    try:
        # Published files may begin with a byte order mark.
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(
            f"'{path}' cannot be read ({reason}): give the file as it was published."
        ) from error
