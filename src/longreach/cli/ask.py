"""`longreach ask`: a question to a corpus."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from longreach.cli.output import DeviceOption, JsonOption, ModelOption, StoreOption, emit, say
from longreach.wording import counted, printable


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
            "The document it is about: a name, or the end of a path. [default: found by retrieval]"
        ),
    ),
    k: int | None = typer.Option(None, "--k", help="Passages retrieved. [default: 5]"),
    raw: str | None = typer.Option(
        None,
        "--raw",
        metavar="N|document",
        help="How many of them are read as raw text, or the whole document. [default: 2]",
    ),
    compressed: str | None = typer.Option(
        None,
        "--compressed",
        help="Read as vectors: passages, document or none. [default: passages]",
    ),
    retriever: str | None = typer.Option(
        None, "--retriever", help="bm25, dense or hybrid. [default: bm25]"
    ),
    adapter: Path | None = typer.Option(
        None,
        "--adapter",
        exists=True,
        file_okay=False,
        resolve_path=True,
        help="PEFT adapter folder. [default: the corpus's own]",
    ),
    max_new_tokens: int = typer.Option(
        128, "--max-new-tokens", help="Length of the answer at most, in tokens."
    ),
    temperature: float = typer.Option(0.0, "--temperature", help="0 is greedy."),
    top_p: float = typer.Option(
        1.0, "--top-p", help="Sample from the likeliest tokens of this total probability."
    ),
    seed: int | None = typer.Option(None, "--seed", help="Makes sampling repeatable."),
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
    if raw is not None and raw != "document" and not raw.removeprefix("-").isdecimal():
        raise UsageError(f"--raw is '{raw}'; give a number of passages, or document.")
    passages = int(raw) if raw not in (None, "document") else raw
    named = {
        "budget": budget,
        "k": k,
        "raw": passages,
        "compressed": compressed,
        "retriever": retriever,
    }
    changes: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    own = Policy(**changes)  # before torch and a model are loaded for nothing
    sampling = Sampling(max_new_tokens, temperature, top_p, seed=seed)

    with open_session(corpus, store, model, adapter=adapter, device=device) as session:
        if document is not None:
            # Before a model is loaded for a document that is not there.
            document = session.corpus.resolve(document)
        policy = own
        if changes.keys() <= {"budget"}:
            measured_best = session.reader.policy
            policy = replace(measured_best, budget=budget or measured_best.budget)
        stream = session.stream(question, document=document, policy=policy, sampling=sampling)
        for piece in stream:
            if not as_json:
                say(piece, end="")
        card = session.reader.scorecard
    answer = stream.answer
    assert answer is not None
    row = card.row_of(policy) if card else None
    if as_json:
        score = {"f1": row.f1, "questions": row.questions} if row else None
        emit({"corpus": corpus, "question": question, **answer.to_dict(), "gate": score})
        return
    say("\n")
    for passage in answer.passages:
        place = f"{printable(passage.document)}, characters {passage.start:,}-{passage.end:,}"
        say(
            f"[{passage.read_as}] {place} (score {passage.score:.2f}):"
            f" {' '.join(passage.text.split())[:90]}..."
        )
    usage, timings = answer.usage, answer.timings
    say(
        f"{counted(usage.positions, 'position')} read ({counted(usage.vectors, 'vector')},"
        f" {counted(usage.raw_tokens, 'raw token')}) for {counted(usage.source_tokens, 'token')} of"
        f" source; first token after {timings.first_token_seconds:.2f} s."
    )
    measured = f" (gate: F1 {row.f1:.1f}, {counted(row.questions, 'question')})" if row else ""
    say(f"policy: {answer.policy}{measured}")
