"""`longreach layers`: which layers of a model need full attention."""

from pathlib import Path

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
from longreach.jsontext import JsonObject
from longreach.wording import counted

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

    if plot is not None:
        check_plot(plot)
    asked = tuple(KINDS)
    if kinds is not None:
        asked = tuple(kind.strip() for kind in kinds.split(",") if kind.strip())
    text = None if texts is None else _read_text(texts)
    options = {
        "length": length,
        "window": window,
        "samples": samples,
        "kinds": asked,
        "most": most,
        "heads": heads,
        "seed": seed,
    }
    with memory_said("--samples or --length", as_json):
        report = rank(model, options, text=text, out=out, device=device, dtype=dtype)
    if plot is not None:
        plot_choices(report, plot)
    if as_json:
        emit(report)
        return
    _show(report)
    say()
    for line in draw_lines(report):
        say(line)
    say(f"\n{report['file']}: longreach convert {model} OUT --full-layers measured")


def rank(
    model: str,
    options: JsonObject,
    *,
    text: str | None = None,
    out: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> JsonObject:
    """Loads a model and ranks its layers; returns the report."""
    from longreach.layers.rank import RankSettings, rank_layers
    from longreach.models.device import default_device, fast_dtype

    # Checked first, because loading a model may take minutes.
    settings = RankSettings(**options)
    place = device or default_device()

    import sys

    from longreach.models.loading.load import load
    from longreach.models.machine import record

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


def _show(report: JsonObject) -> None:
    """Prints the choices as a table, then the costs of single layers and heads."""
    rows = []
    for choice in report["choices"]:
        megabytes = choice["kv_bytes"] / 2**20
        full = " ".join(map(str, choice["full_layers"]))
        count = len(choice["full_layers"])
        if count == len(report["order"]):
            full = "all"
        nll = f"{choice['nll']:.3f}"
        found = f"{100 * choice['found']:.0f}"
        rows.append((str(count), nll, found, f"{megabytes:,.1f}", full or "none"))
    tokens = report["choices"][0]["kv_tokens"]
    header = ("full", "NLL", "found, %", f"KV MiB at {counted(tokens, 'token')}", "layers")
    table(header, rows)
    costs = []
    for layer in sorted(report["order"], key=lambda one: -report["costs"][one]):
        costs.append(f"{layer}: {report['costs'][layer]:.3f}")
    say(f"\nrise of the NLL where one layer alone is sparse: {', '.join(costs)}")
    if report["heads"]:
        first = []
        for head in report["heads"][:_MOST_HEADS]:
            first.append(f"{head['layer']}.{head['head']}: {head['cost']:.3f}")
        say(f"the same of one KV head (layer.head): {', '.join(first)}, ...")
