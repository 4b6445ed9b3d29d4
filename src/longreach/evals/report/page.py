"""A report as one page of HTML that needs no network and no script.

It holds tables, charts, and what was run. Every figure of a table stands in a `data` element whose
value is that of the JSON, to the last digit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import count
from string import Template

from longreach.evals.report.base import Styles
from longreach.evals.report.charts import COLORS
from longreach.evals.report.parts import NOT_MEASURED, RESCORED
from longreach.evals.run.rows import Row, column
from longreach.evals.suites.registry import find_report


def page(figures: Row) -> str:
    """Returns the page that shows figures.

    Args:
        figures: As `report.figures` gives them.
    """
    styles = choose_styles(column(figures["suites"], "readers"))
    contents = []
    sections = []
    for suite in figures["suites"]:
        title = find_report(suite["suite"]).title
        contents.append(_link(suite["suite"], title))
        sections.append(_section(suite["suite"], title, "".join(_suite(suite, styles))))
    contents.append(_link("runs", "What was run"))
    sections.append(_section("runs", "What was run", "".join(map(_run, figures["runs"]))))
    frame = files("longreach.evals.report").joinpath("report.html").read_text(encoding="utf-8")
    return Template(frame).substitute(
        title="Longreach report", contents="\n".join(contents), sections="\n".join(sections)
    )


def _link(name: str, title: str) -> str:
    return f'<li><a href="#{escape(name)}">{escape(title)}</a></li>'


def _section(name: str, title: str, inside: str) -> str:
    return f'<section id="{escape(name)}"><h2>{escape(title)}</h2>{inside}</section>'


def choose_styles(suites: Sequence[Sequence[str]]) -> Styles:
    """Returns a number for each system, the same all over the page.

    No two systems of a suite share a color while colors last.

    Args:
        suites: The systems of each suite.
    """
    styles: dict[str, int] = {}
    for systems in suites:
        for system in systems:
            if system in styles:
                continue
            number = len(styles)
            # Colors are used again, for systems that never stand beside each other if that can be.
            if number >= COLORS:
                beside = _styles_beside(system, suites, styles)
                number = next(free for free in count() if free not in beside)
            styles[system] = number
    return styles


def _styles_beside(system: str, suites: Sequence[Sequence[str]], styles: Styles) -> set[int | None]:
    """Returns the numbers of the systems that share a suite with this one."""
    found = set[int | None]()
    for systems in suites:
        if system in systems:
            found.update(map(styles.get, systems))
    return found


def _suite(suite: Row, styles: Styles) -> Iterator[str]:
    if suite["unfinished"]:
        yield f"<p>Unfinished so far: {escape(', '.join(suite['unfinished']))}.</p>"
    if not suite["same_samples"]:
        yield "<p>The runs answered different samples: compare systems of one label only.</p>"
    if suite["rows"]:
        yield from find_report(suite["suite"]).show(suite, styles)
    else:
        yield f"<p>No answers yet: {NOT_MEASURED}.</p>"


def _run(about: Row) -> str:
    name = about["run"]
    if about["label"]:
        name = f"{name} ({about['label']})"
    state = about["state"]
    if about["rescored"]:
        state = f"{state}; {RESCORED}"
    facts = {
        "state": state,
        "suite": about["suite"],
        "command": about["command"],
        "started": about["started"],
        "seed": about["seed"],
        "samples": about["samples"],
        "samples digest": about["samples_digest"],
        "settings": about["settings"],
        "hardware": about["hardware"],
        "versions": about["versions"],
    }
    for system, identity in about["readers"].items():
        facts[f"system {system}"] = identity
    terms = []
    for key, value in facts.items():
        terms.append(f"<dt>{escape(key)}</dt><dd>{_fact(key, value)}</dd>")
    return f"<h3>{escape(name)}</h3><dl>{''.join(terms)}</dl>"


def _fact(key: str, value: object) -> str:
    # Runs of other programs may lack what ours record.
    if value is None or value == "":
        return "not recorded"
    if isinstance(value, dict):
        said = ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
        return escape(said) or "none"
    if key in ("command", "samples digest"):
        return f"<code>{escape(str(value))}</code>"
    return escape(_plain(value))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
