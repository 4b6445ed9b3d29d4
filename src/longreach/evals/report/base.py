"""What makes a report of a suite's runs: which figures they hold, and how these are shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from longreach.evals.run.rows import JsonObject, Row
from longreach.jsontext import Kinds

if TYPE_CHECKING:
    from longreach.evals.report.runs import Run

Styles = Mapping[str, int]
"""The number of each system's color and marker, the same all over a page."""


class SuiteReport(ABC):
    """How the predictions of a suite become rows, tables and charts.

    Attributes:
        line_fields: What each line of predictions.jsonl has to hold.
        unscored_fields: What it has to hold besides where it is still to be added up.
        row_fields: What each row of scores.json has to hold.
        scored: Whether lines are scored by rules, which may change with a release.
        unit: The field that tells what was asked at once from each other.

    Args:
        title: Heading of the suite.
    """

    line_fields: ClassVar[Kinds]
    unscored_fields: ClassVar[Kinds] = {}
    row_fields: ClassVar[Kinds]
    scored: ClassVar[bool] = True
    unit: ClassVar[str] = "id"

    def __init__(self, title: str) -> None:
        self.title = title

    @abstractmethod
    def add_up(self, lines: Iterable[Row]) -> list[JsonObject]:
        """Returns the rows of scores.json that lines of predictions.jsonl come to."""

    def rescore(self, line: Row) -> Row:
        """Returns a line with the score of this release's rules."""
        return line

    def choose_rows(self, rows: Sequence[Row]) -> list[Row]:
        """Returns those rows of several runs that may stand beside each other."""
        return list(rows)

    def own_figures(self, run: Run, label: str) -> dict[str, list[Row]]:
        """Returns what a suite shows besides its rows, by the names of JSON.

        Args:
            run: Whose predictions these are.
            label: Of the run; see `parts.name_column`.
        """
        return {}

    @abstractmethod
    def show(self, found: Row, styles: Styles) -> Iterator[str]:
        """Yields the tables and charts of a suite as HTML.

        Args:
            found: Its figures, as `report.figures` gives them.
            styles: Of its systems.
        """

    @abstractmethod
    def show_small(self, found: Row) -> Iterator[str]:
        """Yields the lines of the suite's table in Markdown."""
