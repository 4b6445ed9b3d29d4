"""The report of needles: scores by depth, as heat maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from longreach.evals.report.answers import AnswerReport
from longreach.evals.report.base import Styles
from longreach.evals.report.heat import heat_map
from longreach.evals.report.parts import box, depth, name_column, tokens
from longreach.evals.run.rows import Row, column, select

if TYPE_CHECKING:
    from longreach.evals.report.runs import Run


class DepthReport(AnswerReport):
    """Scores of answers, and those of needles by length and depth."""

    def own_figures(self, run: Run, label: str) -> dict[str, list[Row]]:
        """Returns the mean scores at each depth, under "depths"."""
        return {"depths": list(_mean_by_depth(run.predictions, label))}

    def show_own_charts(self, found: Row, styles: Styles) -> Iterator[str]:
        """Yields a heat map for each system and task."""
        return by_depth(found["depths"], found["readers"])


def _mean_by_depth(lines: Sequence[Row], label: str) -> Iterator[Row]:
    groups: dict[tuple[str, str, int, float], list[float]] = {}
    for line in lines:
        # Runs of other programs may have none.
        if "depth" in line["tags"]:
            where = (line["reader"], line["task"], line["length"], line["tags"]["depth"])
            groups.setdefault(where, []).append(line["score"])
    for (system, task, length, depth_percent), scores in groups.items():
        yield {
            "reader": name_column(system, label),
            "task": task,
            "length": length,
            "depth": depth_percent,
            "samples": len(scores),
            "score": 100 * sum(scores) / len(scores),
        }


def by_depth(rows: Sequence[Row], systems: Sequence[str]) -> Iterator[str]:
    """Yields a heat map for each system and task, length by depth."""
    tasks = list(dict.fromkeys(column(rows, "task")))
    lengths = sorted(set(column(rows, "length")))
    columns = list(map(tokens, lengths))
    maps = []
    for task in tasks:
        for system in systems:
            own = select(rows, reader=system, task=task)
            if own:
                # One task needs no name.
                caption = system if len(tasks) == 1 else f"{system}, {task}"
                shown = heat_map(caption, "depth", _arrange(own), columns)
                maps.append(box(caption, shown))
    if maps:
        inside = "".join(maps)
        yield f'<h3>Score by length and depth of the needle</h3><div class="maps">{inside}</div>'


def _arrange(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Returns scores by depth, and there by length, as they are called in tables."""
    cells: dict[str, dict[str, float]] = {}
    for row in sorted(rows, key=lambda row: row["depth"]):
        cells.setdefault(depth(row["depth"]), {})[tokens(row["length"])] = row["score"]
    return cells
