"""Questions about documents as samples: a user's own, or those of a published data set."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from longreach.corpus.documents import Document, Skipped, read_all
from longreach.datasets.questions import read_questions
from longreach.errors import DocumentError, UsageError
from longreach.evals.run.sample import CLASSES, Sample
from longreach.evals.suites.docqa.presets import PLAIN, PRESETS, Preset
from longreach.evals.suites.records import QuestionRecord

OWN = "documents"
"""The task of a user's own questions."""


def preset_samples(
    task: str,
    given: str,
    *,
    split: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> list[Sample]:
    """Returns the questions of a published data set.

    Args:
        task: A name in `PRESETS`.
        given: The path of the data, in its published format, or a Hub id where that is its format.
        split: Of the data, where they have splits; None for the validation part, or the only one.
        samples: A number of questions, drawn by the seed, in their order; None for all.
        seed: Of that draw.
        max_new_tokens: Of an answer, instead of the preset's.

    Raises:
        UsageError: There is no such preset, or the data are not as published; file and line are
            named.
        DocumentError: There is no such data set.
        MissingDependency: It can only be a Hub data set, and the library `datasets` is not
            installed.
    """
    if task not in PRESETS:
        raise UsageError(f"There is no task '{task}' of docqa: use one of {', '.join(PRESETS)}.")
    preset = PRESETS[task]
    # An answer that is to be short costs less; scores then compare with nothing published.
    if max_new_tokens:
        preset = replace(preset, max_new_tokens=max_new_tokens)
    items = preset.read(given, split or preset.split)
    return _draw(_make_samples(task, preset, items, given), samples, f"{seed} {task}")


def own_samples(
    documents: Sequence[Document],
    questions: str | Path,
    *,
    about: str = "",
    samples: int | None = None,
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> list[Sample]:
    """Returns a user's own questions; each names its document, unless there is only one.

    Args:
        documents: Names and texts.
        questions: JSON lines, as `datasets.questions.read_questions` reads them.
        about: What the documents are, for what is said, such as a corpus.
        samples: As in `preset_samples`, and so are the others.
        seed: Of the draw.
        max_new_tokens: Of an answer.

    Raises:
        UsageError: The file is damaged, a line is no question (it is named), or a question names no
            document.
    """
    items = list(_read_own(documents, questions, about))
    preset = Preset(lambda given, split: iter(()), PLAIN)
    if max_new_tokens:
        preset = replace(preset, max_new_tokens=max_new_tokens)
    return _draw(_make_samples(OWN, preset, items, str(questions)), samples, f"{seed} {OWN}")


def _read_own(
    documents: Sequence[Document], questions: str | Path, about: str
) -> Iterator[QuestionRecord]:
    texts = {document.name: document.text for document in documents}
    names = list(texts)
    # Of one document nobody names it.
    only = names[0] if len(names) == 1 else None
    for number, question in enumerate(read_questions(questions, names, about), 1):
        name = question.document or only
        if name is None:
            raise UsageError(
                f"Question {number} of '{questions}' names no document, and there are {len(texts)}:"
                ' add "document".'
            )
        where = f"Question {number}"
        yield QuestionRecord(name, texts[name], question.question, question.answers, where)


def read_documents(paths: Sequence[str | Path]) -> list[Document]:
    """Returns the documents of files and folders, named by their paths below what holds them all.

    Raises:
        DocumentError: One of them cannot be read.
    """
    found = list[Document]()
    folders = list[str]()
    for item in read_all([Path(path) for path in paths]):
        if isinstance(item, Skipped):
            raise DocumentError(item.reason)
        found.append(item)
        folders.append(str(Path(item.name).parent))
    if not found:
        return []
    # The folder they lie in is one of this machine, and part of no name.
    top = os.path.commonpath(folders)
    named = list[Document]()
    for document in found:
        named.append(replace(document, name=Path(document.name).relative_to(top).as_posix()))
    return named


def _make_samples(
    task: str, preset: Preset, items: Iterable[QuestionRecord], given: str
) -> list[Sample]:
    """Returns every item as a sample, in order."""
    names: dict[tuple[str, str], str] = {}
    found = list[Sample]()
    for number, item in enumerate(items):
        # A score needs something to compare with.
        if not item.answers:
            raise UsageError(f"{item.where} has no answer: correct or remove it.")
        name = item.document
        # A story may come in more than one edition under one name: each is a document of its own.
        if name in names.values():
            name = f"{name} ({number})"
        name = names.setdefault((item.document, item.text), name)
        found.append(_make_sample(f"{task}/{number}", task, preset, item, name))
    if not found:
        raise UsageError(f"'{given}' holds no questions: give the data as they were published.")
    return found


def _make_sample(
    identifier: str, task: str, preset: Preset, item: QuestionRecord, name: str
) -> Sample:
    # Not `format`, because prompts and questions may hold braces of their own.
    after = preset.after.replace("{question}", item.question)
    tags = {}
    if item.classes:
        tags[CLASSES] = "\n".join(item.classes)
    return Sample(
        id=identifier,
        suite="docqa",
        task=task,
        before=preset.before,
        context=item.text,
        after=after,
        # Retrieval needs words, even where a task asks nothing beside its context.
        question=item.question.strip() or after.strip(),
        answers=item.answers,
        metric=preset.metric,
        max_new_tokens=preset.max_new_tokens,
        # Two data sets may give their documents the same names.
        document=name if task == OWN else f"{task}/{name}",
        chat=preset.chat,
        tags=tags,
    )


def _draw(samples: list[Sample], count: int | None, stream: str) -> list[Sample]:
    """Returns a number of samples drawn by chance, in their order; all where there are no more."""
    if count is None or count >= len(samples):
        return samples
    # In their order: questions about one document stay together.
    chosen = random.Random(stream).sample(range(len(samples)), count)
    return [samples[index] for index in sorted(chosen)]
