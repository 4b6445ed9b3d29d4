"""Texts with questions about them, from JSON lines: what a compressor learns to answer from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from longreach.corpus.documents.base import shown
from longreach.corpus.documents.encodings.decode import encodable
from longreach.errors import DocumentError
from longreach.jsontext import parse_json


class Question(NamedTuple):
    """A question and every answer that is right, as it is learned."""

    question: str
    answers: tuple[str, ...]


class Text(NamedTuple):
    """A text and what is asked about it; nothing, where it is only to be compressed."""

    text: str
    questions: tuple[Question, ...] = ()


def read_texts(files: Sequence[str | Path]) -> list[Text]:
    """Reads JSON lines such as
    `{"text": "...", "questions": [{"question": "...", "answers": ["..."]}]}`.

    `"answer": "..."` stands for one answer; a line without `questions` is a text alone.

    Raises:
        DocumentError: a file cannot be read, a line is not of this form, or there is no text at
            all.
    """
    found = []
    for path in map(Path, files):
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise DocumentError(
                f"{shown(path)} cannot be read ({error.strerror}): check the path."
            ) from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    found.append(_text(parse_json(line)))
                except (ValueError, TypeError, KeyError) as error:
                    # ValueError: bytes that are not UTF-8 as well.
                    reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
                    raise DocumentError(
                        f"{shown(path)}, line {number} is not a text with questions ({reason}):"
                        " correct or remove it."
                    ) from error
    if not found:
        raise DocumentError("There is nothing to train on: name a JSON lines file with texts.")
    return found


def _text(row: Any) -> Text:
    if not isinstance(row, dict):
        raise ValueError("an object is needed")
    return Text(_words(row["text"]), tuple(map(_question, row.get("questions", ()))))


def _question(item: Any) -> Question:
    answers = item["answers"] if "answers" in item else [item["answer"]]
    if not isinstance(answers, list) or not answers:
        raise ValueError("a question has no list of answers")
    return Question(_words(item["question"]), tuple(map(_words, answers)))


def _words(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not encodable(value):
        raise ValueError(f"{json.dumps(value)[:40]} stands where words are needed")
    return value
