"""`longreach report`: one page out of the runs of `longreach eval`."""

from collections.abc import Iterable
from pathlib import Path

import typer

from longreach.cli.output import JsonOption, emit, note
from longreach.wording import counted


def report(
    runs: list[Path] = typer.Argument(
        ..., metavar="RUNS...", help="Folders that `longreach eval` wrote."
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="FILE", help="Where the page goes, such as report.html."
    ),
    markdown: Path | None = typer.Option(
        None, "--markdown", metavar="FILE", help="Where a short version for a README goes."
    ),
    labels: list[str] | None = typer.Option(
        None,
        "--label",
        metavar="TEXT",
        help="A name for each run, in order; runs of different names get columns of their own.",
    ),
    as_json: bool = JsonOption,
) -> None:
    """Put runs side by side: one page with tables, charts and what was run, which needs no network.

    Example: longreach report runs/niah runs/docqa --out report.html --markdown report.md
    """
    from longreach.evals.report.markdown import markdown as make_twin
    from longreach.evals.report.page import page
    from longreach.evals.report.report import figures
    from longreach.evals.report.runs import read_run

    # Checked before any run is read, because reading many takes a while.
    check_targets(runs, out, markdown)
    found = figures(list(map(read_run, runs)), labels or ())
    out.write_text(page(found), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(make_twin(found), encoding="utf-8")
    unfinished = []
    for about in found["runs"]:
        if about["state"] != "finished":
            unfinished.append(about["run"])
    # Its figures are those so far, which the page says as well.
    if unfinished:
        note(f"not finished yet: {', '.join(unfinished)}")
    if as_json:
        written = None if markdown is None else str(markdown)
        emit({**found, "out": str(out), "markdown": written})
    else:
        note(f"{out}: {counted(len(runs), 'run')}")


def check_targets(runs: Iterable[Path], out: Path, markdown: Path | None) -> None:
    """Raises UsageError where a page cannot be written, or would take the place of a run's file."""
    from longreach.errors import UsageError
    from longreach.evals.report.runs import FILES

    taken = set()
    for run in runs:
        for name in FILES:
            # Resolved, because a link or another spelling may lead to the same file.
            taken.add((run / name).resolve())
    for path in (out, markdown):
        if path is None:
            continue
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UsageError(f"'{path}' cannot be written: give a file in a folder that exists.")
        if path.resolve() in taken:
            raise UsageError(
                f"'{path}' is a file of a run that is to be reported: give another one."
            )
    if markdown is not None and markdown.resolve() == out.resolve():
        raise UsageError(
            f"'{out}' is to be the page and its twin, the same file: give --markdown another one."
        )
