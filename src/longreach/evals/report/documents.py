"""The report of documents: score against positions, and after how many questions memory pays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from longreach.evals.report.answers import AnswerReport
from longreach.evals.report.axis import Axis
from longreach.evals.report.base import Styles
from longreach.evals.report.charts import Point, Series, line_chart
from longreach.evals.report.figures import chart_row, series_of
from longreach.evals.report.parts import (
    NOT_MEASURED,
    count,
    data,
    name_column,
    plain,
    seconds,
    table,
)
from longreach.evals.run.folder import COSTS
from longreach.evals.run.rows import JsonObject, Row, column, select
from longreach.evals.systems.names import FULL, OF_MEMORY
from longreach.wording import noun_of

if TYPE_CHECKING:
    from longreach.evals.report.runs import Run

_HEADS = (
    "system",
    "ingest",
    "study",
    "a question",
    "a question in full",
    "questions timed",
    "pays after",
)


class DocumentReport(AnswerReport):
    """Scores of answers, and what it costs and saves to prepare documents."""

    def own_figures(self, run: Run, label: str) -> dict[str, list[Row]]:
        """Returns what preparing costs and saves, under "break_even"."""
        return {"break_even": list(_weigh_costs(run, label))}

    def show_own_charts(self, found: Row, styles: Styles) -> Iterator[str]:
        """Yields the chart of score against positions."""
        return by_positions(found["rows"], found["readers"], styles)

    def show_own_tables(self, found: Row, styles: Styles) -> Iterator[str]:
        """Yields the table of when preparing documents pays."""
        return break_even(found["break_even"], styles)


def _weigh_costs(run: Run, label: str) -> Iterator[Row]:
    """Yields for each system that reads memory what preparing costs and what a question saves.

    Both ways of reading are timed on the questions that both answered. What is not known stays
    None: nothing is estimated.
    """
    times: dict[str, dict[str, float | None]] = {}
    for line in run.predictions:
        times.setdefault(line["reader"], {})[line["id"]] = line.get("seconds")
    tasks = list(dict.fromkeys(column(run.predictions, "task")))
    # A label may stand behind the name: "full (before)".
    full = next((system for system in run.systems if _first_word(system) == FULL), None)
    whole = times.get(full or "", {})
    for system, identity in run.systems.items():
        if _first_word(system) not in OF_MEMORY and not any(key in identity for key in COSTS):
            continue
        own = times.get(system, {})
        both = []
        for name, spent in own.items():
            # Timed on other questions the two would not compare.
            if spent is not None and whole.get(name) is not None:
                both.append(name)
        row: JsonObject = {
            "reader": name_column(system, label),
            "tasks": tasks,
            "full": name_column(full, label) if full else None,
            "questions": len(both),
        }
        for key in COSTS:
            row[key] = _cost_of(identity, key)
        row["seconds"] = _mean(map(own.get, both))
        row["full_seconds"] = _mean(map(whole.get, both))
        yield row | _find_break_even(row)


def _first_word(system: str) -> str:
    return system.partition(" ")[0]


def _cost_of(identity: Mapping[str, object], key: str) -> float | None:
    # Nothing was studied where no adapter is read with.
    unstudied = key == "study_seconds" and identity.get("adapter", "") is None
    cost = identity.get(key, 0.0 if unstudied else None)
    return cost if isinstance(cost, int | float) else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _find_break_even(row: Row) -> JsonObject:
    """Returns the least number of questions after which preparing has paid; None: it never does."""
    ingest = row["ingest_seconds"]
    study = row["study_seconds"]
    each = row["seconds"]
    each_in_full = row["full_seconds"]
    # What was not measured is not estimated.
    if None in (ingest, study, each, each_in_full):
        return {"measured": False, "questions_to_pay": None}
    saved = each_in_full - each
    # Where a question saves nothing, the preparation is never paid for.
    least = math.ceil((ingest + study) / saved) if saved > 0 else None
    return {"measured": True, "questions_to_pay": least}


def by_positions(rows: Sequence[Row], systems: Sequence[str], styles: Styles) -> Iterator[str]:
    """Yields the score of each system against the positions it read, task by task."""
    charts = []
    for task in dict.fromkeys(column(rows, "task")):
        own = [row for row in select(rows, task=task) if row.get("positions")]
        if own:
            found = column(own, "positions")
            # A full text takes many times the positions of memory, beside which all others would
            # be one point on a linear axis.
            x = Axis("positions read", count, log=max(found) > 8 * min(found), zero=False)
            title = f"Score and its interval against positions read, {task}"
            series = series_of(own, systems, styles, "positions", "score")
            charts.append(line_chart(title, series, x, Axis("Score", plain), joined=False))
    if charts:
        yield "<h3>Score against positions read</h3>" + chart_row(charts, systems, styles)


def break_even(rows: Sequence[Row], styles: Styles) -> Iterator[str]:
    """Yields after how many questions preparing the documents has paid for itself."""
    if not rows:
        return
    yield "<h3>When preparing documents pays</h3>"
    yield (
        "<p>Ingest and study, of all documents of a run, happen once; each question then takes"
        " less, or more, than reading the full document again. Both ways are timed on the questions"
        " that both answered.</p>"
    )
    # A dictionary keeps the order in which systems come, each once.
    lines = []
    charts = []
    shown: dict[str, None] = {}
    about = set(map(tuple, column(rows, "tasks")))
    for row in rows:
        name = row["reader"]
        if len(about) > 1:  # runs about other documents
            name = f"{name}, {', '.join(row['tasks'])}"
        lines.append(_line(name, row))
        # Lines that never cross are no chart.
        if row["questions_to_pay"]:
            charts.append(_chart(name, row, styles))
        for system in (row["full"], row["reader"]):
            if system:
                shown[system] = None
    yield table("Seconds spent once and for each question", _HEADS, lines)
    if charts:
        yield chart_row(charts, list(shown), styles)


def _line(name: str, row: Row) -> str:
    cells = [f'<th scope="row">{escape(name)}</th>']
    for key in (*COSTS, "seconds", "full_seconds"):
        cells.append(f"<td>{data(row[key], seconds)}</td>")
    cells.append(f"<td>{data(row['questions'], count)}</td>")
    cells.append(f"<td>{_verdict(row)}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _verdict(row: Row) -> str:
    if not row["measured"]:
        return NOT_MEASURED
    least = row["questions_to_pay"]
    if least is None:
        return "never: a question takes no less"
    return f"{data(least, count)} {noun_of(least, 'question')}"


def _chart(name: str, row: Row, styles: Styles) -> str:
    """Returns the chart of seconds in all, where the lines of both ways cross."""
    once = row["ingest_seconds"] + row["study_seconds"]
    least = row["questions_to_pay"]
    # The lines cross in the middle of the chart.
    asked = [0, least, 2 * least]
    prepared = []
    full = []
    for number in asked:
        prepared.append(Point(number, once + number * row["seconds"]))
        full.append(Point(number, number * row["full_seconds"]))
    series = [
        Series(row["full"], styles[row["full"]], full),
        Series(row["reader"], styles[row["reader"]], prepared),
    ]
    title = f"Seconds in all, by questions: {name} pays after {least:,}"
    x = Axis("questions", count, ticks=asked)
    return line_chart(title, series, x, Axis("Seconds in all", plain))
