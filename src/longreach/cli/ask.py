"""`longreach ask`: a question to a corpus."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from longreach.cli.output import DeviceOption, JsonOption, ModelOption, StoreOption, emit, say
from longreach.wording import counted, printable

if TYPE_CHECKING:
    from longreach.reading.answer import Answer
    from longreach.reading.scorecard import ScorecardRow


def ask(
    corpus: str = typer.Argument(help="The corpus."),
    question: str = typer.Argument(help="The question."),
    budget: int | None = typer.Option(
        None, "--budget", help="Positions of the whole prompt at most. [default: 2048]"
    ),
    document: str | None = typer.Option(
        None,
        "--document",
        help=(
            "The document that the question is about: its name, or the end of its path. [default:"
            " found by retrieval]"
        ),
    ),
    k: int | None = typer.Option(None, "--k", help="Passages retrieved. [default: 5]"),
    raw: str | None = typer.Option(
        None,
        "--raw",
        metavar="N|document",
        help="How many of these are read as raw text, or document for a whole one. [default: 2]",
    ),
    compressed: str | None = typer.Option(
        None,
        "--compressed",
        help="What is read as memory: passages, document or none. [default: passages]",
    ),
    retriever: str | None = typer.Option(
        None, "--retriever", help="How passages are found: bm25, dense or hybrid. [default: bm25]"
    ),
    adapter: Path | None = typer.Option(
        None,
        "--adapter",
        exists=True,
        file_okay=False,
        resolve_path=True,
        help="Folder of the PEFT adapter to answer with. [default: the corpus's own]",
    ),
    max_new_tokens: int = typer.Option(
        128, "--max-new-tokens", help="Tokens of the answer at most."
    ),
    temperature: float = typer.Option(
        0.0, "--temperature", help="Higher is more random; 0 always takes the likeliest token."
    ),
    top_p: float = typer.Option(
        1.0, "--top-p", help="Sample from the likeliest tokens of this total probability."
    ),
    seed: int | None = typer.Option(
        None, "--seed", help="Seed of the sampling, which repeats an answer."
    ),
    model: str | None = ModelOption,
    store: Path | None = StoreOption,
    device: str | None = DeviceOption,
    as_json: bool = JsonOption,
) -> None:
    """Answer a question from a corpus, and say which passages were read.

    Where `study` measured which way of reading answers best, that is what --k, --raw, --compressed
    and --retriever replace.

    Example: longreach ask library "Who stole the tarts?"
    """
    from longreach.engine.sampling import Sampling
    from longreach.errors import UsageError
    from longreach.reading.policy import Policy
    from longreach.session import open as open_session

    if not question.strip():
        raise UsageError("The question is empty: ask one.")
    # A negative number passes here, because `Policy` refuses it in a sentence of its own.
    if raw is not None and raw != "document" and not raw.removeprefix("-").isdecimal():
        raise UsageError(f"--raw is '{raw}'; give a number of passages, or document.")
    changes: dict[str, Any] = {}
    named = {
        "budget": budget,
        "k": k,
        "raw": int(raw) if raw is not None and raw != "document" else raw,
        "compressed": compressed,
        "retriever": retriever,
    }
    for field, value in named.items():
        if value is not None:
            changes[field] = value
    # Both are checked here, before torch and a model are loaded for nothing.
    asked_for = Policy(**changes)
    sampling = Sampling(max_new_tokens, temperature, top_p, seed=seed)

    with open_session(corpus, store, model, adapter=adapter, device=device) as session:
        if document is not None:
            # Before a model is loaded for a document that is not there.
            document = session.corpus.resolve(document)
        policy = asked_for
        # No way of reading is named, so the measured one is taken, within the budget given.
        if changes.keys() <= {"budget"}:
            best = session.reader.policy
            policy = replace(best, budget=budget or best.budget)
        stream = session.stream(question, document=document, policy=policy, sampling=sampling)
        # Read to the end with --json too: the answer exists only then.
        for piece in stream:
            if not as_json:
                say(piece, end="")
        card = session.reader.scorecard
    answer = stream.answer
    assert answer is not None
    measured = card.row_of(policy) if card else None
    if as_json:
        score = None
        if measured is not None:
            score = {"f1": measured.f1, "questions": measured.questions}
        emit({"corpus": corpus, "question": question, **answer.to_dict(), "gate": score})
    else:
        _print_sources(answer, measured)


def _print_sources(answer: "Answer", measured: "ScorecardRow | None") -> None:
    """Prints what was read for an answer, how, and how well that way of reading was measured."""
    say("\n")
    for passage in answer.passages:
        place = f"{printable(passage.document)}, characters {passage.start:,}-{passage.end:,}"
        say(
            f"[{passage.read_as}] {place} (score {passage.score:.2f}):"
            f" {' '.join(passage.text.split())[:90]}..."
        )
    usage = answer.usage
    say(
        f"{counted(usage.positions, 'position')} read ({counted(usage.vectors, 'vector')},"
        f" {counted(usage.raw_tokens, 'raw token')}) for {counted(usage.source_tokens, 'token')} of"
        f" source; first token after {answer.timings.first_token_seconds:.2f} s."
    )
    score = ""
    if measured is not None:
        score = f" (gate: F1 {measured.f1:.1f}, {counted(measured.questions, 'question')})"
    say(f"policy: {answer.policy}{score}")
