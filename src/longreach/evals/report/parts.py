"""What the tables of a report are made of: figures in words, and tables that scroll in a box."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from longreach.evals.run.rows import Row, column
from longreach.evals.scores.intervals import FEWEST
from longreach.wording import counted, noun_of

NOT_MEASURED = "not measured"
RESCORED = "its answers are scored by the rules of this release"
"""Said of a run that an earlier release scored by others."""
_MEBIBYTE = 2**20
_GIBIBYTE = 2**30


def name_column(system: str, label: str) -> str:
    """Returns what a column is called: by its system, and by its run where that has a label."""
    return f"{system} ({label})" if label else system


def tokens(length: float) -> str:
    """Returns a length in words: 4K, 1,000; 0 is that of the documents."""
    if not length:
        return "whole documents"
    if length % 1024 == 0:
        return f"{length / 1024:,.0f}K"
    return f"{length:,.0f}"


def count(value: float) -> str:
    """Returns a whole number in words."""
    return f"{value:,.0f}"


def score(value: float) -> str:
    """Returns a score, or a rate, with one decimal."""
    return f"{value:.1f}"


def plain(value: float) -> str:
    """Returns a figure with at least three digits, and none that says nothing."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def seconds(value: float) -> str:
    """Returns seconds with their unit."""
    return f"{plain(value)} s"


def size(value: float) -> str:
    """Returns bytes in the unit that suits them."""
    if value >= _GIBIBYTE:
        return f"{plain(value / _GIBIBYTE)} GiB"
    return f"{plain(value / _MEBIBYTE)} MiB"


def depth(value: float) -> str:
    """Returns how deep a needle lies, given in percent."""
    return f"{value:.0f}%"


def between(bucket: Sequence[int]) -> str:
    """Returns positions from the first of them up to the last, in words."""
    return f"{bucket[0]:,} to {bucket[1]:,}"


def has_interval(row: Row) -> bool:
    """Whether enough answers stand behind a score to say how sure it is."""
    return row["samples"] >= FEWEST and row["low"] is not None and row["high"] is not None


def too_few(row: Row) -> str:
    """Returns why a score has no interval."""
    return f"n < {FEWEST}" if row["samples"] < FEWEST else "one answer a task"


COSTS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("samples", "samples", count),
    ("positions", "positions read", count),
    ("read_tokens", "tokens of text", count),
    ("first_token_seconds", "first token", seconds),
    ("seconds", "whole answer", seconds),
    ("tokens_per_second", "tokens/s", score),
    ("kv_bytes", "KV cache", size),
    ("peak_bytes", "peak memory", size),
)
"""What an answer took: the key of a row, the head of its column, and how it is said."""


def data(value: float | None, text: Callable[[float], str]) -> str:
    """Returns a figure in words, with its exact value for those who read the page by program."""
    # Nothing is estimated, and no cell is left empty.
    if value is None:
        return NOT_MEASURED
    return f'<data value="{value!r}">{escape(text(value))}</data>'


def box(name: str, inside: str) -> str:
    """Returns a box that scrolls sideways, by keyboard too."""
    return (
        f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">{inside}</div>'
    )


def table(caption: str, heads: Sequence[str], rows: Iterable[str]) -> str:
    """Returns a table in its box, of rows that are HTML already."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    inside = (
        f"<caption><span>{escape(caption)}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    )
    return box(caption, f"<table>{inside}</table>")


def score_table(
    caption: str,
    corner: str,
    rows: Sequence[tuple[str, Mapping[str, Row]]],
    systems: Sequence[str],
    total: str = "",
) -> str:
    """Returns a table of scores with a column a system, the best of each row marked.

    A best is one that is higher than all others as they are shown, and above zero: of two that tie
    neither is marked.

    Args:
        caption: Of the table.
        corner: The head of its first column.
        rows: Names, and the scores of each by system.
        systems: The columns, where they have a score.
        total: The name of the row that is set apart.
    """
    there = set[str]()
    counts = set[int]()
    for name, cells in rows:
        there.update(cells)
        # A mean over tasks is of more samples than each task.
        if name != total:
            counts.update(column(cells.values(), "samples"))
    # A system that answered none of this takes no column.
    shown = [system for system in systems if system in there]
    lines = []
    for name, cells in rows:
        best = _best(column(cells.values(), "score"))
        line = [f'<th scope="row">{escape(name)}</th>']
        for system in shown:
            line.append(_scored(cells.get(system), best, say_samples=len(counts) > 1))
        kind = ' class="total"' if name == total else ""
        lines.append(f"<tr{kind}>{''.join(line)}</tr>")
    if len(counts) == 1:
        caption += f", {counted(counts.pop(), 'sample')} each"
    return table(caption, (corner, *shown), lines)


def _best(scores: Sequence[float]) -> str | None:
    """Returns the best score as it is shown; None where none is better than the others."""
    # Compared as they are shown: nobody sees the difference of two that look the same.
    best = score(max(scores))
    if best == score(0) or list(map(score, scores)).count(best) > 1:
        return None
    return best


def _scored(row: Row | None, best: str | None, *, say_samples: bool) -> str:
    """Returns the cell of a score, with what stands behind it in small letters."""
    if row is None:
        return f"<td><small>{NOT_MEASURED}</small></td>"
    notes = [escape(too_few(row))]
    if has_interval(row):
        notes = [f"{data(row['low'], score)} to {data(row['high'], score)}"]
    positions = row.get("positions")
    if positions is not None:
        notes.append(f"{data(positions, count)} {noun_of(round(positions), 'position')}")
    # Only where they differ.
    if say_samples:
        notes.append(f"{data(row['samples'], count)} {noun_of(row['samples'], 'sample')}")
    small = "".join(map("<small>{}</small>".format, notes))
    kind = ' class="best"' if score(row["score"]) == best else ""
    return f"<td{kind}>{data(row['score'], score)}{small}</td>"


def cost_table(what: str, rows: Sequence[Row]) -> str:
    """Returns what answers of each system took at each length."""
    columns = COSTS
    # Documents are as long as they are.
    if any(column(rows, "length")):
        columns = (("length", "length", tokens), *COSTS)
    lines = []
    for row in sorted(rows, key=lambda row: row["length"]):
        cells = [f'<th scope="row">{escape(row["reader"])}</th>']
        for key, _, text in columns:
            cells.append(f"<td>{data(row.get(key), text)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    heads = [name for _, name, _ in columns]
    return table(f"What an answer took, {what}", ("system", *heads), lines)
