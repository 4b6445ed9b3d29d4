"""Runs side by side: what a report says, as one JSON object that the page and its twin are made of.

Only what can be compared shares a table: the same samples, and systems that are what they were.
Otherwise the runs have to be labeled, and each keeps columns of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations, starmap
from typing import NamedTuple

from longreach.errors import UsageError
from longreach.evals.report.parts import name_column
from longreach.evals.report.runs import Run
from longreach.evals.run.folder import COSTS
from longreach.evals.run.rows import JsonObject, Row
from longreach.evals.suites.registry import find_report
from longreach.wording import counted


class LabeledRun(NamedTuple):
    """A run and its label; "" where runs are not told apart."""

    run: Run
    label: str


def figures(runs: Sequence[Run], labels: Sequence[str] = ()) -> JsonObject:
    """Returns everything a report says about runs.

    Args:
        runs: In the order of their columns.
        labels: A name for each run, which its systems then bear: "full (before)"; or none.

    Returns:
        "runs": what was run; "suites": for each the names of its systems ("readers"), the rows of
        their scores, and what the suite adds: "depths" (needles by depth), "break_even" (what
        compressing documents costs and saves).

    Raises:
        UsageError: There are no runs, not as many labels, or runs that cannot be compared and have
            no labels.
    """
    if not runs:
        raise UsageError(
            "There is nothing to report: give the folders of runs that `longreach eval` wrote."
        )
    if labels and len(labels) != len(runs):
        named = f"{counted(len(labels), 'label')} for {counted(len(runs), 'run')}"
        raise UsageError(f"The report was given {named}: give --label once for each run.")
    labeled = list(map(LabeledRun, runs, labels or [""] * len(runs)))
    # Labels tell apart what may not share a column.
    for one, other in combinations(labeled, 2):
        if one.run.suite == other.run.suite and one.label == other.label:
            _check_comparable(one.run, other.run)
    by_suite: dict[str, list[LabeledRun]] = defaultdict(list)
    for one in labeled:
        by_suite[one.run.suite].append(one)
    return {
        "runs": list(starmap(_about, labeled)),
        "suites": list(starmap(_suite, by_suite.items())),
    }


def _check_comparable(one: Run, other: Run) -> None:
    """Raises UsageError where two runs of a suite may not share a table."""
    remedy = "report them apart, or name each run with --label"
    names = f"'{one.name}' and '{other.name}'"
    for system in one.systems.keys() & other.systems.keys():
        differing = _differing(one.systems[system], other.systems[system])
        if differing:
            raise UsageError(
                f"System '{system}' is not the same in {names} ({', '.join(differing)}): {remedy}."
            )
    mine = set(map(_cell, find_rows(one)))
    theirs = set(map(_cell, find_rows(other)))
    # Other lengths are other samples: they share a table as long as no cell is asked twice.
    asked = {cell[1:] for cell in mine} & {cell[1:] for cell in theirs}
    same_settings = one.record["settings"] == other.record["settings"]
    same_samples = one.record["samples_digest"] == other.record["samples_digest"]
    if not same_samples and (asked or same_settings):
        raise UsageError(f"{names} answered different samples of {one.suite}: {remedy}.")
    both = sorted(cell[0] for cell in mine & theirs)
    if both:
        raise UsageError(
            f"{names} both hold the answers of '{both[0]}' to the same samples: {remedy}."
        )


def _differing(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Returns what tells two systems apart; how long it took to prepare them does not."""
    found = []
    for key in sorted(one.keys() | other.keys()):
        if key not in COSTS and one.get(key) != other.get(key):
            found.append(key)
    return found


def _cell(row: Row) -> tuple[str, ...]:
    """Returns where a row stands: its system, and what that was asked."""
    where = row["bucket"] if "bucket" in row else (row["task"], row["length"])
    return (row["reader"], *map(str, where))


def _about(run: Run, label: str) -> JsonObject:
    about = {
        "run": run.name,
        "label": label,
        "state": run.state,
        "predictions": len(run.predictions),
        "rescored": run.rescored,
        **run.record,
    }
    about.pop("longreach_run", None)
    return about


def _suite(suite: str, group: Sequence[LabeledRun]) -> JsonObject:
    report = find_report(suite)
    rows = []
    systems = []
    unfinished = []
    labels = set()
    digests = set()
    own: dict[str, list[Row]] = {}
    for run, label in group:
        labels.add(label)
        digests.add(run.record["samples_digest"])
        # Columns of labeled runs stay apart.
        named = [name_column(system, label) for system in run.systems]
        systems += named
        if run.rows is None:
            unfinished += named
        for row in find_rows(run):
            rows.append({**row, "reader": name_column(row["reader"], label)})
        for name, added in report.own_figures(run, label).items():
            own.setdefault(name, []).extend(added)
    return {
        "suite": suite,
        "readers": list(dict.fromkeys(systems)),
        "unfinished": unfinished,
        # Without labels, `_check_comparable` has already refused what does not belong together.
        "same_samples": len(digests) == 1 or labels == {""},
        "rows": report.choose_rows(rows),
        **own,
    }


def find_rows(run: Run) -> list[Row]:
    """Returns the rows of a run's scores; of an unfinished run those of the predictions so far."""
    if run.rows is not None:
        return list(run.rows)
    return list(find_report(run.suite).add_up(run.predictions))
