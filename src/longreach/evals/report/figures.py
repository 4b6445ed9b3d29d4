"""Charts that several reports share: figures of systems along an axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from longreach.evals.report.axis import Axis
from longreach.evals.report.base import Styles
from longreach.evals.report.charts import Point, Series, legend, line_chart
from longreach.evals.report.parts import has_interval, plain, tokens
from longreach.evals.run.rows import Row, column

_OVER_LENGTH = (
    ("Score", "score", 1),
    ("Seconds to the first token", "first_token_seconds", 1),
    ("KV cache, MiB", "kv_bytes", 2**20),
    ("Peak memory, MiB", "peak_bytes", 2**20),
)


def by_length(rows: Sequence[Row], systems: Sequence[str], styles: Styles) -> Iterator[str]:
    """Yields score, time and memory against length, where there are two lengths at least."""
    # Documents have no length of their own.
    rows = sorted((row for row in rows if row["length"]), key=lambda row: row["length"])
    lengths = sorted(set(column(rows, "length")))
    if len(lengths) < 2:
        return
    # Lengths that double are as far apart as each other.
    x = Axis("tokens", tokens, log=lengths[-1] > 3 * lengths[0], ticks=lengths)
    charts = []
    for name, key, unit in _OVER_LENGTH:
        # Not every run measured everything, and a chart of nothing is omitted.
        known = [row for row in rows if row.get(key) is not None]
        series = series_of(known, systems, styles, "length", key, unit)
        if series:
            charts.append(line_chart(f"{name}, by length", series, x, Axis(name, plain)))
    yield "<h3>By length</h3>" + chart_row(charts, systems, styles)


def series_of(
    rows: Sequence[Row],
    systems: Sequence[str],
    styles: Styles,
    x: str,
    y: str,
    unit: float = 1,
) -> list[Series]:
    """Returns the points of each system that has some.

    Args:
        rows: In the order of their points.
        systems: In the order of their series.
        styles: Of the systems.
        x: The figure of a row that lies along the chart.
        y: The figure that is drawn.
        unit: That this is divided by.
    """
    found = []
    for system in systems:
        points = []
        for row in rows:
            if row["reader"] != system:
                continue
            point = Point(row[x], row[y] / unit)
            if y == "score" and has_interval(row):
                point = point._replace(low=row["low"], high=row["high"])
            points.append(point)
        if points:
            found.append(Series(system, styles[system], points))
    return found


def chart_row(charts: Sequence[str], systems: Sequence[str], styles: Styles) -> str:
    """Returns charts beside each other, under one legend."""
    shown = legend(systems, styles)
    return f'{shown}<div class="charts">{"".join(charts)}</div>'
