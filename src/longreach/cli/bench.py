"""`longreach bench`: what things cost here, beside the best alternative in the same run."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from longreach.cli.bench_tables import attention_table, finetune_table, model_table
from longreach.cli.output import (
    DeviceOption,
    JsonOption,
    dtype_checked,
    emit,
    memory_said,
    note,
    say,
)
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
from longreach.jsontext import JsonObject, read_field

if TYPE_CHECKING:
    import torch

HELP = """Measure attention, models, fine-tuning and reading beside the best alternative in one run.

Example: longreach bench attention --length 16384
"""
app = typer.Typer(help=HELP, no_args_is_help=True)

OutOption = typer.Option(None, "--out", metavar="FILE", help="Write the JSON to this file as well.")
PlotOption = typer.Option(
    None, "--plot", metavar="FILE", help="Draw achieved and ideal speed-ups: .png or .svg."
)
DtypeOption = typer.Option(
    None,
    "--dtype",
    callback=dtype_checked,
    help="float32, bfloat16 or float16. [default: bfloat16 on a GPU, else float32]",
)
RowsOption = typer.Option(1, "--rows", help="Rows of the batch.")


@app.command()
def attention(
    shape: str = typer.Option(
        "smollm2", "--shape", help="Heads and head dim of smollm2, llama2-7b, llama3-8b, ..."
    ),
    length: int = typer.Option(16384, "--length", help="Tokens."),
    pattern: str = PatternOption,
    block_size: int | None = BlockSizeOption,
    sink_blocks: int | None = SinkBlocksOption,
    local_blocks: int | None = LocalBlocksOption,
    stride: int | None = StrideOption,
    what: str = typer.Option(
        "forward", "--what", help="forward, train (forward and backward) or decode."
    ),
    impl: str | None = typer.Option(
        None,
        "--impl",
        help="Any of reference,cpu,flex,triton. [default: all that this device can run]",
    ),
    layer: int = typer.Option(
        0, "--layer", help="Index of the layer, which shifts strided blocks."
    ),
    rows: int = RowsOption,
    repeats: int = typer.Option(5, "--repeats", help="Rounds; medians are reported."),
    dtype: str | None = DtypeOption,
    device: str | None = DeviceOption,
    plot: Path | None = PlotOption,
    out: Path | None = OutOption,
    as_json: bool = JsonOption,
) -> None:
    """Measure sparse attention of one layer beside dense attention by the vendor's best kernel.

    Example: longreach bench attention --shape llama2-7b --length 32768 --what train --out
    attention.json
    """
    with memory_said("--length or --rows", as_json):
        from longreach.bench.cases import check_attention
        from longreach.planning.plan import shape as sizes

        chosen = pattern_from(
            pattern,
            block_size=block_size,
            sink_blocks=sink_blocks,
            local_blocks=local_blocks,
            stride=stride,
        )
        impls = None if impl is None else _names(impl)
        check_attention(what, impls, length=length, rows=rows, repeats=repeats, layer=layer)
        heads = sizes(shape)
        _check_files(out, plot)

        from longreach.bench.attention import run
        from longreach.bench.attention_case import AttentionCase

        place, kind = _place(device, dtype)
        case = AttentionCase(
            shape=heads,
            pattern=chosen,
            length=length,
            what=what,
            impls=impls,
            layer=layer,
            rows=rows,
            repeats=repeats,
            dtype=kind,
            device=place,
        )
        # Figures mean little without the machine and the versions that they were made with.
        report = _record(place) | {"source": shape} | run(case, note)
    _finish(report, out, plot, as_json)
    if not as_json:
        attention_table(report)


@app.command()
def model(
    shape: str | None = typer.Option(
        None,
        "--shape",
        help="A published shape with random weights: smollm2, llama2-7b, llama3-8b, ...",
    ),
    ref: str | None = typer.Option(
        None, "--model", help="A model instead: hub id, folder, .gguf file or 'smollm2'."
    ),
    length: int = typer.Option(16384, "--length", help="Tokens of each row."),
    what: str = typer.Option("prefill,decode", "--what", help="Any of prefill,decode,train."),
    layers: int | None = typer.Option(
        None,
        "--layers",
        min=1,
        help="Number of layers; the ratio of full to sparse ones stays. [default: all]",
    ),
    pattern: str | None = typer.Option(
        None,
        "--pattern",
        help="sink-window or strided. [default: a hybrid model's own, else sink-window]",
    ),
    block_size: int | None = BlockSizeOption,
    sink_blocks: int | None = SinkBlocksOption,
    local_blocks: int | None = LocalBlocksOption,
    stride: int | None = StrideOption,
    full_layers: str | None = typer.Option(
        None,
        "--full-layers",
        help="middle-third, a number, or indices. [default: a hybrid's own, else middle-third]",
    ),
    rows: int = RowsOption,
    repeats: int = typer.Option(
        3, "--repeats", help="Rounds of prefill and train; medians are reported."
    ),
    new_tokens: int = typer.Option(32, "--new-tokens", help="Steps of decode."),
    flex: bool = typer.Option(
        False, "--flex", help="Also measure the hybrid with FlexAttention in its sparse layers."
    ),
    graphs: bool | None = typer.Option(
        None,
        "--graphs/--no-graphs",
        help="Decode with or without CUDA graphs. [default: both on a GPU]",
    ),
    compile: bool = typer.Option(
        False, "--compile", help="Decode through torch.compile, full and hybrid alike."
    ),
    dtype: str | None = DtypeOption,
    device: str | None = DeviceOption,
    plot: Path | None = PlotOption,
    out: Path | None = OutOption,
    as_json: bool = JsonOption,
) -> None:
    """Measure a whole model, full against hybrid: prompts, tokens one by one, training steps.

    Example: longreach bench model --shape llama2-7b --length 131072 --what decode --out decode.json
    """
    with memory_said("--length, --rows or --layers", as_json):
        from longreach.bench.cases import ModelCase, check_source

        case = ModelCase(length, _names(what), rows, repeats, new_tokens, flex, graphs, compile)
        changes = {
            "block_size": block_size,
            "sink_blocks": sink_blocks,
            "local_blocks": local_blocks,
            "stride": stride,
        }
        # None leaves a hybrid model its own pattern.
        chosen = None
        if pattern or given(changes):
            chosen = pattern_from(pattern or "sink-window", **changes)
        full = None if full_layers is None else layers_from(full_layers)
        check_source(shape, ref)
        _check_shape(shape)
        _check_files(out, plot)

        from longreach.bench.model import run
        from longreach.bench.subject import make_subject

        place, kind = _place(device, dtype)
        both = make_subject(
            shape=shape,
            model=ref,
            layers=layers,
            pattern=chosen,
            full_layers=full,
            length=case.window,
            dtype=kind,
            device=place,
        )
        report = _record(place) | run(case, both, note)
    _finish(report, out, plot, as_json)
    if not as_json:
        model_table(report)


@app.command()
def finetune(
    shape: str | None = typer.Option(
        None,
        "--shape",
        help="A published shape with random weights: smollm2, llama2-7b, llama3-8b, ...",
    ),
    ref: str | None = typer.Option(
        None, "--model", help="A model instead: hub id, folder, .gguf file or 'smollm2'."
    ),
    length: int = typer.Option(8192, "--length", help="Tokens of a document."),
    ratio: int = typer.Option(30, "--ratio", help="Tokens that a summary vector stands for."),
    qa_tokens: int = typer.Option(
        64, "--qa-tokens", help="Tokens of a question and its answer, which are learned."
    ),
    rows: int = typer.Option(1, "--rows", help="Documents of a step."),
    repeats: int = typer.Option(3, "--repeats", help="Rounds; medians are reported."),
    dtype: str | None = DtypeOption,
    device: str | None = DeviceOption,
    out: Path | None = OutOption,
    as_json: bool = JsonOption,
) -> None:
    """Measure fine-tuning on documents' summary vectors beside fine-tuning on their full text.

    Example: longreach bench finetune --shape llama2-7b --rows 4 --out finetune.json
    """
    with memory_said("--length or --rows", as_json):
        from longreach.bench.cases import FinetuneCase, check_source

        case = FinetuneCase(length, ratio, qa_tokens, rows, repeats)
        check_source(shape, ref)
        _check_shape(shape)
        _check_files(out, None)

        from longreach.bench.finetune import run

        place, kind = _place(device, dtype)
        report = _record(place) | run(
            case, shape=shape, model=ref, dtype=kind, device=place, progress=note
        )
    _finish(report, out, None, as_json)
    if not as_json:
        finetune_table(report)


@app.command()
def reader(
    ref: str = typer.Option("smollm2", "--model", help="Hub id, folder, .gguf file or 'smollm2'."),
    text: Path | None = typer.Option(
        None,
        "--text",
        exists=True,
        dir_okay=False,
        help="What is read. [default: a novel that comes with longreach]",
        show_default=False,
    ),
    repeats: int = typer.Option(5, "--repeats", min=1, help="Pairs behind each median."),
    device: str | None = DeviceOption,
    out: Path | None = OutOption,
    as_json: bool = JsonOption,
) -> None:
    """Measure compressing, asking and starting beside the bare model.

    Example: longreach bench reader --out reader.json
    """
    # The sentence then reads: lower --model to a smaller one.
    with memory_said("--model to a smaller one", as_json):
        _check_files(out, None)

        from longreach.bench.reader import lines, run
        from longreach.evals.suites.haystack import DEFAULT
        from longreach.models.loading.load import load

        place, _ = _place(device, None)
        loaded, tokenizer = load(ref, device=str(place))
        report = (
            _record(place, "lancedb")
            | run(loaded, tokenizer, text or DEFAULT, repeats, note)
            | {"model": ref}
        )
    _finish(report, out, None, as_json)
    if not as_json:
        for line in lines(report):
            say(line)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _check_shape(shape: str | None) -> None:
    """Raises UsageError for a shape that is not published."""
    from longreach.planning.plan import shape as sizes

    if shape is not None:
        sizes(shape)


def _check_files(out: Path | None, plot: Path | None) -> None:
    """Raises UsageError for files that cannot be written, before minutes go into measuring."""
    from longreach.bench.plot import check_plot
    from longreach.errors import UsageError

    for path in (out, plot):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"'{path}' cannot be written: give a file in a folder that exists.")
    if plot is not None:
        check_plot(plot)


def _place(device: str | None, dtype: str | None) -> "tuple[torch.device, torch.dtype]":
    """Returns the device and the dtype that are measured.

    Raises:
        UsageError: This machine has no such device.
    """
    import torch

    from longreach.models.device import check_device, default_device, dtype_of

    name = device or default_device()
    check_device(name)
    place = torch.device(name)
    # Many CPUs only emulate bfloat16, and nobody would choose it there.
    usual = "bfloat16" if place.type == "cuda" else "float32"
    return place, dtype_of(dtype or usual)


def _record(device: "torch.device", *packages: str) -> JsonObject:
    from longreach.models.machine import record

    return record(sys.argv[1:], device, packages)


def _finish(report: JsonObject, out: Path | None, plot: Path | None, as_json: bool) -> None:
    # Files come before stdout: a closed pipe must not cost what took minutes to measure.
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        from longreach.bench.plot import plot as draw

        draw(report, plot)
    notes = read_field(report, "notes", list) if "notes" in report else []
    for text in notes:
        note(text)
    if as_json:
        emit(report)
