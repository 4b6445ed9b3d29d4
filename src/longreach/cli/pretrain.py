"""`longreach pretrain`: a compressor out of a model and documents."""

from pathlib import Path

import typer

from longreach.cli.method_options import MethodCommand, given_options
from longreach.cli.output import DeviceOption, JsonOption, dtype_checked, emit, note, say
from longreach.compressors.method import Option, check_options, load_object
from longreach.compressors.registry import DEFAULT_TRAINED, find_trained, trained_methods
from longreach.wording import counted


class PretrainCommand(MethodCommand):
    """The command, with the options of every method that is trained."""

    after = "method"

    def owners(self) -> dict[str, tuple[Option, ...]]:
        """See `MethodCommand.owners`."""
        return {name: method.training_options for name, method in trained_methods().items()}


def pretrain(
    context: typer.Context,
    model: str = typer.Argument(help="The base model: hub id, folder, .gguf file or 'smollm2'."),
    data: list[str] = typer.Argument(
        help="Text files, .jsonl and .parquet with a field 'text', folders, data sets."
    ),
    out: Path = typer.Argument(
        help="A folder that does not exist yet or is empty, or that of this run, which is resumed."
    ),
    method: str = typer.Option(
        DEFAULT_TRAINED, "--method", help="What is trained: one of the methods named below."
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

    A method has its own options; those of another method are refused. One compressor serves every
    ratio from --min-ratio up, chosen with
    `ingest --compressor OUT --ratio R`. Stopped anywhere, the same command resumes from the last
    checkpoint.

    With --questions the data are JSON lines: {"text": "...", "questions": [{"question": "...",
    "answer": "..."}]}.

    Example: longreach pretrain smollm2 books/ my-compressor --steps 2000
    """
    from longreach.training.common.trackers import check_trackers
    from longreach.training.pretrain.schedule import Schedule

    chosen = find_trained(method)
    given = given_options(context)
    check_options(f"The training of '{chosen.name}'", chosen.training_options, given, flags=True)
    recipe = load_object(chosen.training).from_options(
        given,
        lora_targets=lora_targets,
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
        per_second = report.tokens / report.seconds if report.seconds else 0.0
        figures = {"folder": str(out), "tokens_per_second": per_second}
        emit(report._asdict() | figures | recipe.figures())
        return
    say(
        f"{out}: step {report.steps}, loss {report.first_loss:.3f} -> {report.last_loss:.3f},"
        f" {counted(report.tokens, 'token')} in {report.seconds:.0f} s; {recipe.summary()}."
    )
