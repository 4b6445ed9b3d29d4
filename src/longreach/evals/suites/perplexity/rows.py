"""The rows of perplexity by bucket of positions."""

from __future__ import annotations

from collections.abc import Iterable

from longreach.evals.run.rows import JsonObject, Row

SUITE = "perplexity"


def bucket_rows(lines: Iterable[Row]) -> list[JsonObject]:
    """Returns a row for each system and bucket: all texts together, every token weighing the same.

    Args:
        lines: Of predictions.jsonl.
    """
    from longreach.models.perplexity import perplexity

    sums: dict[tuple[str, int, int], list[float]] = {}
    for line in lines:
        # Sums of all texts: every token weighs the same, however long its text is.
        total = sums.setdefault((line["reader"], *line["bucket"]), [0.0, 0.0])
        total[0] += line["nll"]
        total[1] += line["tokens"]
    rows = []
    for (system, start, stop), (nll, tokens) in sums.items():
        # The first bucket of a text of one token predicts nothing.
        if tokens:
            row = {
                "reader": system,
                "task": SUITE,
                "bucket": [start, stop],
                "tokens": int(tokens),
                "perplexity": perplexity(nll, tokens),
            }
            rows.append(row)
    return rows
