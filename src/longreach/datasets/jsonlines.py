"""Reads the JSON lines that users give: questions, texts to learn, records of data sets.

All code that reads such a file uses `read_records`, so that the same fault is refused in the same
words: file and line, what is wrong, what to do. A line is one object in UTF-8, with or without a
byte order mark. Blank lines are skipped. NaN and numbers of any size may stand in fields that
nobody reads, as in files that pandas wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from longreach.corpus.documents.base import show_path
from longreach.corpus.documents.encodings.decode import is_encodable
from longreach.errors import DataError
from longreach.jsontext import JsonObject, JsonValue, NotJson, parse_json

MOST_LINE_BYTES = 512 << 20  # as much as a document's file may hold
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Record:
    """An object that a user's file holds.

    Attributes:
        where: Where it stands, such as "Line 3 of 'dev.jsonl'".
        values: Its fields.
    """

    where: str
    values: Mapping[str, Any]

    def error(self, fault: str) -> DataError:
        """Returns the error of this record.

        Args:
            fault: What is wrong, a colon, and what to do.
        """
        return DataError(f"{self.where} {fault}.")

    def text(self, *names: str, strip: bool = True) -> str:
        """Returns the text under a name, or under names inside of each other.

        Args:
            *names: The names, the outermost first.
            strip: Removes the white space around the text.

        Raises:
            DataError: There is no text, or it is blank.
        """
        value = self._at(names)
        if not holds_text(value):
            raise self.error(f"has no text under '{'.'.join(names)}': correct or remove it")
        return value.strip() if strip else value

    def texts(self, *names: str, strip: bool = True) -> list[str]:
        """Returns the texts of a list that are not blank, at least one. Errors as in `text`."""
        value = self._at(names)
        path = ".".join(names)
        if not isinstance(value, list) or not all(_is_encodable(one) for one in value):
            raise self.error(f"has no list of texts under '{path}': correct or remove it")
        found = [one.strip() if strip else one for one in value if one.strip()]
        if not found:
            raise self.error(f"has an empty list under '{path}': correct or remove it")
        return found

    def records(self, *names: str) -> list[Record]:
        """Returns the objects of a list.

        The Hub keeps such a list as an object of columns of equal length, which is read as well.
        """
        value = self._at(names)
        if isinstance(value, Mapping):
            value = _rows_of_columns(value)
        if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
            path = ".".join(names)
            raise self.error(f"has no list of objects under '{path}': correct or remove it")
        return [Record(f"{self.where}, {names[-1]} {n}", one) for n, one in enumerate(value, 1)]

    def number(self, *names: str) -> int:
        """Returns the whole number under a name. Errors as in `text`."""
        value = self._at(names)
        # To Python the `true` of JSON is a whole number.
        if isinstance(value, bool) or not isinstance(value, int):
            path = ".".join(names)
            raise self.error(f"has no whole number under '{path}': correct or remove it")
        return value

    def _at(self, names: tuple[str, ...]) -> JsonValue:
        value: JsonValue = self.values
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


def read_records(path: str | Path) -> Iterator[Record]:
    """Reads the objects of a file of JSON lines, one after the other.

    Raises:
        DataError: The file cannot be read, or a line is longer than 512 MiB, is not UTF-8, is not
            JSON, names a field twice or is no object. The file and the line are named.
    """
    name = show_path(path)
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(_lines(file, name), 1):
                # In files that were joined the mark stands before later lines too.
                text = line.removeprefix(_BYTE_ORDER_MARK)
                if text.strip():
                    yield _record(text, f"Line {number} of '{name}'")
    except OSError as error:
        raise DataError(
            f"'{name}' cannot be read ({error.strerror}): check the path and its permissions."
        ) from error


def holds_text(value: object) -> TypeGuard[str]:
    """Returns whether a value is text with words in it and no lone surrogates."""
    return _is_encodable(value) and bool(value.strip())


def _is_encodable(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and is_encodable(value)


def _lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Yields the lines of a file, whatever system they were written on."""
    number = 1
    # Not the whole file: a data set may be larger than the memory.
    while part := file.readline(MOST_LINE_BYTES + 1):
        if len(part) > MOST_LINE_BYTES:
            raise DataError(
                f"Line {number} of '{name}' is longer than {MOST_LINE_BYTES >> 20} MiB: cut it."
            )
        # A carriage return alone ended lines once. Inside of a JSON text it is always escaped.
        lines = part.splitlines()
        number += len(lines)
        yield from lines


def _record(text: bytes, where: str) -> Record:
    try:
        value = parse_json(text, wide=True, nan=float, unique=True)
    except NotJson as error:
        raise DataError(f"{where} is not JSON ({error}): correct or remove it.") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} is no JSON object: correct or remove it.")
    return Record(where, value)


def _rows_of_columns(columns: Mapping[str, JsonValue]) -> list[JsonObject] | None:
    """Returns an object of columns as rows; None where these are not lists of equal length."""
    lists = [column for column in columns.values() if isinstance(column, list)]
    if len(lists) < len(columns) or len(set(map(len, lists))) != 1:
        return None
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]
