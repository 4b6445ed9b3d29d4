"""The predictions of a run: a line of JSON each, as they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

from longreach.errors import UsageError
from longreach.jsontext import parse_object

PREDICTIONS = "predictions.jsonl"
Line = dict[str, Any]
"""A line of predictions.jsonl: strings, numbers and lists under the names of JSON."""


class Predictions:
    """The predictions of a run by system and sample; a line whose end was cut off is dropped.

    Args:
        folder: Of the run.
        file: Its predictions, open to be read and appended to.

    Raises:
        UsageError: A whole line is damaged.
    """

    def __init__(self, folder: Path, file: BinaryIO) -> None:
        self.folder = folder
        self.lines: dict[tuple[str, str], Line] = {}
        self._file = file
        file.seek(0)
        whole = 0
        for number, line in enumerate(file, 1):
            # A process that was killed may have written half of its last line.
            if not line.endswith(b"\n"):
                break
            try:
                self._keep(parse_object(line, nan=float))
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(
                    f"Line {number} of '{folder / PREDICTIONS}' is damaged: remove it, and it is"
                    " asked again."
                ) from error
            # Up to here the file is whole; what is behind is cut off below.
            whole += len(line)
        file.truncate(whole)

    def add(self, line: Line) -> None:
        """Writes one more, at once."""
        self._file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        # A process that is killed now loses no answer that took it minutes.
        self._file.flush()
        self._keep(line)

    def has(self, system: str, identifier: str) -> bool:
        """Whether a system's prediction for a sample is there."""
        return (system, identifier) in self.lines

    def _keep(self, line: Line) -> None:
        # In files a system is called "reader": the names of JSON do not change.
        self.lines[line["reader"], line["id"]] = line
