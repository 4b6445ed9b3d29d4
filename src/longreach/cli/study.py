"""`longreach study`: an adapter that answers from a corpus, and how it is read best."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longreach.cli.output import (
    DeviceOption,
    JsonOption,
    ModelOption,
    StoreOption,
    dtype_checked,
    emit,
    say,
    table,
)
from longreach.training.common import options
from longreach.wording import counted

if TYPE_CHECKING:
    from longreach.reading.scorecard import Scorecard
    from longreach.training.study.study import StudyReport
    from longreach.training.study.undo import Undone


def study(
    corpus: str = typer.Argument(help="The corpus."),
    questions: Path | None = typer.Option(
        None,
        "--questions",
        help="JSON lines with a question, an answer or answers, and a document if you like."
        " [default: made from the passages]",
    ),
    evaluation: Annotated[Path | None, options.EVALUATION] = None,
    per_passage: int = typer.Option(
        1, "--per-passage", help="Questions made about each passage, 1 to 5."
    ),
    teacher: str | None = typer.Option(
        None,
        "--teacher",
        metavar="URL",
        help="OpenAI-compatible endpoint that makes the questions."
        " [default: the corpus's own model]",
    ),
    teacher_model: str | None = typer.Option(
        None,
        "--teacher-model",
        help="Name of the teacher's model. Its key is in $LONGREACH_TEACHER_KEY or"
        " $OPENAI_API_KEY.",
    ),
    loss: str = typer.Option(
        "answers",
        "--loss",
        help="What is learned: answers, as they were given, or distill, what the model expects with"
        " the text in view.",
    ),
    epochs: int = typer.Option(3, "--epochs", help="How often each question is learned."),
    learning_rate: Annotated[float, options.learning_rate()] = 3e-4,
    warmup: Annotated[float, options.WARMUP] = 0.04,
    lora_rank: Annotated[
        int, options.lora_rank(" on q, k, v, o; one that came with the compressor keeps its own")
    ] = 8,
    lora_alpha: Annotated[int | None, options.lora_alpha("twice the rank")] = None,
    lora_dropout: Annotated[float, options.LORA_DROPOUT] = 0.05,
    batch_size: Annotated[int, options.batch_size("Questions")] = 8,
    accumulate: Annotated[int, options.ACCUMULATE] = 1,
    batch: int | None = typer.Option(None, "--batch", hidden=True),
    save_every: Annotated[int | None, options.save_every("ten a run")] = None,
    checkpointing: Annotated[bool, options.CHECKPOINTING] = False,
    budget: int = typer.Option(
        2048, "--budget", help="Positions of a prompt at most, in training and in the gate."
    ),
    held_out: Annotated[float, options.held_out("questions", ", 1 to 200")] = 0.1,
    seed: Annotated[int, options.SEED] = 0,
    gate_only: bool = typer.Option(False, "--gate-only", help="Measure without training."),
    undo: bool = typer.Option(
        False,
        "--undo",
        help="Undo the last study: the adapter and the policy from before it return.",
    ),
    report_to: Annotated[list[str], options.REPORT_TO] = [],  # noqa: B006
    dtype: str | None = typer.Option(
        None,
        "--dtype",
        callback=dtype_checked,
        help="dtype of the model. [default: bfloat16; cpu: float32]",
    ),
    model: str | None = ModelOption,
    store: Path | None = StoreOption,
    device: str | None = DeviceOption,
    as_json: bool = JsonOption,
) -> None:
    """Train an adapter that answers from a corpus, and measure which way of reading answers best.

    Questions come from a file, else the model makes some about every passage. Then held-out
    questions are read in every way: without context, compressed, as raw text, mixed, in full. `ask`
    takes the best that fits the budget where it beats the default policy beyond chance, on 30
    questions at least. Stopped anywhere, the same command resumes; --undo undoes the last study.

    Example: longreach study library --questions questions.jsonl
    """
    from longreach.errors import UsageError
    from longreach.session import open as open_session
    from longreach.training.common.trackers import check_trackers
    from longreach.training.study.questions import StudyQuestions
    from longreach.training.study.settings import StudySettings

    # The hidden --batch of earlier releases counts the questions of a whole step.
    batch_size = options.check_batch(batch, accumulate, batch_size)
    settings = StudySettings(
        loss=loss,  # type: ignore[arg-type]  # checked there
        epochs=epochs,
        learning_rate=learning_rate,
        warmup=warmup,
        lora_rank=lora_rank,
        lora_alpha=2 * lora_rank if lora_alpha is None else lora_alpha,
        lora_dropout=lora_dropout,
        batch_size=batch_size,
        accumulate=accumulate,
        save_every=save_every,
        checkpointing=checkpointing,
        budget=budget,
        seed=seed,
        report_to=tuple(report_to),
    )
    if undo:
        if questions or evaluation or teacher or gate_only:
            raise UsageError(
                "--undo trains nothing: omit --questions, --evaluation, --teacher and --gate-only."
            )
        # No model is named here, because taking a study back loads none.
        with open_session(corpus, store) as session:
            _print_undone(corpus, session.undo_study(), as_json)
        return
    # A tracker that is missing is found now, not after the questions were made.
    check_trackers(settings.report_to)
    sources = StudyQuestions(
        learned=questions,
        tested=evaluation,
        per_passage=per_passage,
        teacher=teacher,
        teacher_model=teacher_model,
        held_out=held_out,
    )
    with open_session(corpus, store, model, device=device, dtype=dtype) as session:
        result = session.study(sources, settings=settings, gate_only=gate_only)
    if as_json:
        emit({"corpus": corpus, **result.to_dict()})
        return
    # With --gate-only nothing was trained.
    if result.training:
        _print_training(corpus, result.training)
    print_scorecard(result.scorecard)


def _print_training(corpus: str, report: "StudyReport") -> None:
    rate = f"{report.tokens / report.seconds:,.0f} positions/s"
    losses = f"loss {report.first_loss:.3f} to {report.last_loss:.3f}"
    size = f"{counted(report.questions, 'question')}, {counted(report.steps, 'step')}"
    say(f"{corpus}: {size}, {losses}, {rate}.\n")


def _print_undone(corpus: str, undone: "Undone", as_json: bool) -> None:
    if as_json:
        adapter = str(undone.adapter) if undone.adapter else None
        emit({"corpus": corpus, "undone": True, "adapter": adapter, "scorecard": undone.scorecard})
        return
    adapter = "without an adapter"
    if undone.adapter is not None:
        adapter = f"with the adapter in {undone.adapter}"
    policy = "the default policy"
    if undone.scorecard:
        policy = "the policy that was measured with it"
    say(f"{corpus}: the last study is taken back; ask reads {adapter}, by {policy}.")


def print_scorecard(card: "Scorecard") -> None:
    """Prints a scorecard as a table."""
    cells = []
    for row in card.rows:
        chosen = " *" if row.reading == card.chosen else ""
        sure = "n < 10"
        if row.f1_low is not None:
            sure = f"[{row.f1_low:.1f}, {row.f1_high:.1f}]"
        cells.append(
            (
                f"{row.reading}{chosen}",
                f"{row.f1:.1f}",
                sure,
                f"{row.exact_match:.1f}",
                f"{row.rouge_l:.1f}",
                round(row.positions),
                row.questions,
            )
        )
    table(("reading", "F1", "95%", "exact", "ROUGE-L", "positions", "questions"), cells)
    say(
        f"* what ask reads within {counted(card.budget, 'position')}; measured"
        f" {card.date}.\n{card.why}"
    )
