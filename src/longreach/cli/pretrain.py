"""`longreach pretrain`: a compressor out of a model and documents."""

from pathlib import Path

import typer

from longreach.cli.output import DeviceOption, JsonOption, dtype_checked, emit, note, say
from longreach.wording import counted


def pretrain(
    model: str = typer.Argument(help="The base model: hub id, folder, .gguf file or 'smollm2'."),
    data: list[str] = typer.Argument(
        help="Text files, .jsonl and .parquet with a field 'text', folders, data sets."
    ),
    out: Path = typer.Argument(
        help="A folder that does not exist yet or is empty, or that of this run, which is resumed."
    ),
    method: str = typer.Option(
        "autocompressor", "--method", help="autocompressor, or weighted-pool with --questions."
    ),
    segment_tokens: int = typer.Option(480, "--segment-tokens", help="Tokens compressed together."),
    min_ratio: int = typer.Option(
        4, "--min-ratio", help="The lowest ratio that ingest may ask for."
    ),
    max_ratio: int = typer.Option(30, "--max-ratio", help="The highest ratio trained."),
    whole: float = typer.Option(
        0.0, "--whole", help="Share of the steps at the lowest ratio; the others draw one."
    ),
    mode: str | None = typer.Option(
        None,
        "--mode",
        help="accumulate, independent or replace. [default: accumulate; --questions: independent]",
    ),
    segments: int = typer.Option(
        2, "--segments", help="Segments of a substep, which gradients pass through."
    ),
    substeps: int = typer.Option(2, "--substeps", help="Substeps of a sequence."),
    reconstruction: float = typer.Option(
        0.0, "--reconstruction", help="Weight of reproducing a segment. 0: none."
    ),
    distillation: float = typer.Option(
        0.0, "--distillation", help="Weight of agreeing with the text read. 0: none."
    ),
    questions: int = typer.Option(
        0,
        "--questions",
        help=(
            "Learn to answer: the most questions asked about a text in a step. DATA is JSON lines."
        ),
    ),
    most_vectors: int = typer.Option(
        512,
        "--most-vectors",
        help=(
            "With --questions: vectors of a text at most; the ratio rises where there would be"
            " more."
        ),
    ),
    reading: int = typer.Option(
        0, "--reading", help="With --questions: steps before them, of reconstruction alone."
    ),
    lexical: float = typer.Option(
        0.0, "--lexical", help="With --questions: weight of naming a segment's words."
    ),
    scaffold: int = typer.Option(
        0, "--scaffold", help="With --lexical: steps in which reading is learned beside it."
    ),
    scale: float = typer.Option(
        1.0, "--scale", help="What vectors are multiplied by to be read. 0: as embeddings."
    ),
    start: Path | None = typer.Option(
        None,
        "--start",
        exists=True,
        file_okay=False,
        help="Start from this compressor. [default: the base model]",
    ),
    lora_r: int = typer.Option(16, "--lora-r", help="Rank of the adapter; its alpha is the same."),
    lora_dropout: float = typer.Option(
        0.05, "--lora-dropout", help="Dropout of the adapter; 0 saves a third of the time on a CPU."
    ),
    lora_targets: str = typer.Option(
        "attention", "--lora-targets", help="attention, or all with the MLP."
    ),
    steps: int = typer.Option(
        1000, "--steps", help="Steps of the optimizer; a finished run may be given more."
    ),
    batch_size: int = typer.Option(1, "--batch-size", help="Sequences in one forward pass."),
    accumulate: int = typer.Option(8, "--accumulate", help="Batches of one step."),
    lr: float = typer.Option(4e-4, "--lr", help="The highest learning rate."),
    summary_lr: float | None = typer.Option(
        None, "--summary-lr", help="Learning rate of all but the LoRA. [default: --lr]"
    ),
    warmup: float = typer.Option(
        0.04, "--warmup", help="Share of the steps until that rate is reached."
    ),
    seed: int = typer.Option(
        0, "--seed", help="Seed of the data's order, the draws and the adapter's start."
    ),
    save_every: int = typer.Option(
        50, "--save-every", help="Steps between checkpoints; the last two are kept."
    ),
    checkpointing: bool = typer.Option(
        False, "--checkpointing", help="Slower, in much less memory."
    ),
    dtype: str | None = typer.Option(
        None,
        "--dtype",
        callback=dtype_checked,
        help="dtype of the base model. [default: bfloat16; cpu: float32]",
    ),
    report_to: list[str] = typer.Option(
        [], "--report-to", help="tensorboard, wandb, trackio; may be repeated."
    ),
    device: str | None = DeviceOption,
    as_json: bool = JsonOption,
) -> None:
    """Train a compressor, with which ingest turns segments into few vectors.

    An autocompressor is an adapter and summary embeddings; a weighted pool sums up embeddings of
    words, with an adapter that reads the sums.

    One compressor serves every ratio from --min-ratio up, chosen with
    `ingest --compressor OUT --ratio R`. Stopped anywhere, the same command goes on from the last
    checkpoint.

    With --questions the data are JSON lines: {"text": "...", "questions": [{"question": "...",
    "answer": "..."}]}.

    Example: longreach pretrain smollm2 books/ my-compressor --steps 2000
    """
    from longreach.errors import UsageError
    from longreach.training.common.trackers import check_trackers
    from longreach.training.pretrain.recipe import Recipe, Schedule

    if not 1 <= min_ratio <= max_ratio <= segment_tokens:
        raise UsageError(
            f"The ratios are {min_ratio} to {max_ratio} at {counted(segment_tokens, 'token')} a"
            " segment: give 1 <= --min-ratio <= --max-ratio <= --segment-tokens."
        )
    mode = mode or ("independent" if questions else "accumulate")
    recipe = Recipe(
        method=method,  # type: ignore[arg-type]  # checked there
        segment_tokens=segment_tokens,
        summary_tokens=segment_tokens // min_ratio,
        min_summary_tokens=segment_tokens // max_ratio,
        whole=whole,
        mode=mode,  # type: ignore[arg-type]
        segments=segments,
        substeps=substeps,
        reconstruction=reconstruction,
        distillation=distillation,
        questions=questions,
        most_vectors=most_vectors,
        reading=reading,
        lexical=lexical,
        scaffold=scaffold,
        scale=scale or None,
        lora_targets=lora_targets,  # type: ignore[arg-type]
        lora_dropout=lora_dropout,
        lora_r=lora_r,
        lora_alpha=lora_r,
    )
    schedule = Schedule(
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        summary_lr=summary_lr,
        warmup=warmup,
        seed=seed,
        save_every=save_every,
        checkpointing=checkpointing,
        report_to=tuple(report_to),
    )
    check_trackers(schedule.report_to)

    from longreach.training.pretrain.pretrain import pretrain as run

    report = run(
        model,
        data,
        out,
        recipe,
        schedule,
        start=start,
        device=device,
        dtype=dtype,
        progress=True,
        say=note,
    )
    if as_json:
        figures = report._asdict() | {"folder": str(out)}
        per_second = report.tokens / report.seconds if report.seconds else 0.0
        vectors = {
            "summary_tokens": recipe.summary_tokens,
            "min_summary_tokens": recipe.min_summary_tokens,
        }
        emit(
            figures
            | vectors
            | {
                "tokens_per_second": per_second,
                "segment_tokens": segment_tokens,
                "mode": mode,
            }
        )
        return
    say(
        f"{out}: step {report.steps}, loss {report.first_loss:.3f} -> {report.last_loss:.3f},"
        f" {counted(report.tokens, 'token')} in {report.seconds:.0f} s; ratio {min_ratio} and up at"
        f" {counted(segment_tokens, 'token')} a segment."
    )
