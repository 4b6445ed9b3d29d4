"""`longreach extend`: training on long texts at the target length."""

from pathlib import Path
from typing import Annotated

import typer

from longreach.cli.output import JsonOption, device_checked, emit, say
from longreach.cli.pattern import (
    BlockSizeOption,
    LocalBlocksOption,
    SinkBlocksOption,
    StrideOption,
    given,
    layers_from,
    pattern_from,
)
from longreach.jsontext import read_field
from longreach.training.common import options
from longreach.wording import counted


def extend(
    model: str = typer.Argument(help="Hub id, folder, .gguf file or 'smollm2'; full or hybrid."),
    data: list[str] = typer.Argument(
        help="Text files, .jsonl and .parquet with a field 'text', folders, data sets."
    ),
    out: Path = typer.Argument(
        help="A new folder, or that of a run that was stopped, which is resumed."
    ),
    length: int = typer.Option(..., "--length", help="Target length in tokens."),
    pattern: str | None = typer.Option(
        None, "--pattern", help="Convert first: sink-window or strided."
    ),
    block_size: int | None = BlockSizeOption,
    sink_blocks: int | None = SinkBlocksOption,
    local_blocks: int | None = LocalBlocksOption,
    stride: int | None = StrideOption,
    full_layers: str | None = typer.Option(
        None,
        "--full-layers",
        help="Convert first, as `convert --full-layers` says.",
    ),
    steps: Annotated[int | None, options.steps(default="the data once")] = None,
    tokens: int | None = typer.Option(
        None, "--tokens", help="Tokens to learn, instead of --steps."
    ),
    batch_tokens: int | None = typer.Option(
        None, "--batch-tokens", help="Tokens of a step, accumulated. [default: 8 times the length]"
    ),
    batch_size: Annotated[int, options.batch_size("Rows of the target length")] = 1,
    lora_rank: Annotated[int, options.lora_rank(" on q, k, v, o; 0 trains all weights")] = 0,
    lora_alpha: Annotated[int | None, options.lora_alpha("twice the rank")] = None,
    train_norms: bool = typer.Option(
        False, "--train-norms", help="With a LoRA: train the norms as well."
    ),
    train_embeddings: bool = typer.Option(
        False, "--train-embeddings", help="With a LoRA: train embeddings and LM head as well."
    ),
    learning_rate: Annotated[float | None, options.learning_rate("2e-5, with a LoRA 2e-4")] = None,
    schedule: str = typer.Option(
        "cosine", "--schedule", help="How the learning rate falls: cosine, or constant."
    ),
    warmup: Annotated[float, options.WARMUP] = 0.03,
    weight_decay: float = typer.Option(0.0, "--weight-decay", help="Weight decay of AdamW."),
    long_tokens: int = typer.Option(
        4096, "--long-tokens", help="Documents of this many tokens or more are drawn more often."
    ),
    long_weight: float = typer.Option(
        5.0, "--long-weight", help="How many times as often they are drawn; 1 treats all alike."
    ),
    held_out: Annotated[float, options.held_out("documents", " and never learned")] = 8,
    evaluation: Annotated[list[str], options.EVALUATION] = [],  # noqa: B006  # typer copies it
    eval_every: int | None = typer.Option(
        None, "--eval-every", help="Steps between tests. [default: ten a run]"
    ),
    save_every: Annotated[int | None, options.save_every("ten a run")] = None,
    checkpointing: Annotated[bool, options.CHECKPOINTING] = True,
    asks: float = typer.Option(
        0.0,
        "--asks",
        help="Share of the rows that are made up, with DATA around their facts, and ask for far"
        " reading.",
    ),
    windows: str | None = typer.Option(
        None,
        "--windows",
        help="Local windows to draw from while training, such as 128,256,512. [default: the"
        " model's own]",
    ),
    lengths: str | None = typer.Option(
        None,
        "--lengths",
        help="Lengths of rows in order, with shares of the run: 1024:0.6,2048:0.3,4096:0.1."
        " [default: the target length]",
    ),
    train_layers: str = typer.Option(
        "all",
        "--train-layers",
        help="Layers that are trained: all, or full for a hybrid's full ones.",
    ),
    teacher_weight: float = typer.Option(
        0.0,
        "--teacher-weight",
        help="Weight of the divergence from the untrained model with full attention, in replies.",
    ),
    report_to: Annotated[list[str], options.REPORT_TO] = [],  # noqa: B006
    seed: Annotated[int, options.SEED] = 0,
    dtype: str | None = typer.Option(
        None,
        "--dtype",
        help="bfloat16 or float32. [default: bfloat16 on a GPU that has it, else float32]",
    ),
    device: str | None = typer.Option(
        None,
        "--device",
        callback=device_checked,
        help=(
            "cpu or cuda; several GPUs by `accelerate launch`. [default: the GPU where there is"
            " one]"
        ),
    ),
    as_json: bool = JsonOption,
) -> None:
    """Train a model on long texts, so that it uses a longer window.

    Stopped anywhere, the same command resumes from the last checkpoint. Tests print the perplexity
    by position.

    Example: longreach extend smollm2 books/ smollm2-32k --pattern sink-window --length 32768
    --tokens 20000000
    """
    from longreach.errors import UsageError
    from longreach.training.common.trackers import check_trackers
    from longreach.training.extend.curriculum import parse_stages
    from longreach.training.extend.settings import ExtendSettings

    shape = {
        "block_size": block_size,
        "sink_blocks": sink_blocks,
        "local_blocks": local_blocks,
        "stride": stride,
    }
    settings = ExtendSettings(
        length=length,
        steps=steps,
        tokens=tokens,
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        train_norms=train_norms,
        train_embeddings=train_embeddings,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        long_tokens=long_tokens,
        long_weight=long_weight,
        held_out=held_out,
        eval_every=eval_every,
        save_every=save_every,
        dtype=dtype,
        checkpointing=checkpointing,
        asks=asks,
        windows=windows_from(windows),
        lengths=parse_stages(lengths) if lengths else (),
        train_layers=train_layers,
        teacher_weight=teacher_weight,
        report_to=tuple(report_to),
        seed=seed,
    )
    # Any of these options asks for a conversion; without one the model stays what it is.
    converting = bool(pattern or full_layers or given(shape))
    chosen = pattern_from(pattern or "sink-window", **shape)
    # Without the option it is `convert` that knows.
    layers = None if full_layers is None else layers_from(full_layers)
    check_trackers(settings.report_to)

    from longreach.models.device import default_device
    from longreach.models.hybrid.convert import convert
    from longreach.models.loading.load import load
    from longreach.training.extend.extend import extend as run

    # Trainer puts it on its device, each process on its own. What LoRA leaves fixed is as precise
    # as the computation.
    work = settings.computed_in(device or default_device())
    loaded, tokenizer = load(model, device="cpu", dtype=work if lora_rank else None)
    if converting:
        if getattr(loaded.config, "sparse_attention", None):
            raise UsageError(
                f"'{model}' is a hybrid model already: omit the pattern and --full-layers."
            )
        loaded = convert(loaded, chosen, layers, length)
    report = run(loaded, tokenizer, data, out, settings, evaluation=evaluation, device=device)
    if as_json:
        emit(report)
        return
    loss = read_field(report, "loss", dict)
    perplexity = read_field(report, "perplexity", dict)
    peak = report["peak_memory_bytes"]
    steps = read_field(report, "steps", int)
    tokens = read_field(report, "tokens", int)
    replies = read_field(report, "replies", dict)
    said = (
        f"{out}: {counted(steps, 'step')}, {counted(tokens, 'token')}, "
        f"loss {loss['first']:.3f} to {loss['last']:.3f}"
    )
    # Empty where no document was held out.
    if perplexity:
        said += (
            f", held-out perplexity {perplexity['before']['all']:.2f} to"
            f" {perplexity['after']['all']:.2f}"
        )
    if replies:
        said += (
            f", replies right {replies['before']['right']:.0%} to {replies['after']['right']:.0%}"
        )
    # On a CPU it is not measured.
    if isinstance(peak, int) and peak:
        said += f", {peak / 2**30:.1f} GiB at most"
    say(said + ".")


def windows_from(text: str | None) -> tuple[int, ...]:
    """Returns what --windows means.

    Raises:
        UsageError: It is not a list of numbers above 0.
    """
    from longreach.errors import UsageError

    try:
        found = tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        found = (0,)
    if any(window < 1 for window in found):
        raise UsageError(f"--windows is '{text}': give tokens, such as 128,256,512.")
    return found
