"""`longreach study`: an adapter that answers from a corpus, and the gate that says how to read
it."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from longreach.cli.output import (
    DeviceOption,
    JsonOption,
    ModelOption,
    StoreOption,
    dtype_checked,
    emit,
    note,
    say,
    table,
)
from longreach.wording import counted

if TYPE_CHECKING:
    from longreach.reading.scorecard import Scorecard


def study(
    corpus: str = typer.Argument(help="The corpus."),
    questions: Path | None = typer.Option(
        None,
        "--questions",
        help="JSON lines: question, answer(s), document. [default: made from the passages]",
    ),
    evaluation: Path | None = typer.Option(
        None,
        "--evaluation",
        help="Test on these instead of holding some of the others out.",
    ),
    per_passage: int = typer.Option(
        1, "--per-passage", help="Questions made about each passage, 1 to 5."
    ),
    teacher: str | None = typer.Option(
        None,
        "--teacher",
        metavar="URL",
        help="OpenAI-compatible; makes the questions. [default: the corpus's model]",
    ),
    teacher_model: str | None = typer.Option(
        None,
        "--teacher-model",
        help="Name of the model there. The key is in $LONGREACH_TEACHER_KEY or $OPENAI_API_KEY.",
    ),
    loss: str = typer.Option(
        "answers",
        "--loss",
        help="answers: the answers given; distill: what the model expects with the text in view.",
    ),
    epochs: int = typer.Option(3, "--epochs", help="How often each question is learned."),
    lr: float = typer.Option(3e-4, "--lr", help="The highest learning rate."),
    lora: int = typer.Option(
        8,
        "--lora",
        metavar="R",
        help=(
            "Rank of a new adapter on q, k, v, o; one that came with the compressor keeps its own."
        ),
    ),
    batch: int = typer.Option(8, "--batch", help="Questions of a step, or answered together."),
    accumulate: int = typer.Option(
        1, "--accumulate", help="Parts a step is learned in: takes less memory."
    ),
    checkpointing: bool = typer.Option(
        False, "--checkpointing", help="Slower, in much less memory."
    ),
    budget: int = typer.Option(
        2048, "--budget", help="Positions of a prompt at most, in training and in the gate."
    ),
    held_out: float = typer.Option(
        0.1,
        "--held-out",
        help="Share of the questions kept for testing: at least 1 question, at most 200.",
    ),
    seed: int = typer.Option(
        0, "--seed", help="Seed of the questions, the split, the order and the adapter's start."
    ),
    gate_only: bool = typer.Option(False, "--gate-only", help="Measure without training."),
    undo: bool = typer.Option(
        False,
        "--undo",
        help="Undo the last study: the adapter and the policy from before it come back.",
    ),
    report_to: list[str] = typer.Option(
        [], "--report-to", help="tensorboard, wandb, trackio; may be repeated."
    ),
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
    questions at least. Stopped anywhere, the same command goes on; --undo undoes the last study.

    Example: longreach study library --questions questions.jsonl
    """
    from longreach.datasets.questions import check_share, hold_out, read_questions, without
    from longreach.errors import UsageError
    from longreach.training.common.trackers import check_trackers
    from longreach.training.study.asking import check_per_passage
    from longreach.training.study.settings import StudySettings

    settings = StudySettings(
        loss=loss,  # type: ignore[arg-type]  # checked there
        epochs=epochs,
        lr=lr,
        lora=lora,
        alpha=2 * lora,
        batch=batch,
        accumulate=accumulate,
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
        _undo(corpus, store, as_json)
        return
    check_trackers(settings.report_to)
    if teacher and questions:
        raise UsageError(
            "--teacher makes questions and --questions gives them: leave one of them out."
        )
    check_share(held_out)
    check_per_passage(per_passage)

    from longreach.corpus.place import store_folder
    from longreach.corpus.store import Corpus
    from longreach.engine.sampling import Sampling
    from longreach.evals.systems.gate import gate
    from longreach.models.decoder import window_of
    from longreach.reading.policy import DEFAULT_BUDGET, Policy
    from longreach.reading.reader import Reader
    from longreach.session import open_workspace
    from longreach.training.study.folder import QUESTIONS, working
    from longreach.training.study.selfstudy import Author, OwnModel, make_questions
    from longreach.training.study.study import study as run
    from longreach.training.study.teacher import Endpoint
    from longreach.training.study.undo import keep_state, last_kept

    endpoint: Author | None = Endpoint(teacher, teacher_model) if teacher else None
    folder = store_folder(store)
    names = [document.document for document in Corpus.open(folder, corpus).documents()]
    # Before a model is loaded, or questions are made, for nothing.
    asked = read_questions(questions, names, corpus) if questions else None
    tested = read_questions(evaluation, names, corpus) if evaluation else None
    if asked and not tested:
        hold_out(asked, held_out, seed)
    dropped: dict[str, int] = {}  # of the questions that are made
    note(f"study: loading the model of '{corpus}'")
    opened = open_workspace(
        folder, corpus, model_ref=model, device=device, compressing=False, dtype=dtype
    )
    library = opened.corpus
    window = window_of(opened.model)
    if budget != DEFAULT_BUDGET and window and budget > (room := window - Sampling.max_new_tokens):
        raise UsageError(
            f"--budget is {budget}; the model's window of {window} leaves {room} beside an answer."
        )
    if asked is None and not (gate_only and tested):
        own = OwnModel(
            opened.model, opened.tokenizer, library.settings.model_fingerprint, batch_size=batch
        )
        author = endpoint or own
        with working(library) as work:
            made = make_questions(
                library, author, work / QUESTIONS, per_passage=per_passage, seed=seed, say=note
            )
        asked, dropped = made.questions, made.dropped
    learned, tested = (
        (without(asked or [], tested), tested) if tested else hold_out(asked or [], held_out, seed)
    )
    report = None
    kept = last_kept(library)
    if not gate_only:
        note(f"study: {counted(len(learned), 'question')} to learn, {len(tested):,} to test on")
        report = run(library, opened.model, opened.tokenizer, learned, settings, say=note)
    reader = Reader(library, opened.model, opened.tokenizer, policy=Policy())
    card = gate(reader, tested, budget, seed=seed, batch_size=batch, say=note)
    if last_kept(library) == kept:  # no other adapter came in, so nothing was kept yet
        with library.changing("study") as artefacts:
            keep_state(artefacts)
    card.save(library)
    if as_json:
        figures = report._asdict() | {"adapter": str(report.adapter)} if report else None
        emit(
            {"corpus": corpus, "dropped": dropped, "training": figures, "scorecard": card.to_dict()}
        )
        return
    if report:
        rate = (
            f"{report.tokens / report.seconds:,.0f} positions/s"
            if report.seconds
            else "done before"
        )
        losses = f"loss {report.first_loss:.3f} to {report.last_loss:.3f}"
        size = f"{counted(report.questions, 'question')}, {counted(report.steps, 'step')}"
        say(f"{corpus}: {size}, {losses}, {rate}.\n")
    print_scorecard(card)


def _undo(name: str, store: Path | None, as_json: bool) -> None:
    """Takes the last study of a corpus back."""
    from longreach.corpus.place import store_folder
    from longreach.corpus.store import Corpus
    from longreach.training.study.folder import working
    from longreach.training.study.undo import undo

    corpus = Corpus.open(store_folder(store), name)
    with working(corpus):
        found = undo(corpus)
    if as_json:
        adapter = str(found.adapter) if found.adapter else None
        emit({"corpus": name, "undone": True, "adapter": adapter, "scorecard": found.scorecard})
        return
    adapter = (
        "without an adapter" if found.adapter is None else f"with the adapter in {found.adapter}"
    )
    policy = "the policy that was measured with it" if found.scorecard else "the default policy"
    say(f"{name}: the last study is taken back; ask reads {adapter}, by {policy}.")


def print_scorecard(card: "Scorecard") -> None:
    """Prints a scorecard as a table."""
    rows = [
        (
            f"{row.reading} *" if row.reading == card.chosen else row.reading,
            f"{row.f1:.1f}",
            "n < 10" if row.f1_low is None else f"[{row.f1_low:.1f}, {row.f1_high:.1f}]",
            f"{row.exact_match:.1f}",
            f"{row.rouge_l:.1f}",
            round(row.positions),
            row.questions,
        )
        for row in card.rows
    ]
    table(("reading", "F1", "95%", "exact", "ROUGE-L", "positions", "questions"), rows)
    say(
        f"* what ask reads within {counted(card.budget, 'position')}; measured"
        f" {card.date}.\n{card.why}"
    )
