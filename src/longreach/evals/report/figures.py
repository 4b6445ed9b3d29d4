"""The charts of a report: needles by depth, what length costs, score against positions, perplexity,
when work pays."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from longreach.evals.report.charts import Axis, Point, Series, heat_map, legend, line_chart
from longreach.evals.report.parts import (
    NOT_MEASURED,
    Row,
    between,
    box,
    count,
    data,
    depth,
    has_interval,
    plain,
    seconds,
    table,
    tokens,
)
from longreach.wording import noun_of

Styles = Mapping[str, int]
_OVER_LENGTH = (
    ("Score", "score", 1),
    ("Seconds to the first token", "first_token_seconds", 1),
    ("KV cache, MiB", "kv_bytes", 2**20),
    ("Peak memory, MiB", "peak_bytes", 2**20),
)


def by_depth(rows: Sequence[Row], readers: Sequence[str]) -> Iterator[str]:
    """A heat map for each reader and task, length by depth."""
    names, lengths = (
        list(dict.fromkeys(row["task"] for row in rows)),
        sorted({row["length"] for row in rows}),
    )
    maps = []
    for task in names:
        for reader in readers:
            cells: dict[str, dict[str, float]] = {}
            mine = [row for row in rows if (row["reader"], row["task"]) == (reader, task)]
            for row in sorted(mine, key=lambda row: row["depth"]):
                cells.setdefault(depth(row["depth"]), {})[tokens(row["length"])] = row["score"]
            if cells:
                caption = reader if len(names) == 1 else f"{reader}, {task}"
                maps.append(
                    box(
                        caption,
                        heat_map(caption, "depth", cells, [tokens(length) for length in lengths]),
                    )
                )
    if maps:
        yield (
            "<h3>Score by length and depth of the needle</h3><div"
            f' class="maps">{"".join(maps)}</div>'
        )


def by_length(rows: Sequence[Row], readers: Sequence[str], styles: Styles) -> Iterator[str]:
    """Score, time and memory against length, where there are two lengths at least."""
    rows = sorted((row for row in rows if row["length"]), key=lambda row: row["length"])
    lengths = sorted({row["length"] for row in rows})
    if len(lengths) < 2:
        return
    x = Axis("tokens", tokens, log=lengths[-1] > 3 * lengths[0], ticks=lengths)
    charts = []
    for name, key, unit in _OVER_LENGTH:
        series = _series(
            [row for row in rows if row.get(key) is not None], readers, styles, "length", key, unit
        )
        if series:
            charts.append(line_chart(f"{name}, by length", series, x, Axis(name, plain)))
    yield "<h3>By length</h3>" + _charts(charts, readers, styles)


def by_positions(rows: Sequence[Row], readers: Sequence[str], styles: Styles) -> Iterator[str]:
    """The score of each reader against the positions it read, task by task."""
    charts = []
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task and row.get("positions")]
        if mine:
            found = [row["positions"] for row in mine]
            x = Axis("positions read", count, log=max(found) > 8 * min(found), zero=False)
            title = f"Score and its interval against positions read, {task}"
            series = _series(mine, readers, styles, "positions", "score", 1)
            charts.append(line_chart(title, series, x, Axis("Score", plain), joined=False))
    if charts:
        yield "<h3>Score against positions read</h3>" + _charts(charts, readers, styles)


def by_bucket(rows: Sequence[Row], readers: Sequence[str], styles: Styles) -> Iterator[str]:
    """Perplexity by position, as a table and a chart."""
    cells = {(row["reader"], tuple(row["bucket"])): row for row in rows}
    buckets = sorted({bucket for _, bucket in cells})
    lines = []
    for bucket in buckets:
        line = []
        for reader in readers:
            row = cells.get((reader, bucket), {})
            note = (
                f"<small>{data(row['tokens'], count)} {noun_of(row['tokens'], 'token')}</small>"
                if row
                else ""
            )
            line.append(f"<td>{data(row.get('perplexity'), plain)}{note}</td>")
        lines.append(f'<tr><th scope="row">{between(bucket)}</th>{"".join(line)}</tr>')
    yield table("Perplexity by position, lower is better", ("positions", *readers), lines)
    places = {bucket: number for number, bucket in enumerate(buckets)}
    known = [
        {**row, "place": places[bucket]}
        for (_, bucket), row in sorted(cells.items())
        if row["perplexity"]
    ]
    if known:
        values = [row["perplexity"] for row in known]
        x = Axis(
            "positions up to",
            lambda place: tokens(buckets[round(place)][1]),
            ticks=list(places.values()),
        )
        y = Axis("Perplexity", plain, log=max(values) > 10 * min(values), zero=False)
        chart = line_chart(
            "Perplexity by position",
            _series(known, readers, styles, "place", "perplexity", 1),
            x,
            y,
        )
        yield _charts([chart], readers, styles)


def break_even(rows: Sequence[Row], styles: Styles) -> Iterator[str]:
    """After how many questions preparing the documents has paid for itself."""
    if not rows:
        return
    yield "<h3>When preparing documents pays</h3>"
    yield (
        "<p>Ingest and study, of all documents of a run, happen once; each question then takes"
        " less, or more, than reading the full document again. Both ways are timed on the questions"
        " that both answered.</p>"
    )
    lines, charts = [], []
    several = len({tuple(row["tasks"]) for row in rows}) > 1  # runs about other documents
    for row in rows:
        name = f"{row['reader']}, {', '.join(row['tasks'])}" if several else row["reader"]
        once = (
            f"<td>{data(row[key], seconds)}</td>" for key in ("ingest_seconds", "study_seconds")
        )
        each = (f"<td>{data(row[key], seconds)}</td>" for key in ("seconds", "full_seconds"))
        cells = "".join(
            (*once, *each, f"<td>{data(row['questions'], count)}</td>", f"<td>{_verdict(row)}</td>")
        )
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
        if row["questions_to_pay"]:
            charts.append(_paying(name, row, styles))
    heads = (
        "reader",
        "ingest",
        "study",
        "a question",
        "a question in full",
        "questions timed",
        "pays after",
    )
    yield table("Seconds spent once and for each question", heads, lines)
    if charts:
        shown = dict.fromkeys(reader for row in rows for reader in (row["full"], row["reader"]))
        yield _charts(charts, [reader for reader in shown if reader], styles)


def _verdict(row: Row) -> str:
    if not row["measured"]:
        return NOT_MEASURED
    if row["questions_to_pay"] is None:
        return "never: a question takes no less"
    return f"{data(row['questions_to_pay'], count)} {noun_of(row['questions_to_pay'], 'question')}"


def _paying(name: str, row: Row, styles: Styles) -> str:
    once, least = row["ingest_seconds"] + row["study_seconds"], row["questions_to_pay"]
    asked = [0, least, 2 * least]
    prepared = [Point(number, once + number * row["seconds"]) for number in asked]
    full = [Point(number, number * row["full_seconds"]) for number in asked]
    series = [
        Series(row["full"], styles[row["full"]], full),
        Series(row["reader"], styles[row["reader"]], prepared),
    ]
    title = f"Seconds in all, by questions: {name} pays after {least:,}"
    return line_chart(
        title, series, Axis("questions", count, ticks=asked), Axis("Seconds in all", plain)
    )


def _series(
    rows: Sequence[Row], readers: Sequence[str], styles: Styles, x: str, y: str, unit: float
) -> list[Series]:
    found = []
    for reader in readers:
        mine = [row for row in rows if row["reader"] == reader]
        if mine:
            points = []
            for row in mine:
                span = (row["low"], row["high"]) if y == "score" and has_interval(row) else ()
                points.append(Point(row[x], row[y] / unit, *span))
            found.append(Series(reader, styles[reader], points))
    return found


def _charts(charts: Sequence[str], readers: Sequence[str], styles: Styles) -> str:
    return (
        legend([(reader, styles[reader]) for reader in readers])
        + f'<div class="charts">{"".join(charts)}</div>'
    )
