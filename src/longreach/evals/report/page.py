"""A report as one page of HTML that needs no network and no script: tables, charts, and what was
run.

Every figure of a table stands in a `data` element whose value is that of the JSON, to the last
digit.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import count
from string import Template
from typing import Any

from longreach.evals.report.charts import COLOURS
from longreach.evals.report.figures import break_even, by_bucket, by_depth, by_length, by_positions
from longreach.evals.report.parts import (
    NOT_MEASURED,
    RESCORED,
    Row,
    cost_table,
    score_table,
    tokens,
)
from longreach.evals.report.runs import MEAN

TITLES = {
    "niah": "Needle in a haystack",
    "ruler": "RULER",
    "babilong": "BABILong-style",
    "docqa": "Questions about documents",
    "perplexity": "Perplexity",
}


def page(figures: Mapping[str, Any]) -> str:
    """The page that shows the figures of `report.figures`."""
    styles = _styles([suite["readers"] for suite in figures["suites"]])
    sections = {
        suite["suite"]: (TITLES.get(suite["suite"], suite["suite"]), "".join(_suite(suite, styles)))
        for suite in figures["suites"]
    }
    sections["runs"] = ("What was run", "".join(map(_run, figures["runs"])))
    contents = (
        f'<li><a href="#{escape(name)}">{escape(title)}</a></li>'
        for name, (title, _) in sections.items()
    )
    shown = (
        f'<section id="{escape(name)}"><h2>{escape(title)}</h2>{inside}</section>'
        for name, (title, inside) in sections.items()
    )
    frame = Template(
        files("longreach.evals.report").joinpath("report.html").read_text(encoding="utf-8")
    )
    return frame.substitute(
        title="Longreach report", contents="\n".join(contents), sections="\n".join(shown)
    )


def _styles(suites: Sequence[Sequence[str]]) -> dict[str, int]:
    """A number for each reader, the same all over the page; no two of a suite share a colour while
    colours last."""
    styles: dict[str, int] = {}
    for reader in dict.fromkeys(reader for readers in suites for reader in readers):
        beside = {styles.get(other) for readers in suites if reader in readers for other in readers}
        styles[reader] = (
            len(styles)
            if len(styles) < COLOURS
            else next(free for free in count() if free not in beside)
        )
    return styles


def _suite(suite: Row, styles: Mapping[str, int]) -> Iterator[str]:
    readers, rows = suite["readers"], suite["rows"]
    if suite["unfinished"]:
        yield f"<p>Unfinished so far: {escape(', '.join(suite['unfinished']))}.</p>"
    if not suite["same_samples"]:
        yield "<p>The runs answered different samples: compare readers of one label only.</p>"
    if not rows:
        yield f"<p>No answers yet: {NOT_MEASURED}.</p>"
    elif suite["suite"] == "perplexity":
        yield from by_bucket(rows, readers, styles)
    else:
        yield from _answers(suite, styles)


def _answers(suite: Row, styles: Mapping[str, int]) -> Iterator[str]:
    readers, rows = suite["readers"], suite["rows"]
    tasks = [task for task in dict.fromkeys(row["task"] for row in rows) if task != MEAN]
    lengths = sorted({row["length"] for row in rows})
    total, what = (MEAN, f"mean of {len(tasks)} tasks") if len(tasks) > 1 else (tasks[0], tasks[0])
    cells = {(row["task"], row["length"], row["reader"]): row for row in rows}

    def found(task: str, length: int) -> dict[str, Row]:
        return {
            reader: cells[task, length, reader]
            for reader in readers
            if (task, length, reader) in cells
        }

    whole = [(tokens(length), found(total, length)) for length in lengths if found(total, length)]
    if whole and lengths != [0] and (len(lengths) > 1 or len(tasks) == 1):
        yield score_table(f"Score by length, {what}", "length", whole, readers)
    yield from by_depth(suite.get("depths", ()), readers)
    if len(tasks) > 1 or lengths == [0]:
        for length in lengths:
            lines = [
                (task, found(task, length))
                for task in dict.fromkeys((*tasks, total))
                if found(task, length)
            ]
            table = score_table(
                f"Score by task, {tokens(length)}", "task", lines, readers, total=MEAN
            )
            if not found(total, length):
                table += (
                    "<p>There is no mean over the tasks: not every reader answered the same"
                    " ones.</p>"
                )
            name = f"<summary>Every task, {tokens(length)}</summary>"
            yield table if len(lengths) == 1 else f"<details>{name}{table}</details>"
    if suite["suite"] == "docqa":
        yield from by_positions(rows, readers, styles)
    charted = [row for row in rows if row["task"] == total]
    yield from by_length(charted, readers, styles)
    if charted:
        yield cost_table(what, charted)
    else:
        tables = "".join(
            cost_table(task, [row for row in rows if row["task"] == task]) for task in tasks
        )
        yield f"<details><summary>What an answer took, every task</summary>{tables}</details>"
    yield from break_even(suite.get("break_even", ()), styles)


def _run(about: Row) -> str:
    name = about["run"] + (f" ({about['label']})" if about["label"] else "")
    facts = {
        "state": about["state"] + (f"; {RESCORED}" if about["rescored"] else ""),
        "suite": about["suite"],
        "command": about["command"],
        "started": about["started"],
        "seed": about["seed"],
        "samples": about["samples"],
        "samples digest": about["samples_digest"],
        "settings": about["settings"],
        "hardware": about["hardware"],
        "versions": about["versions"],
    } | {f"reader {reader}": identity for reader, identity in about["readers"].items()}
    terms = "".join(
        f"<dt>{escape(key)}</dt><dd>{_fact(key, value)}</dd>" for key, value in facts.items()
    )
    return f"<h3>{escape(name)}</h3><dl>{terms}</dl>"


def _fact(key: str, value: Any) -> str:
    if value is None or value == "":
        return "not recorded"
    if isinstance(value, dict):
        said = ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
        return escape(said) or "none"
    return (
        f"<code>{escape(str(value))}</code>"
        if key in ("command", "samples digest")
        else escape(_plain(value))
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
