"""Quality against the number of full layers, as a chart: in the terminal, or as a .png or .svg.

matplotlib is the extra `bench`, imported only when a file is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from longreach.layers.result import RankedLayers

_WIDTH = 40


def draw_lines(ranked: RankedLayers) -> Iterator[str]:
    """Yields the lines of a text chart: a bar of the NLL for each number of full layers."""
    highest = max(choice.score.nll for choice in ranked.choices)
    width = len(str(len(ranked.order)))
    for choice in ranked.choices:
        bar = "#" * max(1, round(_WIDTH * choice.score.nll / highest))
        yield f"{len(choice.full):>{width}} full  {bar} {choice.score.nll:.3f}"


def plot_choices(ranked: RankedLayers, path: Path) -> None:
    """Draws NLL and the share of answers found against the number of full layers.

    Args:
        ranked: Of `rank_layers`.
        path: A .png or .svg file; see `bench.plot.check_plot` for what is refused.
    """
    from matplotlib.figure import Figure

    counts = []
    losses = []
    found = []
    for choice in ranked.choices:
        counts.append(len(choice.full))
        losses.append(choice.score.nll)
        found.append(100 * choice.score.found)
    # A figure of its own: pyplot would keep it in global state and look for a display.
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(counts, losses, "o-", color="#2f6fb0", label="NLL of the answers")
    axes.set_xlabel(f"full layers of {len(ranked.order)}")
    axes.set_ylabel("NLL of an answer's token, nats")
    axes.set_ylim(bottom=0)
    shares = axes.twinx()
    shares.plot(counts, found, "s--", color="#b0622f", label="answers found")
    shares.set_ylabel("answers found, percent")
    shares.set_ylim(0, 100)
    axes.set_title(f"{ranked.model}: the layers that matter most are full", fontsize=10)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
