"""Rows of cells as the lines of a Markdown table."""

from collections.abc import Iterable, Iterator, Sequence

# Few cells can ask for millions of empty ones: then rows are as long as they are.
_LEAST_SPARSE = 10_000
_PLACES_PER_CELL = 20


def is_sparse(rows: int, columns: int, cells: int) -> bool:
    """Returns whether a grid would be empty nearly everywhere."""
    return rows * columns > _LEAST_SPARSE + _PLACES_PER_CELL * cells


def format_table(rows: Iterable[Sequence[str]], columns: int) -> Iterator[str]:
    """Yields a line for each row that holds text, and a rule below the first, the headings.

    Args:
        rows: The texts of the cells; line breaks and blanks at their ends are no part of them.
        columns: Shorter rows are filled up to this number of cells.
    """
    first = True
    for row in rows:
        texts = [text.replace("\n", " ").strip() for text in row]
        if not any(texts):
            continue
        texts += [""] * (columns - len(texts))
        yield "| " + " | ".join(texts) + " |"
        if first:
            first = False
            yield "| " + " | ".join(["---"] * len(texts)) + " |"
