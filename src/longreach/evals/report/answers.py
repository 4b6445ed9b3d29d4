"""The report of a suite that scores answers: scores by length and task, and what answers took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from types import NoneType
from typing import ClassVar

from longreach.evals.report.base import Styles, SuiteReport
from longreach.evals.report.figures import by_length
from longreach.evals.report.markdown_table import answers_table
from longreach.evals.report.parts import cost_table, score_table, tokens
from longreach.evals.run.rows import MEAN, MEANS, JsonObject, Row, column, score_rows, select
from longreach.evals.scores.metrics import Metrics, rescore
from longreach.jsontext import Kinds

_TEXT = (str,)
_NUMBER = (int, float)


class AnswerReport(SuiteReport):
    """Scores of answers, by system, task and length.

    Args:
        title: Heading of the suite.
        metrics: Score answers, by the names that samples give.
    """

    line_fields: ClassVar[Kinds] = {
        "reader": _TEXT,
        "task": _TEXT,
        "id": _TEXT,
        "length": (int,),
        "tags": (dict,),
        "score": _NUMBER,
    }
    unscored_fields: ClassVar[Kinds] = {
        "metric": _TEXT,
        "new_tokens": (int,),
        **dict.fromkeys(MEANS, _NUMBER),
    }
    row_fields: ClassVar[Kinds] = {
        "reader": _TEXT,
        "task": _TEXT,
        "length": (int,),
        "samples": (int,),
        "score": _NUMBER,
        "low": (*_NUMBER, NoneType),
        "high": (*_NUMBER, NoneType),
    }

    def __init__(self, title: str, metrics: Metrics) -> None:
        super().__init__(title)
        self._metrics = metrics

    def add_up(self, lines: Iterable[Row]) -> list[JsonObject]:
        """See `SuiteReport`."""
        return score_rows(lines)

    def rescore(self, line: Row) -> Row:
        """See `SuiteReport`."""
        return rescore(line, self._metrics)

    def choose_rows(self, rows: Sequence[Row]) -> list[Row]:
        """Returns the rows without means over tasks that other systems did not answer."""
        tasks: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        means: dict[tuple[str, int], int] = defaultdict(int)
        for row in rows:
            if row["task"] == MEAN:
                means[row["reader"], row["length"]] += 1
            else:
                tasks[row["length"]][row["reader"]].append(row["task"])
        chosen = []
        for row in rows:
            answered = {tuple(sorted(own)) for own in tasks[row["length"]].values()}
            # Two runs may have shared out the tasks, so that a system has two means.
            once = means[row["reader"], row["length"]] == 1
            if row["task"] != MEAN or (len(answered) == 1 and once):
                chosen.append(row)
        return chosen

    def show(self, found: Row, styles: Styles) -> Iterator[str]:
        """See `SuiteReport`."""
        table = _ScoreTable(found["rows"], found["readers"])
        yield from table.by_length()
        yield from table.by_task()
        yield from self.show_own_charts(found, styles)
        charted = select(found["rows"], task=table.total)
        yield from by_length(charted, found["readers"], styles)
        yield table.costs(charted)
        yield from self.show_own_tables(found, styles)

    def show_own_charts(self, found: Row, styles: Styles) -> Iterator[str]:
        """Yields charts of the suite's own, which come before those by length."""
        return iter(())

    def show_own_tables(self, found: Row, styles: Styles) -> Iterator[str]:
        """Yields tables of the suite's own, which come last."""
        return iter(())

    def show_small(self, found: Row) -> Iterator[str]:
        """See `SuiteReport`."""
        return answers_table(found)


class _ScoreTable:
    """The scores of systems at tasks and lengths."""

    def __init__(self, rows: Sequence[Row], systems: Sequence[str]) -> None:
        self._rows = rows
        self._systems = systems
        named = dict.fromkeys(column(rows, "task"))
        self._tasks = [task for task in named if task != MEAN]
        self._lengths = sorted(set(column(rows, "length")))
        # Every score has one place: runs that would share one were refused.
        self._cells = {(row["task"], row["length"], row["reader"]): row for row in rows}
        # The mean over a single task would be that task again.
        self.total = self._tasks[0]
        self._what = self.total
        if len(self._tasks) > 1:
            self.total = MEAN
            self._what = f"mean of {len(self._tasks)} tasks"

    def _find(self, task: str, length: int) -> dict[str, Row]:
        """Returns the scores at a task and a length, by system."""
        found = {}
        for system in self._systems:
            cell = self._cells.get((task, length, system))
            if cell is not None:
                found[system] = cell
        return found

    def by_length(self) -> Iterator[str]:
        """Yields the table of one score a length, where there is such a score."""
        lines = []
        for length in self._lengths:
            cells = self._find(self.total, length)
            if cells:
                lines.append((tokens(length), cells))
        # Documents have one length, which says nothing.
        of_lengths = self._lengths != [0] and (len(self._lengths) > 1 or len(self._tasks) == 1)
        if lines and of_lengths:
            yield score_table(f"Score by length, {self._what}", "length", lines, self._systems)

    def by_task(self) -> Iterator[str]:
        """Yields a table of one score a task for each length, where there are several tasks."""
        if len(self._tasks) == 1 and self._lengths != [0]:
            return
        for length in self._lengths:
            table = self._tasks_at(length)
            if len(self._lengths) == 1:
                yield table
            else:
                name = f"<summary>Every task, {tokens(length)}</summary>"
                # Tables of many lengths are folded: the one by length comes first.
                yield f"<details>{name}{table}</details>"

    def _tasks_at(self, length: int) -> str:
        lines = []
        # Of one task the total is that task.
        for task in dict.fromkeys((*self._tasks, self.total)):
            cells = self._find(task, length)
            if cells:
                lines.append((task, cells))
        caption = f"Score by task, {tokens(length)}"
        table = score_table(caption, "task", lines, self._systems, total=MEAN)
        if not self._find(self.total, length):
            table += (
                "<p>There is no mean over the tasks: not every system answered the same ones.</p>"
            )
        return table

    def costs(self, charted: Sequence[Row]) -> str:
        """Returns the table of what answers took; one a task where there is no mean over them."""
        # One row a system is enough where there is a mean.
        if charted:
            return cost_table(self._what, charted)
        tables = []
        for task in self._tasks:
            tables.append(cost_table(task, select(self._rows, task=task)))
        inside = "".join(tables)
        return f"<details><summary>What an answer took, every task</summary>{inside}</details>"
