"""The small twin of a report's page, for a README: one table a suite, and the commands that bring
it again."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from longreach.evals.report.page import TITLES
from longreach.evals.report.parts import (
    NOT_MEASURED,
    RESCORED,
    Row,
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
from longreach.evals.report.runs import MEAN
from longreach.wording import counted

_MOST_TASKS = 5
_COSTS = (
    ("positions", "positions", count),
    ("first_token_seconds", "first token", seconds),
    ("kv_bytes", "KV", size),
)


def markdown(figures: Mapping[str, Any]) -> str:
    """Scores with their 95% intervals and what they took at the greatest length, or of the last
    task, as Markdown."""
    parts = []
    for suite in figures["suites"]:
        parts.append(f"### {TITLES.get(suite['suite'], suite['suite'])}")
        parts += _notes(suite)
        if suite["rows"]:
            parts.append(
                "\n".join(_perplexity(suite) if suite["suite"] == "perplexity" else _answers(suite))
            )
    parts.append("\n".join(map(_run, figures["runs"])))
    return "\n\n".join(parts) + "\n"


def _notes(suite: Row) -> Iterator[str]:
    if suite["unfinished"]:
        yield f"Unfinished so far: {', '.join(suite['unfinished'])}."
    if not suite["same_samples"]:
        yield "The runs answered different samples: compare readers of one label only."
    if not suite["rows"]:
        yield f"No answers yet: {NOT_MEASURED}."


def _answers(suite: Row) -> Iterator[str]:
    rows = suite["rows"]
    cells = {(row["task"], row["length"], row["reader"]): row for row in rows}
    lengths = sorted({row["length"] for row in rows})
    tasks = [task for task in dict.fromkeys(row["task"] for row in rows) if task != MEAN]
    total = MEAN if len(tasks) > 1 else tasks[0]
    if len(lengths) > 1:
        columns = {tokens(length): (total, length) for length in lengths}
    else:
        shown = tasks if len(tasks) <= _MOST_TASKS else []
        columns = {
            task: (task, lengths[0]) for task in (*shown, *([MEAN] if len(tasks) > 1 else []))
        }
    columns = {
        name: where
        for name, where in columns.items()
        if any((*where, r) in cells for r in suite["readers"])
    }
    # There is no mean: not all answered the same.
    columns = columns or {task: (task, lengths[-1]) for task in tasks}
    most = [
        max(row["samples"] for row in rows if (row["task"], row["length"]) == at)
        for at in columns.values()
    ]
    last = list(columns)[-1]
    where = "" if len(columns) == 1 or last == MEAN else f", {last}"
    yield from _head(["reader", *columns, *(name + where for _, name, _ in _COSTS)])
    for reader in suite["readers"]:
        own = [cells.get((*where, reader)) for where in columns.values()]
        costs = (_said((own[-1] or {}).get(key), text) for key, _, text in _COSTS)
        yield _line([reader, *map(_score, own, most), *costs])


def _score(row: Row | None, most: int) -> str:
    """A score and its interval, and how many samples it is of where another reader answered
    more."""
    if not row:
        return NOT_MEASURED
    fewer = f"; {count(row['samples'])} of {count(most)}" if row["samples"] < most else ""
    span = f"{score(row['low'])} to {score(row['high'])}" if has_interval(row) else too_few(row)
    return f"{score(row['score'])} ({span}{fewer})"


def _perplexity(suite: Row) -> Iterator[str]:
    cells = {(tuple(row["bucket"]), row["reader"]): row["perplexity"] for row in suite["rows"]}
    buckets = sorted({bucket for bucket, _ in cells})
    yield from _head(["reader", *map(between, buckets)])
    for reader in suite["readers"]:
        yield _line([reader, *(_said(cells.get((bucket, reader)), plain) for bucket in buckets)])


def _said(value: Any, text: Any) -> str:
    return NOT_MEASURED if value is None else text(value)


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _line(names)
    yield _line(["---", *("---:" for _ in names[1:])])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _run(about: Row) -> str:
    hardware = about["hardware"] or {}
    where = (
        ", ".join(f"{key} {value}" for key, value in hardware.items())
        if isinstance(hardware, dict)
        else hardware
    )
    name = about["run"] + (f" ({about['label']})" if about["label"] else "")
    asked = f"{counted(about['samples'], 'sample')}, seed {about['seed']}"
    state = about["state"] + (f"; {RESCORED}" if about["rescored"] else "")
    return f"- {name}: `{about['command']}`; {asked}; {where}; {about['started']}; {state}."
