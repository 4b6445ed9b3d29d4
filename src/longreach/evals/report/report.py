"""Runs side by side: what a report says, as one JSON object that the page and its Markdown twin are
made of.

Only what can be compared shares a table: the same samples, and readers that are what they were.
Otherwise the runs have to be labelled, and each keeps columns of its own.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from longreach.errors import UsageError
from longreach.evals.report.runs import MEAN, Run
from longreach.evals.run.folder import COSTS, score_rows
from longreach.wording import counted

Row = Mapping[str, Any]
_VECTORS = ("mean-pool", "compressed", "mixed")


def figures(runs: Sequence[Run], labels: Sequence[str] = ()) -> dict[str, Any]:
    """Everything a report says about runs.

    Args:
        runs: in the order of their columns.
        labels: a name for each run, which its readers then bear: "full (before)"; or none.

    Returns:
        "runs": what was run; "suites": for each the names of its readers, the rows of their scores,
        and as far as they were measured "depths" (needles by depth) and "break_even" (what
        compressing documents costs and saves).

    Raises:
        UsageError: there are no runs, not as many labels, or runs that cannot be compared and have
            no labels.
    """
    if not runs:
        raise UsageError(
            "There is nothing to report: give the folders of runs that `longreach eval` wrote."
        )
    if labels and len(labels) != len(runs):
        named = f"{counted(len(labels), 'label')} for {counted(len(runs), 'run')}"
        raise UsageError(f"The report was given {named}: give --label once for each run.")
    marks = list(labels) or [""] * len(runs)
    for (one, mark), (other, other_mark) in combinations(zip(runs, marks, strict=True), 2):
        if one.suite == other.suite and mark == other_mark:
            _comparable(one, other)
    by_suite: dict[str, list[tuple[Run, str]]] = defaultdict(list)
    for run, mark in zip(runs, marks, strict=True):
        by_suite[run.suite].append((run, mark))
    return {
        "runs": [_about(run, mark) for run, mark in zip(runs, marks, strict=True)],
        "suites": [_suite(suite, group) for suite, group in by_suite.items()],
    }


def _comparable(one: Run, other: Run) -> None:
    """Refuses two runs of a suite that may not share a table."""
    remedy = "report them apart, or name each run with --label"
    names = f"'{one.name}' and '{other.name}'"
    for reader in one.readers.keys() & other.readers.keys():
        if differing := _differing(one.readers[reader], other.readers[reader]):
            raise UsageError(
                f"Reader '{reader}' is not the same in {names} ({', '.join(differing)}): {remedy}."
            )
    mine, theirs = ({_cell(row): row for row in _rows(run)} for run in (one, other))
    asked = {cell[1:] for cell in mine} & {cell[1:] for cell in theirs}
    same_settings = one.record["settings"] == other.record["settings"]
    if one.record["samples_digest"] != other.record["samples_digest"] and (asked or same_settings):
        raise UsageError(f"{names} answered different samples of {one.suite}: {remedy}.")
    if both := sorted(cell[0] for cell in mine.keys() & theirs.keys()):
        raise UsageError(
            f"{names} both hold the answers of '{both[0]}' to the same samples: {remedy}."
        )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What tells two readers apart; how long it took to prepare them does not."""
    keys = sorted(key for key in one.keys() | other.keys() if key not in COSTS)
    return [key for key in keys if one.get(key) != other.get(key)]


def _cell(row: Row) -> tuple[str, ...]:
    where = row["bucket"] if "bucket" in row else (row["task"], row["length"])
    return (row["reader"], *map(str, where))


def _about(run: Run, label: str) -> dict[str, Any]:
    about = {key: value for key, value in run.record.items() if key != "longreach_run"}
    of_run = {
        "run": run.name,
        "label": label,
        "state": run.state,
        "predictions": len(run.predictions),
    }
    return of_run | {"rescored": run.rescored} | about


