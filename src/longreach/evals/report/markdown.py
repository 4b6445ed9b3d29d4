"""The small twin of a report's page, for a README: a table a suite, and what was run."""

from __future__ import annotations

from collections.abc import Iterator

from longreach.evals.report.parts import NOT_MEASURED, RESCORED
from longreach.evals.run.rows import Row
from longreach.evals.suites.registry import find_report
from longreach.wording import counted


def markdown(figures: Row) -> str:
    """Returns scores with their 95% intervals, and what they took, as Markdown.

    What they took is that at the greatest length, or of the last task.

    Args:
        figures: As `report.figures` gives them.
    """
    parts = []
    for suite in figures["suites"]:
        report = find_report(suite["suite"])
        parts.append(f"### {report.title}")
        parts += _notes(suite)
        # A run that answered nothing yet has no table.
        if suite["rows"]:
            parts.append("\n".join(report.show_small(suite)))
    parts.append("\n".join(map(_run, figures["runs"])))
    return "\n\n".join(parts) + "\n"


def _notes(suite: Row) -> Iterator[str]:
    if suite["unfinished"]:
        yield f"Unfinished so far: {', '.join(suite['unfinished'])}."
    if not suite["same_samples"]:
        yield "The runs answered different samples: compare systems of one label only."
    if not suite["rows"]:
        yield f"No answers yet: {NOT_MEASURED}."


def _run(about: Row) -> str:
    name = about["run"]
    if about["label"]:
        name = f"{name} ({about['label']})"
    asked = f"{counted(about['samples'], 'sample')}, seed {about['seed']}"
    state = about["state"]
    if about["rescored"]:
        state = f"{state}; {RESCORED}"
    where = _hardware(about["hardware"])
    return f"- {name}: `{about['command']}`; {asked}; {where}; {about['started']}; {state}."


def _hardware(hardware: object) -> str:
    if isinstance(hardware, dict):
        return ", ".join(f"{key} {value}" for key, value in hardware.items())
    return str(hardware or "")
