"""Draws achieved beside ideal speed-ups as a bar chart.

matplotlib is the extra `bench`, imported only when a plot is made.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from longreach.errors import MissingDependency, UsageError
from longreach.jsontext import JsonObject, JsonValue, read_field

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INSTALL = "pip install -c constraints.txt matplotlib"
_SUFFIXES = (".png", ".svg")


class Bar(NamedTuple):
    """One row of a report: how many times faster than the baseline it was, and could be."""

    label: str
    achieved: float
    ideal: float


def check_plot(path: Path) -> None:
    """Refuses a plot that cannot be made, before anything is measured.

    Raises:
        UsageError: The file name ends in something other than .png or .svg.
        MissingDependency: matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            f"The plot is to be '{path}': give a name that ends in {' or '.join(_SUFFIXES)}."
        )
    # Looked up and not imported, as importing it would take seconds before the measurement
    # begins.
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependency(f"Plots need matplotlib, which is not installed: {INSTALL}")


def bars(report: Mapping[str, JsonValue]) -> list[Bar]:
    """Returns the rows of a report of `bench attention` or `bench model` that have a speed-up."""
    if report["bench"] == "attention":
        return list(_attention_bars(report))
    return list(_model_bars(report))


def _attention_bars(report: Mapping[str, JsonValue]) -> Iterator[Bar]:
    for row in read_field(report, "results", list):
        # The baseline has no speed-up, and what could not run has None.
        if row.get("speedup"):
            yield Bar(f"{row['impl']}, {row['part']}", row["speedup"], row["ideal_speedup"])


def _model_bars(report: Mapping[str, JsonValue]) -> Iterator[Bar]:
    for what in ("prefill", "decode", "train"):
        # Reading a prompt has two ideals; the chart shows the one by FLOPs.
        key = "ideal_speedup_flops" if what == "prefill" else "ideal_speedup"
        for part in list_parts(report, what):
            ideal = read_field(part, key, float)
            for name, figures in read_field(part, "variants", dict).items():
                if "speedup" in figures:
                    yield Bar(f"{what}, {name}{variation(part)}", figures["speedup"], ideal)


def list_parts(report: Mapping[str, JsonValue], what: str) -> list[JsonObject]:
    """Returns what `bench model` reports on one of the things it measures.

    Decoding may be there twice, with and without graphs; the others are there once, or not at all.
    """
    if what not in report:
        return []
    parts = report[what]
    if isinstance(parts, dict):
        return [parts]
    return read_field(report, what, list)


def variation(part: Mapping[str, JsonValue]) -> str:
    """Returns what tells one report on decoding from another: ", graphs", ", compiled"."""
    return "".join(f", {name}" for name in ("graphs", "compiled") if part.get(name))


def plot(report: Mapping[str, JsonValue], path: Path) -> None:
    """Draws the report's speed-ups over full attention into a .png or .svg file.

    Raises:
        UsageError: The report holds no speed-up, or see `check_plot`.
        MissingDependency: matplotlib is not installed.
    """
    check_plot(path)
    found = bars(report)
    if not found:
        raise UsageError(
            "There is nothing to plot: nothing ran beside the baseline (the notes say why)."
        )
    from matplotlib.figure import Figure

    # A figure of its own: pyplot would keep it in global state and look for a display.
    figure = Figure(figsize=(8, 1.6 + 0.7 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    longest = 0.0
    for row, bar in enumerate(found):
        # Each color is named once in the legend.
        named = ("ideal", "achieved") if row == 0 else (None, None)
        axes.barh(row - 0.2, bar.ideal, 0.38, color="#c8ccd4", label=named[0])
        axes.barh(row + 0.2, bar.achieved, 0.38, color="#2f6fb0", label=named[1])
        share = bar.achieved / bar.ideal
        _annotate(axes, f"{bar.ideal:.2f}x", bar.ideal, row - 0.2)
        _annotate(axes, f"{bar.achieved:.2f}x ({share:.0%} of ideal)", bar.achieved, row + 0.2)
        longest = max(longest, bar.achieved, bar.ideal)
    axes.axvline(1, color="#555555", linewidth=1, linestyle=":", zorder=0)
    axes.set_yticks(list(range(len(found))), [bar.label for bar in found])
    # The first row of the report is to be on top.
    axes.invert_yaxis()
    # The words stand behind the bars' ends.
    axes.set_xlim(0, 1.45 * longest)
    axes.set_xlabel("speed-up over full attention, same run (dotted line: 1x)")
    axes.set_ylabel("what was measured")
    axes.set_title(_title(report), fontsize=10)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _annotate(axes: Axes, text: str, x: float, y: float) -> None:
    """Writes beside the end of a bar, readable also where the dotted line runs."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
    axes.annotate(
        text, (x, y), (4, 0), textcoords="offset points", va="center", fontsize=9, bbox=box
    )


def _title(report: Mapping[str, JsonValue]) -> str:
    device = report["device"]
    if "hardware" in report:
        device = read_field(report, "hardware", dict).get("device", device)
    where = f"{report['dtype']} on {device}"
    size = (
        f"{report.get('source', 'attention')}, {report['rows']} x {report['length_tokens']:,}"
        " tokens"
    )
    title = f"{size}, {where}"
    part = report.get("slice")
    if isinstance(part, dict):
        title += f"\n(a slice of {part['layers']} of {part['of']} layers)"
    return title
