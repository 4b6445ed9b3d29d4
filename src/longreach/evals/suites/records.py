"""Records of published data sets: JSON lines, JSON, CSV, or rows of the Hub; what is wrong is named
by its line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from longreach.corpus.documents.encodings.decode import encodable
from longreach.datasets.sources import hub_rows
from longreach.errors import UsageError
from longreach.jsontext import parse_json


class Item(NamedTuple):
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


@dataclass(frozen=True)
class Record:
    """One record, and where it stands, such as "Line 3 of 'dev.jsonl'"."""

    where: str
    values: Mapping[str, Any]

    def text(self, *names: str, strip: bool = True) -> str:
        """The text under a name, or under names inside of each other, without space around it
        unless told otherwise.

        Raises:
            UsageError: There is none.
        """
        value = self._at(names)
        if not isinstance(value, str) or not value.strip() or not encodable(value):
            raise UsageError(
                f"{self.where} has no text under '{'.'.join(names)}': correct or remove it."
            )
        return value.strip() if strip else value

    def texts(self, *names: str, strip: bool = True) -> list[str]:
        """The texts of a list, those that are not empty; at least one. Errors as in `text`."""
        value = self._at(names)
        if not isinstance(value, list) or not all(
            isinstance(one, str) and encodable(one) for one in value
        ):
            raise UsageError(
                f"{self.where} has no list of texts under '{'.'.join(names)}': correct or"
                " remove it."
            )
        found = [one.strip() if strip else one for one in value if one.strip()]
        if not found:
            raise UsageError(
                f"{self.where} has an empty list under '{'.'.join(names)}': correct or remove it."
            )
        return found

    def records(self, *names: str) -> list[Record]:
        """The records of a list of objects, or, as the Hub keeps them, of an object of lists of
        equal length."""
        value = self._at(names)
        if isinstance(value, Mapping) and all(
            isinstance(column, list) for column in value.values()
        ):
            even = len({len(column) for column in value.values()}) == 1
            value = (
                [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
                if even
                else None
            )
        if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
            raise UsageError(
                f"{self.where} has no list of objects under '{'.'.join(names)}': correct or"
                " remove it."
            )
        return [Record(f"{self.where}, {names[-1]} {n}", one) for n, one in enumerate(value, 1)]

    def number(self, *names: str) -> int:
        """The whole number under a name. Errors as in `text`."""
        value = self._at(names)
        if isinstance(value, bool) or not isinstance(value, int):
            raise UsageError(
                f"{self.where} has no whole number under '{'.'.join(names)}': correct or remove it."
            )
        return value

    def _at(self, names: tuple[str, ...]) -> Any:
        value: Any = self.values
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


def json_lines(path: Path) -> Iterator[Record]:
    """One record a line. Errors: see `read_text`; and a line that is no object."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield _object(line, f"Line {number} of '{path}'")


def json_file(path: Path) -> Any:
    """What a file of JSON holds."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise UsageError(
            f"'{path}' is not JSON ({error}): give the file as it was published."
        ) from error


def json_items(path: Path) -> Iterator[Record]:
    """One record an item of a list."""
    items = json_file(path)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UsageError(f"'{path}' is not a list of objects: give the file as it was published.")
    for number, item in enumerate(items, 1):
        yield Record(f"Item {number} of '{path}'", item)


def csv_rows(path: Path) -> Iterator[Record]:
    """One record a row below the header; a row that has more or fewer fields is refused."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for row in reader:
            where = f"Line {reader.line_num} of '{path}'"
            if None in row or None in row.values():
                raise UsageError(f"{where} has other fields than the header: correct or remove it.")
            yield Record(where, row)
    except csv.Error as error:
        raise UsageError(
            f"Line {reader.line_num} of '{path}' is not CSV ({error}): correct or remove it."
        ) from error


def hub_records(given: str, config: str | None, split: str) -> Iterator[Record]:
    """One record a row of a data set of the Hub. Errors: see `training.sources.hub_rows`."""
    for number, row in enumerate(hub_rows(given, config=config, split=split), 1):
        yield Record(f"Row {number} of {given}", row)


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UsageError: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(
            f"'{path}' cannot be read ({reason}): give the file as it was published."
        ) from error


def _object(line: str, where: str) -> Record:
    try:
        values = parse_json(line)
    except ValueError as error:
        raise UsageError(f"{where} is not JSON ({error}): correct or remove it.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{where} is no object: correct or remove it.")
    return Record(where, values)
