"""The report of perplexity: by buckets of positions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import NoneType
from typing import ClassVar

from longreach.evals.report.axis import Axis
from longreach.evals.report.base import Styles, SuiteReport
from longreach.evals.report.charts import line_chart
from longreach.evals.report.figures import chart_row, series_of
from longreach.evals.report.markdown_table import buckets_table
from longreach.evals.report.parts import between, count, data, plain, table, tokens
from longreach.evals.run.rows import JsonObject, Row, column
from longreach.evals.suites.perplexity.rows import bucket_rows
from longreach.jsontext import Kinds
from longreach.wording import noun_of

_TEXT = (str,)
_NUMBER = (int, float)


class BucketReport(SuiteReport):
    """Perplexity of systems, by position."""

    line_fields: ClassVar[Kinds] = {
        "reader": _TEXT,
        "task": _TEXT,
        "bucket": (list,),
        "tokens": (int,),
        "nll": _NUMBER,
    }
    row_fields: ClassVar[Kinds] = {
        "reader": _TEXT,
        "bucket": (list,),
        "tokens": (int,),
        "perplexity": (*_NUMBER, NoneType),
    }
    scored: ClassVar[bool] = False
    # A text is read at once, and leaves a line for each bucket.
    unit: ClassVar[str] = "task"

    def add_up(self, lines: Iterable[Row]) -> list[JsonObject]:
        """See `SuiteReport`."""
        return bucket_rows(lines)

    def show(self, found: Row, styles: Styles) -> Iterator[str]:
        """See `SuiteReport`."""
        return by_bucket(found["rows"], found["readers"], styles)

    def show_small(self, found: Row) -> Iterator[str]:
        """See `SuiteReport`."""
        return buckets_table(found)


def by_bucket(rows: Sequence[Row], systems: Sequence[str], styles: Styles) -> Iterator[str]:
    """Yields perplexity by position, as a table and a chart."""
    cells = {(row["reader"], tuple(row["bucket"])): row for row in rows}
    buckets = sorted(set(map(tuple, column(rows, "bucket"))))
    lines = []
    for bucket in buckets:
        line = [f'<th scope="row">{between(bucket)}</th>']
        line += [_cell(cells.get((system, bucket))) for system in systems]
        lines.append(f"<tr>{''.join(line)}</tr>")
    yield table("Perplexity by position, lower is better", ("positions", *systems), lines)
    # Buckets double in length: on the chart each is as wide as the next.
    places = {bucket: number for number, bucket in enumerate(buckets)}
    known = []
    for (_, bucket), row in sorted(cells.items()):
        # None where the model predicts a text with no probability at all.
        if row["perplexity"]:
            known.append({**row, "place": places[bucket]})
    if known:
        values = column(known, "perplexity")
        ends = [tokens(stop) for _, stop in buckets]
        x = Axis("positions up to", lambda place: ends[round(place)], ticks=list(places.values()))
        y = Axis("Perplexity", plain, log=max(values) > 10 * min(values), zero=False)
        series = series_of(known, systems, styles, "place", "perplexity")
        yield chart_row([line_chart("Perplexity by position", series, x, y)], systems, styles)


def _cell(row: Row | None) -> str:
    if row is None:
        return f"<td>{data(None, plain)}</td>"
    note = f"<small>{data(row['tokens'], count)} {noun_of(row['tokens'], 'token')}</small>"
    return f"<td>{data(row['perplexity'], plain)}{note}</td>"
