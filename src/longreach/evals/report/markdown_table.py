"""One table a suite in Markdown, small enough for a README."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from longreach.evals.report.parts import (
    NOT_MEASURED,
    between,
    count,
    has_interval,
    plain,
    score,
    seconds,
    size,
    tokens,
    too_few,
)
from longreach.evals.run.rows import MEAN, Row, column, select

_MOST_TASKS = 5
_COSTS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("positions", "positions", count),
    ("first_token_seconds", "first token", seconds),
    ("kv_bytes", "KV", size),
)
Place = tuple[str, int]
"""A task and a length."""


def answers_table(found: Row) -> Iterator[str]:
    """Yields scores with their intervals, and what answers took, a line a system.

    Args:
        found: The figures of a suite, as `report.figures` gives them.
    """
    systems: Sequence[str] = found["readers"]
    cells = {(row["task"], row["length"], row["reader"]): row for row in found["rows"]}
    columns = _choose_columns(found["rows"])
    most = []
    for task, length in columns.values():
        shown = select(found["rows"], task=task, length=length)
        most.append(max(column(shown, "samples")))
    last = list(columns)[-1]
    # What answers took is that of the last column.
    where = "" if len(columns) == 1 or last == MEAN else f", {last}"
    heads = ["system", *columns]
    for _, name, _ in _COSTS:
        heads.append(name + where)
    yield from _head(heads)
    for system in systems:
        own = [cells.get((*place, system)) for place in columns.values()]
        line = [system, *map(_score, own, most)]
        for key, _, text in _COSTS:
            line.append(_said((own[-1] or {}).get(key), text))
        yield _line(line)


def _choose_columns(rows: Sequence[Row]) -> dict[str, Place]:
    """Returns the columns by name: lengths where there are several, else tasks where they are few.

    Columns without any figure are omitted.
    """
    lengths = sorted(set(column(rows, "length")))
    named = dict.fromkeys(column(rows, "task"))
    tasks = [task for task in named if task != MEAN]
    total = MEAN if len(tasks) > 1 else tasks[0]
    columns: dict[str, Place] = {}
    if len(lengths) > 1:
        for length in lengths:
            columns[tokens(length)] = (total, length)
    else:
        # A README is narrow.
        shown = [*tasks] if len(tasks) <= _MOST_TASKS else []
        if len(tasks) > 1:
            shown.append(MEAN)
        for task in shown:
            columns[task] = (task, lengths[0])
    found = {}
    for name, (task, length) in columns.items():
        if select(rows, task=task, length=length):
            found[name] = (task, length)
    # There is no mean: not all answered the same.
    return found or {task: (task, lengths[-1]) for task in tasks}


def _score(row: Row | None, most: int) -> str:
    """Returns a score and its interval, and its samples where another system answered more."""
    if not row:
        return NOT_MEASURED
    span = too_few(row)
    if has_interval(row):
        span = f"{score(row['low'])} to {score(row['high'])}"
    if row["samples"] < most:
        span += f"; {count(row['samples'])} of {count(most)}"
    return f"{score(row['score'])} ({span})"


def buckets_table(found: Row) -> Iterator[str]:
    """Yields perplexity by position, a line a system."""
    cells = {(tuple(row["bucket"]), row["reader"]): row["perplexity"] for row in found["rows"]}
    buckets = sorted(set(map(tuple, column(found["rows"], "bucket"))))
    yield from _head(["system", *map(between, buckets)])
    for system in found["readers"]:
        line = [system]
        for bucket in buckets:
            line.append(_said(cells.get((bucket, system)), plain))
        yield _line(line)


def _said(value: float | None, text: Callable[[float], str]) -> str:
    return NOT_MEASURED if value is None else text(value)


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _line(names)
    yield _line(["---", *["---:"] * (len(names) - 1)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escape, cells))} |"


def _escape(cell: str) -> str:
    # A bar would end the cell.
    return cell.replace("|", "\\|")
