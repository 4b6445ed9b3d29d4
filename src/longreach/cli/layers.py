"""`longreach layers`: which layers of a model need full attention."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from longreach.cli.output import (
    DeviceOption,
    JsonOption,
    dtype_checked,
    emit,
    memory_said,
    note,
    say,
    table,
)
from longreach.wording import counted

if TYPE_CHECKING:
    from longreach.layers.rank import RankSettings
    from longreach.layers.result import RankedLayers

_MOST_HEADS = 10


def layers(
    model: str = typer.Argument(help="Hub id, folder, .gguf file or 'smollm2'."),
    out: Path | None = typer.Option(
        None,
        "--out",
        help="File to write the ranking to, for `convert --ranking`. [default: where `convert"
        " --full-layers measured` looks]",
    ),
    length: int = typer.Option(1024, "--length", help="Tokens of each text."),
    window: int = typer.Option(
        256, "--window", help="Tokens of the sparse layers' window, a multiple of 64."
    ),
    samples: int = typer.Option(4, "--samples", min=1, help="Texts of each kind."),
    kinds: str | None = typer.Option(
        None,
        "--kinds",
        help="Kinds of retrieval: numbers, keys, prose, tracking, copying. [default: all]",
    ),
    most: int | None = typer.Option(
        None, "--most", min=1, help="Full layers at most. [default: a third of all]"
    ),
    texts: Path | None = typer.Option(
        None, "--texts", help="A text file to hide the facts in. [default: sentences of templates]"
    ),
    heads: bool = typer.Option(
        False, "--heads", help="Rank KV heads as well; only a report, `convert` does not use it."
    ),
    plot: Path | None = typer.Option(None, "--plot", help="A .png or .svg file for the chart."),
    seed: int = typer.Option(0, "--seed", help="Of the texts."),
    dtype: str | None = typer.Option(
        None,
        "--dtype",
        callback=dtype_checked,
        help="float32, bfloat16 or float16. [default: bfloat16 where the machine is fast at it]",
    ),
    device: str | None = DeviceOption,
    as_json: bool = JsonOption,
) -> None:
    """Rank a model's layers by what it costs answers to read with them sparse. Nothing is trained.

    Texts ask for facts outside the window of sparse layers. Layers are added one by one, each time
    the one that helps the answers most. Stopped anywhere, the same command resumes.

    Example: longreach layers smollm2 && longreach convert smollm2 out --full-layers measured:5
    """
    from longreach.bench.plot import check_plot
    from longreach.layers.chart import draw_lines, plot_choices
    from longreach.layers.kinds import KINDS
    from longreach.layers.rank import RankSettings

    if plot is not None:
        check_plot(plot)
    asked = tuple(KINDS)
    if kinds is not None:
        asked = tuple(kind.strip() for kind in kinds.split(",") if kind.strip())
    text = None if texts is None else _read_text(texts)
    settings = RankSettings(length, window, samples, asked, most, heads, seed)
    with memory_said("--samples or --length", as_json):
        ranked = rank(model, settings, text=text, out=out, device=device, dtype=dtype)
    if plot is not None:
        plot_choices(ranked, plot)
    if as_json:
        emit(ranked.to_json())
        return
    _show(ranked)
    say()
    for line in draw_lines(ranked):
        say(line)
    say(f"\n{ranked.file}: longreach convert {model} OUT --full-layers measured")


def rank(
    model: str,
    settings: "RankSettings",
    *,
    text: str | None = None,
    out: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> "RankedLayers":
    """Loads a model and ranks its layers."""
    from longreach.layers.rank import rank_layers
    from longreach.models.device import default_device, fast_dtype
    from longreach.models.loading.load import load
    from longreach.models.machine import record

    place = device or default_device()
    loaded, tokenizer = load(model, device=place, dtype=dtype or fast_dtype(place))
    about = record(sys.argv[1:], loaded.device)
    return rank_layers(loaded, tokenizer, settings, text=text, out=out, say=note, **about)


def _read_text(path: Path) -> str:
    from longreach.errors import UsageError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The text '{path}' cannot be read: give a file of plain text in UTF-8."
        ) from error


def _show(ranked: "RankedLayers") -> None:
    """Prints the choices as a table, then the costs of single layers and heads."""
    rows = []
    for choice in ranked.choices:
        full = " ".join(map(str, choice.full))
        if len(choice.full) == len(ranked.order):
            full = "all"
        nll = f"{choice.score.nll:.3f}"
        found = f"{100 * choice.score.found:.0f}"
        megabytes = f"{choice.kv_bytes / 2**20:,.1f}"
        rows.append((str(len(choice.full)), nll, found, megabytes, full or "none"))
    tokens = ranked.choices[0].kv_tokens
    table(("full", "NLL", "found, %", f"KV MiB at {counted(tokens, 'token')}", "layers"), rows)
    costs = []
    for layer in sorted(ranked.order, key=lambda one: -ranked.costs[one]):
        costs.append(f"{layer}: {ranked.costs[layer]:.3f}")
    say(f"\nrise of the NLL where one layer alone is sparse: {', '.join(costs)}")
    if ranked.heads:
        first = []
        for head in ranked.heads[:_MOST_HEADS]:
            first.append(f"{head.layer}.{head.head}: {head.cost:.3f}")
        say(f"the same of one KV head (layer.head): {', '.join(first)}, ...")
