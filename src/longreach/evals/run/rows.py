"""The scores of a run: a row for each system, task and length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from longreach.evals.scores.intervals import mean_interval

MEAN = "mean"
"""The task of the rows that hold the mean over a suite's tasks."""
MEANS = ("positions", "read_tokens", "first_token_seconds", "seconds", "kv_bytes", "peak_bytes")
"""What rows say of the mean sample."""
JsonObject = dict[str, Any]
"""An object of JSON that is being made, by its names."""
Row = Mapping[str, Any]
"""A line of predictions.jsonl or a row of scores.json."""


def column(rows: Iterable[Row], key: str) -> list[Any]:
    """Returns what rows hold under a key, in order."""
    return [row[key] for row in rows]


def select(rows: Iterable[Row], **fields: object) -> list[Row]:
    """Returns the rows that hold these values, such as `task="vt"`."""
    found = []
    for row in rows:
        if all(row[key] == value for key, value in fields.items()):
            found.append(row)
    return found


def score_rows(lines: Iterable[Row]) -> list[JsonObject]:
    """Returns a row for each system, task and length, and one for the mean over tasks.

    Scores are percent, with a 95% bootstrap interval over the samples, None where there are too few
    of them; that of a mean weighs every task the same, however many samples it has. Other figures
    are means over samples; tokens a second are of writing, after the first.

    Args:
        lines: Of predictions.jsonl.
    """
    groups: dict[tuple[str, int], dict[str, list[Row]]] = {}
    for line in lines:
        tasks = groups.setdefault((line["reader"], line["length"]), defaultdict(list))
        tasks[line["task"]].append(line)
    rows = []
    for (system, length), tasks in groups.items():
        for task, own in tasks.items():
            rows.append(_make_row(system, task, length, [own]))
        # Of one task the mean would be that row again.
        if len(tasks) > 1:
            rows.append(_make_row(system, MEAN, length, list(tasks.values())))
    return rows


def _make_row(system: str, task: str, length: int, groups: Sequence[Sequence[Row]]) -> JsonObject:
    """Returns the row of lines that are grouped by their task."""
    lines: list[Row] = []
    scores = []
    for own in groups:
        lines += own
        scores.append([100 * line["score"] for line in own])
    # Each task is drawn by itself, so that it weighs the same however many samples it has.
    found = mean_interval(scores)
    metrics = sorted(set(column(lines, "metric")))
    row = {
        "reader": system,
        "task": task,
        "length": length,
        "metric": metrics[0] if len(metrics) == 1 else "mixed",
        "samples": len(lines),
        "score": found.mean,
        "low": found.low,
        "high": found.high,
    }
    for key in MEANS:
        row[key] = sum(column(lines, key)) / len(lines)
    row["tokens_per_second"] = _count_tokens_per_second(lines)
    return row


def _count_tokens_per_second(lines: Iterable[Row]) -> float | None:
    """Returns how fast answers were written; None where no answer is longer than a token."""
    written = 0
    seconds = 0.0
    for line in lines:
        # The first token comes out of reading the prompt, which is not writing.
        if line["new_tokens"] > 1:
            written += line["new_tokens"] - 1
            seconds += line["seconds"] - line["first_token_seconds"]
    return written / seconds if seconds > 0 else None
