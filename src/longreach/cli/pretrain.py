"""`longreach pretrain`: a compressor out of a model and documents."""

from pathlib import Path
from typing import Annotated

import typer

from longreach.cli.method_options import MethodCommand, given_options
from longreach.cli.output import DeviceOption, JsonOption, dtype_checked, emit, say
from longreach.compressors.method import Option
from longreach.compressors.registry import DEFAULT_TRAINED, find_trained, trained_methods
from longreach.training.common import options
from longreach.wording import counted


class PretrainCommand(options.TrainingCommand, MethodCommand):
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
    lora_rank: Annotated[int, options.lora_rank()] = 16,
    lora_alpha: Annotated[int | None, options.lora_alpha("the rank")] = None,
    lora_dropout: Annotated[float, options.LORA_DROPOUT] = 0.05,
    lora_targets: str = typer.Option(
        "attention", "--lora-targets", help="attention, or all with the MLP."
    ),
    steps: Annotated[int, options.steps("; a finished run may be given more")] = 1000,
    batch_size: Annotated[int, options.batch_size("Sequences")] = 1,
    accumulate: Annotated[int, options.ACCUMULATE] = 8,
    learning_rate: Annotated[float, options.learning_rate()] = 4e-4,
    summary_learning_rate: float | None = typer.Option(
        None,
        "--summary-learning-rate",
        help="Learning rate of all but the LoRA. [default: --learning-rate]",
    ),
    warmup: Annotated[float, options.WARMUP] = 0.04,
    seed: Annotated[int, options.SEED] = 0,
    save_every: Annotated[int, options.save_every()] = 50,
    checkpointing: Annotated[bool, options.CHECKPOINTING] = False,
    dtype: str | None = typer.Option(
        None,
        "--dtype",
        callback=dtype_checked,
        help="dtype of the base model. [default: bfloat16; cpu: float32]",
    ),
    report_to: Annotated[list[str], options.REPORT_TO] = [],  # noqa: B006
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

    # The classes that hold the settings check them, before torch is imported and data are read.
    recipe = find_trained(method).make_recipe(
        given_options(context),
        lora_targets=lora_targets,
        lora_dropout=lora_dropout,
        lora_rank=lora_rank,
        # No option can have the value of another one as its default.
        lora_alpha=lora_rank if lora_alpha is None else lora_alpha,
    )
    schedule = Schedule(
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        learning_rate=learning_rate,
        summary_learning_rate=summary_learning_rate,
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
