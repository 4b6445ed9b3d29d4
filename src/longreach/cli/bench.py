"""`longreach bench`: what things cost here, beside the best alternative in the same run."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from longreach.cli.output import DeviceOption, JsonOption, emit, fail, note, table
from longreach.cli.pattern import (
    BlockSizeOption,
    LocalBlocksOption,
    PatternOption,
    SinkBlocksOption,
    StrideOption,
    given,
    layers_from,
    pattern_from,
)

if TYPE_CHECKING:
    import torch

HELP = """Measure attention, whole models and the reader beside the best alternative, in the same run.

Example: longreach bench attention --length 16384
"""
app = typer.Typer(help=HELP, no_args_is_help=True)

OutOption = typer.Option(None, "--out", metavar="FILE", help="Write the JSON there as well.")
PlotOption = typer.Option(None, "--plot", metavar="FILE", help="Draw achieved beside ideal speed-ups: .png or .svg.")
DtypeOption = typer.Option(
    None, "--dtype", help="float32, bfloat16 or float16. [default: bfloat16 on a GPU, else float32]"
)
RowsOption = typer.Option(1, "--rows", help="Rows of the batch.")


@app.command()
def attention(
    shape: str = typer.Option("smollm2", "--shape", help="Heads and head dim of smollm2, llama2-7b, llama3-8b, ..."),
    length: int = typer.Option(16384, "--length", help="Tokens."),
    pattern: str = PatternOption,
    block_size: int | None = BlockSizeOption,
    sink_blocks: int | None = SinkBlocksOption,
    local_blocks: int | None = LocalBlocksOption,
    stride: int | None = StrideOption,
    what: str = typer.Option("forward", "--what", help="forward, train (forward and backward) or decode."),
    impl: str | None = typer.Option(
        None, "--impl", help="Out of reference,cpu,flex,triton. [default: what this device can]"
    ),
    layer: int = typer.Option(0, "--layer", help="Index of the layer, which shifts strided blocks."),
    rows: int = RowsOption,
    repeats: int = typer.Option(5, "--repeats", help="Rounds; medians are reported."),
    dtype: str | None = DtypeOption,
    device: str | None = DeviceOption,
    plot: Path | None = PlotOption,
    out: Path | None = OutOption,
    as_json: bool = JsonOption,
) -> None:
    """Measure sparse attention of one layer beside dense attention by the vendor's best kernel.

    Example: longreach bench attention --shape llama2-7b --length 32768 --what train --out attention.json
    """
    with _memory("--length or --rows", as_json):
        from longreach.bench.attention import AttentionCase, run
        from longreach.models.plan import shape as sizes

        chosen = pattern_from(
            pattern, block_size=block_size, sink_blocks=sink_blocks, local_blocks=local_blocks, stride=stride
        )
        place, kind = _place(device, dtype, out, plot)
        case = AttentionCase(
            shape=sizes(shape),
            pattern=chosen,
            length=length,
            what=what,
            impls=None if impl is None else _names(impl),
            layer=layer,
            rows=rows,
            repeats=repeats,
            dtype=kind,
            device=place,
        )
        report = _record(place) | {"source": shape} | run(case, note)
    _finish(report, out, plot, as_json)
    if not as_json:
        _attention_table(report)


@app.command()
def model(
    shape: str | None = typer.Option(
        None, "--shape", help="A published shape with random weights: smollm2, llama2-7b, llama3-8b, ..."
    ),
    ref: str | None = typer.Option(None, "--model", help="Or a model: hub id, folder, .gguf file or 'smollm2'."),
    length: int = typer.Option(16384, "--length", help="Tokens of each row."),
    what: str = typer.Option("prefill,decode", "--what", help="Any of prefill,decode,train."),
    layers: int | None = typer.Option(
        None, "--layers", help="Only so many layers, the ratio of full to sparse kept. [default: all]"
    ),
    pattern: str | None = typer.Option(
        None, "--pattern", help="sink-window or strided. [default: a hybrid model's own, else sink-window]"
    ),
    block_size: int | None = BlockSizeOption,
    sink_blocks: int | None = SinkBlocksOption,
    local_blocks: int | None = LocalBlocksOption,
    stride: int | None = StrideOption,
    full_layers: str | None = typer.Option(
        None, "--full-layers", help="middle-third, a number, or indices. [default: a hybrid's own, else middle-third]"
    ),
    rows: int = RowsOption,
    repeats: int = typer.Option(3, "--repeats", help="Rounds of prefill and train; medians are reported."),
    new_tokens: int = typer.Option(32, "--new-tokens", help="Steps of decode."),
    flex: bool = typer.Option(False, "--flex", help="The hybrid with FlexAttention in its sparse layers as well."),
    graphs: bool | None = typer.Option(
        None, "--graphs/--no-graphs", help="Decode with or without CUDA graphs. [default: both on a GPU]"
    ),
    compile: bool = typer.Option(False, "--compile", help="Decode through torch.compile, full and hybrid alike."),
    dtype: str | None = DtypeOption,
    device: str | None = DeviceOption,
    plot: Path | None = PlotOption,
    out: Path | None = OutOption,
    as_json: bool = JsonOption,
) -> None:
    """Measure a whole model, full against hybrid: prompts, tokens one by one, training steps.

    Example: longreach bench model --shape llama2-7b --length 131072 --what decode --out decode.json
    """
    with _memory("--length, --rows or --layers", as_json):
        from longreach.bench.model import ModelCase, run
        from longreach.bench.subject import subject

        case = ModelCase(length, _names(what), rows, repeats, new_tokens, flex, graphs, compile)
        changes = {"block_size": block_size, "sink_blocks": sink_blocks, "local_blocks": local_blocks, "stride": stride}
        chosen = pattern_from(pattern or "sink-window", **changes) if pattern or given(changes) else None
        place, kind = _place(device, dtype, out, plot)
        both = subject(
            shape=shape,
            model=ref,
            layers=layers,
            pattern=chosen,
            full_layers=None if full_layers is None else layers_from(full_layers),
            length=case.window,
            dtype=kind,
            device=place,
        )
        report = _record(place) | run(case, both, note)
    _finish(report, out, plot, as_json)
    if not as_json:
        _model_table(report)


@app.command()
def reader(
    ref: str = typer.Option("smollm2", "--model", help="Hub id, folder, .gguf file or 'smollm2'."),
    text: Path | None = typer.Option(
        None, "--text", help="What is read. [default: examples/alice.txt of the checkout]", show_default=False
    ),
    repeats: int = typer.Option(5, "--repeats", help="Pairs behind each median."),
    device: str | None = DeviceOption,
    out: Path | None = OutOption,
    as_json: bool = JsonOption,
) -> None:
    """Measure compressing, asking and starting beside the bare model.

    Example: longreach bench reader --out reader.json
    """
    with _memory("--model to a smaller one", as_json):
        from longreach.bench.reader import BOOK, lines, run
        from longreach.models.load import load

        place, _ = _place(device, None, out, None)
        loaded, tokenizer = load(ref, device=str(place))
        report = _record(place, "lancedb") | run(loaded, tokenizer, text or BOOK, repeats, note) | {"model": ref}
    _finish(report, out, None, as_json)
    if not as_json:
        for line in lines(report):
            typer.echo(line)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _place(
    device: str | None, dtype: str | None, out: Path | None, plot: Path | None
) -> "tuple[torch.device, torch.dtype]":
    """Device and dtype; also whether the files can be written, before minutes are spent on measuring."""
    import torch

    from longreach.bench.plot import check_plot
    from longreach.errors import UsageError
    from longreach.models.device import check_device, default_device, dtype_of

    for path in (out, plot):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"'{path}' cannot be written: give a file in a folder that exists.")
    if plot is not None:
        check_plot(plot)
    name = device or default_device()
    check_device(name)
    place = torch.device(name)
    return place, dtype_of(dtype or ("bfloat16" if place.type == "cuda" else "float32"))


def _record(device: "torch.device", *packages: str) -> dict[str, Any]:
    from longreach.bench.timing import record

    return record(sys.argv[1:], device, packages)


@contextmanager
def _memory(lower: str, as_json: bool) -> Iterator[None]:
    """Ends the command where memory runs out, with the options that save some."""
    from longreach.errors import out_of_memory

    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        fail(f"Out of memory: lower {lower}, or use a smaller --dtype.", "MemoryError", as_json, 1)


def _finish(report: dict[str, Any], out: Path | None, plot: Path | None, as_json: bool) -> None:
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        from longreach.bench.plot import plot as draw

        draw(report, plot)
    for text in report.get("notes", ()):
        note(text)
    if as_json:
        emit(report)


def _attention_table(report: dict[str, Any]) -> None:
    header = ("part", "impl", "seconds", "TFLOP/s", "GB/s", "speed-up", "ideal", "of ideal", "over flex", "peak GiB")
    keys = ("speedup", "ideal_speedup", "achieved_over_ideal", "speedup_over_flex")
    table(
        header,
        [
            (
                row["part"],
                row["impl"],
                _number(row["seconds"], 5),
                _number(row["flops_per_second"], 3, 1e-12),
                _number(row["bytes_per_second"], 2, 1e-9),
                *(_number(row.get(key), 2) for key in keys),
                _number(row["peak_memory_bytes"], 2, 2**-30),
            )
            for row in report["results"]
        ],
    )
    typer.echo(f"\nbaseline: {report['baseline']['kernel']} ({report['baseline']['backend']})")


def _model_table(report: dict[str, Any]) -> None:
    from longreach.bench.plot import variation

    rows = []
    for what in ("prefill", "decode", "train"):
        parts = report.get(what, [])
        for part in [parts] if isinstance(parts, dict) else parts:
            ideal = part.get("ideal_speedup", part.get("ideal_speedup_flops"))
            for name, one in part["variants"].items():
                other = one.get("achieved_over_ideal", one.get("achieved_over_ideal_flops"))
                rows.append(
                    (
                        what + variation(part),
                        name,
                        _number(one.get("seconds", one.get("seconds_per_token")), 4),
                        _number(one["tokens_per_second"], 1),
                        _number(one.get("flops_per_second"), 3, 1e-12),
                        _number(one.get("bytes_per_second"), 2, 1e-9),
                        _number(one.get("speedup"), 2),
                        _number(ideal, 2) if "speedup" in one else "",
                        _number(other, 2),
                        _number(one.get("kv_allocated_bytes"), 1, 2**-20),
                        _number(one["peak_memory_bytes"], 2, 2**-30),
                    )
                )
    header = ("what", "model", "seconds", "tokens/s", "TFLOP/s", "GB/s")
    table((*header, "speed-up", "ideal", "of ideal", "KV MiB", "peak GiB"), rows)


def _number(value: float | None, digits: int, factor: float = 1) -> str:
    return "" if value is None else f"{value * factor:,.{digits}f}"
