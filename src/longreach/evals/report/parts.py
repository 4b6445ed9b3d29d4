"""What the tables of a report are made of: figures in words, and tables that scroll in a box of
their own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from longreach.evals.run.rows import Row
from longreach.evals.scores.intervals import FEWEST
from longreach.wording import counted, noun_of

NOT_MEASURED = "not measured"
RESCORED = "its answers are scored by the rules of this release"
"""Said of a run that an earlier release scored by others."""


def name_column(system: str, label: str) -> str:
    """Returns what a column is called: by its system, and by its run where that has a label."""
    return f"{system} ({label})" if label else system


def tokens(length: float) -> str:
    """A length in words: 4K, 1,000; 0 is that of the documents."""
    if not length:
        return "whole documents"
    return f"{length / 1024:,.0f}K" if length % 1024 == 0 else f"{length:,.0f}"


def count(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}"


def score(value: float) -> str:
    """A score, or a rate, with one decimal."""
    return f"{value:.1f}"


def plain(value: float) -> str:
    """Three figures at least, and none in vain."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def seconds(value: float) -> str:
    """Seconds with their unit."""
    return f"{plain(value)} s"


def size(value: float) -> str:
    """Bytes in the unit that suits them."""
    return f"{plain(value / 2**30)} GiB" if value >= 2**30 else f"{plain(value / 2**20)} MiB"


def depth(value: float) -> str:
    """How deep a needle lies, given in percent."""
    return f"{value:.0f}%"


def between(bucket: Sequence[int]) -> str:
    """Positions from the first of them up to the last."""
    return f"{bucket[0]:,} to {bucket[1]:,}"


def has_interval(row: Row) -> bool:
    """Whether enough answers stand behind a score to say how sure it is."""
    return row["samples"] >= FEWEST and row["low"] is not None and row["high"] is not None


def too_few(row: Row) -> str:
    """Why a score has no interval."""
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
    """A figure in words, with its exact value for those who read the page by program."""
    return (
        NOT_MEASURED if value is None else f'<data value="{value!r}">{escape(text(value))}</data>'
    )


def box(name: str, inside: str) -> str:
    """A box that scrolls sideways, by keyboard too."""
    return (
        f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">{inside}</div>'
    )


def table(caption: str, heads: Sequence[str], rows: Iterable[str]) -> str:
    """A table in its box, of rows that are HTML already."""
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
    readers: Sequence[str],
    total: str = "",
) -> str:
    """Returns a table of scores with a column a reader, the best of each row marked.

    A best is one that is higher than all others as they are shown, and above zero: of two that tie
    neither is marked.

    Args:
        caption: of the table.
        corner: the head of its first column.
        rows: names, and the scores of each by reader.
        readers: the columns, where they have a score.
        total: the name of the row that is set apart.
    """
    shown = [reader for reader in readers if any(reader in cells for _, cells in rows)]
    counts = {cell["samples"] for name, cells in rows for cell in cells.values() if name != total}
    several = len(counts) > 1
    lines = []
    for name, cells in rows:
        best = _best([cell["score"] for cell in cells.values()])
        line = "".join(_scored(cells.get(reader), best, several) for reader in shown)
        kind = ' class="total"' if name == total else ""
        lines.append(f'<tr{kind}><th scope="row">{escape(name)}</th>{line}</tr>')
    each = f", {counted(counts.pop(), 'sample')} each" if len(counts) == 1 else ""
    return table(caption + each, (corner, *shown), lines)


def _best(scores: Sequence[float]) -> str | None:
    """The best score as it is shown; None where none is better than the others."""
    shown = score(max(scores))
    ties = sum(score(one) == shown for one in scores)
    return shown if ties == 1 and shown != score(0) else None


def _scored(row: Row | None, best: str | None, several: bool) -> str:
    if row is None:
        return f"<td><small>{NOT_MEASURED}</small></td>"
    span = (
        f"{data(row['low'], score)} to {data(row['high'], score)}"
        if has_interval(row)
        else escape(too_few(row))
    )
    notes = [span]
    if row.get("positions") is not None:
        notes.append(
            f"{data(row['positions'], count)} {noun_of(round(row['positions']), 'position')}"
        )
    if several:
        notes.append(f"{data(row['samples'], count)} {noun_of(row['samples'], 'sample')}")
    kind = ' class="best"' if score(row["score"]) == best else ""
    small = "".join(f"<small>{note}</small>" for note in notes)
    return f"<td{kind}>{data(row['score'], score)}{small}</td>"


def cost_table(what: str, rows: Sequence[Row]) -> str:
    """What answers of each reader took at each length."""
    columns = (
        COSTS if {row["length"] for row in rows} == {0} else (("length", "length", tokens), *COSTS)
    )
    lines = []
    for row in sorted(rows, key=lambda row: row["length"]):
        cells = "".join(f"<td>{data(row.get(key), text)}</td>" for key, _, text in columns)
        lines.append(f'<tr><th scope="row">{escape(row["reader"])}</th>{cells}</tr>')
    return table(
        f"What an answer took, {what}", ("reader", *(name for _, name, _ in columns)), lines
    )
