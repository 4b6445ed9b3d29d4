"""Questions about a corpus with their answers: read from JSON lines, held out for testing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from longreach.corpus.documents.base import show_path
from longreach.corpus.naming import find_fitting
from longreach.datasets.held_out import check_held_out, count_held_out
from longreach.datasets.jsonlines import Record, holds_text, read_records
from longreach.errors import DataError, UsageError

_MOST_HELD_OUT = 200  # more questions take longer to ask, and tell two ways apart hardly better


@dataclass(frozen=True)
class Question:
    """A question about a corpus.

    Attributes:
        document: The document it is about; None leaves finding it to the retriever.
        question: The question.
        answers: What is right, the best first; at least one.
        passage: Number of the passage of the document that answers it, where that is known.
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
    """Reads questions with their answers out of JSON lines.

    A line is `{"question": "...", "answer": "..."}`, or with `"answers": ["...", ...]`, and may
    name a `"document"`.

    Args:
        path: The file.
        documents: Names of the corpus' documents; a question names one of them, or the end of its
            path with or without the suffix, as long as only one fits.
        corpus: Its name, for what is said; empty where documents are in none.

    Raises:
        DataError: The file cannot be read or is empty, or a line is not such a question; the line
            is named.
    """
    found = []
    for record in read_records(path):
        found.append(_question(record, documents, corpus))
    if not found:
        raise DataError(
            f"'{show_path(path)}' holds no questions: give lines such as"
            ' {"question": "...", "answer": "..."}.'
        )
    return found


def _question(record: Record, documents: Sequence[str], corpus: str) -> Question:
    values = record.values
    answers = values.get("answers", [values.get("answer")])
    if isinstance(answers, str):
        answers = [answers]
    if not isinstance(answers, list) or not answers:
        # Counted as one answer that is missing, so that the check below refuses the line.
        answers = [None]
    texts = [text.strip() for text in (values.get("question"), *answers) if holds_text(text)]
    if len(texts) != 1 + len(answers):
        raise record.error(
            'lacks a question or an answer: give {"question": "...", "answer": "..."}'
        )
    named = values.get("document")
    if named is not None and not isinstance(named, str):
        raise record.error("names a document that is no text: give its name")
    document = _document(named, record, documents, corpus) if named else None
    return Question(document, texts[0], tuple(texts[1:]))


def _document(named: str, record: Record, documents: Sequence[str], corpus: str) -> str:
    fits = find_fitting(named, documents)
    if len(fits) == 1:
        return fits[0]
    about = f"is about '{named}'"
    if fits:
        listed = ", ".join(repr(document) for document in fits[:3])
        raise record.error(f"{about}, which may be {listed}: write more of its path")
    if not corpus:
        raise record.error(f"{about}, and no document of that name is given: check the name")
    raise record.error(
        f"{about}, and corpus '{corpus}' has no such document: `longreach corpus show {corpus}`"
        " lists them"
    )


def hold_out(questions: Sequence[Question], held_out: float, seed: int) -> Split:
    """Keeps some of the questions for testing, drawn by the seed: at least 1, at most 200.

    The same question asked twice of a document, or once without naming one, is never on both sides.

    Args:
        questions: All of them.
        held_out: A number of questions, or a share of them between 0 and 1.
        seed: Of the draw.

    Raises:
        UsageError: So many cannot be held out, or there is only one question.
    """
    check_held_out(held_out)
    keys = _keys(questions)
    # Sorted, so that the split does not depend on how Python orders a set.
    kinds = sorted({*keys})
    if len(kinds) < 2:
        raise UsageError(
            "One question cannot both be learned and tested: give more, or others with"
            " --evaluation."
        )
    # At least one question stays on either side.
    count = min(_MOST_HELD_OUT, len(kinds) - 1, count_held_out(held_out, len(kinds)))
    tested = set(random.Random(seed).sample(kinds, count))
    split = Split([], [])
    for question, key in zip(questions, keys, strict=True):
        side = split.held_out if key in tested else split.learned
        side.append(question)
    return split


def without(questions: Sequence[Question], tested: Sequence[Question]) -> list[Question]:
    """Returns the questions that are not tested, whether or not both name the document."""
    keys = _keys([*questions, *tested])
    known = set(keys[len(questions) :])
    return [each for each, key in zip(questions, keys, strict=False) if key not in known]


def _keys(questions: Sequence[Question]) -> list[tuple[str, str]]:
    """Returns what tells each question apart: its document and its words.

    Words alone, where one of them asks the same without naming a document.
    """
    asked = [" ".join(question.question.lower().split()) for question in questions]
    anywhere = set[str]()
    for words, question in zip(asked, questions, strict=True):
        if not question.document:
            anywhere.add(words)
    keys = []
    for words, question in zip(asked, questions, strict=True):
        document = "" if words in anywhere else question.document
        keys.append((document or "", words))
    return keys