def _suite(suite: str, group: Sequence[tuple[Run, str]]) -> dict[str, Any]:
    rows = [
        {**row, "reader": _named(row["reader"], mark)} for run, mark in group for row in _rows(run)
    ]
    found: dict[str, Any] = {
        "suite": suite,
        "readers": [_named(reader, mark) for run, mark in group for reader in run.readers],
        "unfinished": [
            _named(reader, mark)
            for run, mark in group
            if run.rows is None
            for reader in run.readers
        ],
        "same_samples": (
            len({run.record["samples_digest"] for run, mark in group}) == 1
            or not any(m for _, m in group)
        ),
        "rows": rows if suite == "perplexity" else list(_fair(rows)),
    }
    found["readers"] = list(dict.fromkeys(found["readers"]))
    if suite == "niah":
        found["depths"] = [row for run, mark in group for row in _depths(run, mark)]
    if suite == "docqa":
        found["break_even"] = [row for run, mark in group for row in _break_even(run, mark)]
    return found


def _named(reader: str, label: str) -> str:
    return f"{reader} ({label})" if label else reader


def _rows(run: Run) -> list[Row]:
    """The rows of a run's scores; of an unfinished run those of the predictions so far."""
    if run.rows is not None:
        return list(run.rows)
    if run.suite != "perplexity":
        return list(score_rows(run.predictions))
    from longreach.evals.suites.perplexity import bucket_rows

    return list(bucket_rows(run.predictions))


def _groups(lines: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for line in lines:
        found[
            tuple(tuple(line[key]) if isinstance(line[key], list) else line[key] for key in keys)
        ].append(line)
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def _fair(rows: Sequence[Row]) -> Iterator[Row]:
    """Rows without means over tasks that are not those of the other readers at that length."""
    tasks: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["task"] != MEAN:
            tasks[row["length"]][row["reader"]].append(row["task"])
    for row in rows:
        alike = {tuple(sorted(found)) for found in tasks[row["length"]].values()}
        # Two runs may have shared out the tasks.
        once = sum(_cell(row) == _cell(other) for other in rows) == 1
        if row["task"] != MEAN or (len(alike) == 1 and once):
            yield row


def _depths(run: Run, label: str) -> Iterator[Row]:
    """The mean score at each depth of a needle."""
    lines = [
        {**line, "depth": line["tags"]["depth"]}
        for line in run.predictions
        if "depth" in line["tags"]
    ]
    for (reader, task, length, depth), found in _groups(
        lines, "reader", "task", "length", "depth"
    ).items():
        score = 100 * sum(line["score"] for line in found) / len(found)
        where = {"reader": _named(reader, label), "task": task, "length": length, "depth": depth}
        yield where | {"samples": len(found), "score": score}


def _break_even(run: Run, label: str) -> Iterator[Row]:
    """What it costs to prepare a corpus for a reader, and what each question then saves over
    reading it in full.

    Both are timed on the questions that both answered. What is not known stays None: nothing is
    estimated.
    """
    seconds = {
        reader: {line["id"]: line.get("seconds") for line in lines}
        for (reader,), lines in _groups(run.predictions, "reader").items()
    }
    full = next((reader for reader in run.readers if reader.partition(" ")[0] == "full"), None)
    for reader, identity in run.readers.items():
        if reader.partition(" ")[0] not in _VECTORS and not any(key in identity for key in COSTS):
            continue
        unstudied = {"study_seconds": 0.0} if identity.get("adapter", "") is None else {}
        mine, whole = seconds.get(reader, {}), seconds.get(full or "", {})
        both = [id for id in mine if mine[id] is not None and whole.get(id) is not None]
        row: dict[str, Any] = {
            "reader": _named(reader, label),
            "tasks": list(dict.fromkeys(line["task"] for line in run.predictions)),
            "full": _named(full, label) if full else None,
            "questions": len(both),
            **{key: identity.get(key, unstudied.get(key)) for key in COSTS},
            "seconds": _mean(mine[id] for id in both),
            "full_seconds": _mean(whole[id] for id in both),
        }
        yield {**row, **_pays(row)}


def _pays(row: Row) -> Row:
    """The least number of questions after which preparing and asking took less than reading in
    full; None: never."""
    known = (*(row[key] for key in COSTS), row["seconds"], row["full_seconds"])
    if any(value is None for value in known):
        return {"measured": False, "questions_to_pay": None}
    ingest, study, compressed, full = known
    saved = full - compressed
    return {
        "measured": True,
        "questions_to_pay": math.ceil((ingest + study) / saved) if saved > 0 else None,
    }
