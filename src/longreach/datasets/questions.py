"""Questions about a corpus with their answers: from JSON lines, and which of them are kept for
testing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from longreach.corpus.documents.encodings.decode import encodable
from longreach.corpus.naming import fitting
from longreach.errors import UsageError
from longreach.jsontext import parse_json

_MOST_HELD_OUT = 200


@dataclass(frozen=True)
class Question:
    """A question about a corpus.

    Attributes:
        document: the document it is about; None leaves finding it to the retriever.
        question: the question.
        answers: what is right, the best first; at least one.
        passage: number of the passage of the document that answers it, where that is known.
    """

    document: str | None
    question: str
    answers: tuple[str, ...]
    passage: int | None = None


class Split(NamedTuple):
    """Questions to learn from, and others to test on."""

    learned: list[Question]
    held_out: list[Question]


def read_questions(path: str | Path, documents: Sequence[str], corpus: str) -> list[Question]:
    """Reads JSON lines: {"question": ..., "answer": ... or "answers": [...], "document": optional}.

    Args:
        path: the file.
        documents: names of the corpus' documents; a question names one of them, or the end of its
            path with or without the suffix, as long as only one fits.
        corpus: its name, for what is said; empty where documents are in none.

    Raises:
        UsageError: the file cannot be read or is empty, or a line is not such a question; the line
            is named.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(
            f"The questions in '{path}' cannot be read ({reason}): give a file of JSON lines."
        ) from error
    found = [
        _question(line, f"Line {number} of '{path}'", documents, corpus)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not found:
        raise UsageError(
            f'\'{path}\' holds no questions: give lines such as {{"question": "...", "answer":'
            ' "..."}.'
        )
    return found


def _question(line: str, where: str, documents: Sequence[str], corpus: str) -> Question:
    try:
        values: Any = parse_json(line)
    except ValueError as error:
        raise UsageError(f"{where} is not JSON ({error}): fix or remove it.") from error
    answers = values.get("answers", [values.get("answer")]) if isinstance(values, dict) else None
    answers = [answers] if isinstance(answers, str) else answers
    texts: list[Any] = (
        [values.get("question"), *answers] if isinstance(answers, list) and answers else [None]
    )
    if not all(isinstance(text, str) and text.strip() and encodable(text) for text in texts):
        raise UsageError(
            f'{where} lacks a question or an answer: give {{"question": "...", "answer": "..."}}.'
        )
    named = values.get("document")
    if named is not None and not isinstance(named, str):
        raise UsageError(f"{where} names a document that is no text: give its name.")
    document = _document(named, where, documents, corpus) if named else None
    return Question(document, texts[0].strip(), tuple(text.strip() for text in texts[1:]))


def _document(named: str, where: str, documents: Sequence[str], corpus: str) -> str:
    fits = fitting(named, documents)
    if len(fits) == 1:
        return fits[0]
    if fits:
        listed = ", ".join(repr(document) for document in fits[:3])
        raise UsageError(
            f"{where} is about '{named}', which may be {listed}: write more of its path."
        )
    if not corpus:
        raise UsageError(
            f"{where} is about '{named}', and no document of that name is given: check the name."
        )
    raise UsageError(
        f"{where} is about '{named}', and corpus '{corpus}' has no such document: `longreach corpus"
        f" show {corpus}` lists them."
    )


def hold_out(questions: Sequence[Question], share: float, seed: int) -> Split:
    """Keeps a share of the questions for testing, drawn by the seed: at least 1, at most 200.

    The same question asked twice of a document, or once without naming one, is never on both sides.

    Raises:
        UsageError: the share is not between 0 and 1, or there is only one question.
    """
    check_share(share)
    keys = _keys(questions)
    kinds = sorted({*keys})
    if len(kinds) < 2:
        raise UsageError(
            "One question cannot both be learned and tested: give more, or others with"
            " --evaluation."
        )
    count = min(_MOST_HELD_OUT, len(kinds) - 1, max(1, round(share * len(kinds))))
    tested = set(random.Random(seed).sample(kinds, count))
    pairs = list(zip(questions, keys, strict=True))
    return Split(
        [each for each, key in pairs if key not in tested],
        [each for each, key in pairs if key in tested],
    )


def check_share(share: float) -> None:
    """Raises UsageError where a share of held-out questions is out of range."""
    if not 0 < share < 1:
        raise UsageError(
            f"The share of held-out questions is {share}; it must lie between 0 and 1, such as 0.1."
        )


def without(questions: Sequence[Question], tested: Sequence[Question]) -> list[Question]:
    """The questions that are not among those tested, whether or not both name the document."""
    keys = _keys([*questions, *tested])
    known = set(keys[len(questions) :])
    return [each for each, key in zip(questions, keys, strict=False) if key not in known]


def _keys(questions: Sequence[Question]) -> list[tuple[str, str]]:
    """What tells each apart: document and words; words alone, where one asks the same without
    naming a document."""
    asked = [" ".join(question.question.lower().split()) for question in questions]
    anywhere = {
        words for words, question in zip(asked, questions, strict=True) if not question.document
    }
    named = zip(asked, questions, strict=True)
    return [
        ("" if words in anywhere else question.document or "", words) for words, question in named
    ]
