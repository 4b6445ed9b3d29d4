"""Texts with questions about them, from JSON lines: what a compressor learns to answer from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from longreach.datasets.jsonlines import Record, holds_text, read_records
from longreach.errors import DataError


class TextQuestion(NamedTuple):
    """A question and every answer that is right, as it is learned."""

    question: str
    answers: tuple[str, ...]


class Text(NamedTuple):
    """A text and what is asked about it; nothing, where it is only to be compressed."""

    text: str
    questions: tuple[TextQuestion, ...] = ()


def read_texts(files: Sequence[str | Path]) -> list[Text]:
    """Reads texts with their questions out of JSON lines.

    A line is `{"text": "...", "questions": [{"question": "...", "answers": ["..."]}]}`;
    `"answer": "..."` stands for one answer. A line without `questions` is a text alone.

    Raises:
        DataError: A file cannot be read, a line is not of this form, or there is no text at all.
    """
    found = []
    for path in files:
        for record in read_records(path):
            found.append(_text(record))
    if not found:
        raise DataError("There is nothing to train on: name a JSON lines file with texts.")
    return found


def _text(record: Record) -> Text:
    try:
        questions = record.values.get("questions", [])
        if not isinstance(questions, list):
            raise ValueError("its questions are no list")
        text = _words(record.values["text"])
        return Text(text, tuple(_question(item) for item in questions))
    except (ValueError, KeyError) as error:
        # The text of a KeyError is the key that is missing, in quotes.
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise record.error(
            f"is not a text with questions ({reason}): correct or remove it"
        ) from error


def _question(item: object) -> TextQuestion:
    if not isinstance(item, dict):
        raise ValueError("a question is no object")
    answers = item["answers"] if "answers" in item else [item["answer"]]
    if not isinstance(answers, list) or not answers:
        raise ValueError("a question has no list of answers")
    return TextQuestion(_words(item["question"]), tuple(_words(answer) for answer in answers))


def _words(value: object) -> str:
    if not holds_text(value):
        raise ValueError(f"{json.dumps(value)[:40]} stands where words are needed")
    return value
