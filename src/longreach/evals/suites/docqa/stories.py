"""Questions about stories as they are published: FairytaleQA, NarrativeQA, SQuALITY, QuALITY.

Papers: Xu et al. 2022 (arXiv 2203.13947); Kočiský et al. 2017 (1712.07040); Wang et al. 2022
(2205.11465); Pang et al. 2021 (2112.08608). Each function takes a path, or the id of a Hub data set
where it is published as one, and a split.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from longreach.errors import UsageError
from longreach.evals.suites.records import (
    QuestionRecord,
    csv_rows,
    hub_records,
    json_lines,
    read_text,
)

_LETTERS = "ABCD"
# Two annotators, of up to three answers each: the second may have left all of theirs empty.
_FAIRYTALE_ANSWERS = ("answer1", "answer2", "answer3", "answer4", "answer5", "answer6")


def fairytaleqa(given: str, split: str) -> Iterator[QuestionRecord]:
    """Yields the questions of a folder with the stories of each split and their questions.

    They are `section-stories/SPLIT/NAME-story.csv` and `questions/SPLIT/NAME-questions.csv`.
    """
    folder = Path(given)
    files = sorted((folder / "questions" / split).glob("*-questions.csv"))
    if not files:
        there = sorted(path.name for path in (folder / "questions").glob("*"))
        raise UsageError(
            f"'{folder}' holds no FairytaleQA of the split '{split}' (there:"
            f" {', '.join(there) or 'none'}): give the folder in which section-stories/ and"
            " questions/ lie, and one of its splits with --split."
        )
    for path in files:
        name = path.name.removesuffix("-questions.csv")
        sections = csv_rows(folder / "section-stories" / split / f"{name}-story.csv")
        paragraphs = []
        for section in sections:
            paragraphs.append(section.text("text"))
        text = "\n\n".join(paragraphs)
        for row in csv_rows(path):
            answers = []
            for key in _FAIRYTALE_ANSWERS:
                answer = str(row.values.get(key) or "").strip()
                if answer and answer not in answers:
                    answers.append(answer)
            yield QuestionRecord(name, text, row.text("question"), tuple(answers), row.where)


def narrativeqa(given: str, split: str) -> Iterator[QuestionRecord]:
    """Yields the questions of the repository's folder, of JSON lines of Hub rows, or of the Hub.

    The folder holds `qaps.csv` and the stories in `tmp/`.
    """
    folder = Path(given)
    if folder.is_dir():
        yield from _read_repository(folder, split)
        return
    rows = json_lines(folder) if folder.exists() else hub_records(given, None, split)
    for row in rows:
        yield QuestionRecord(
            document=row.text("document", "id"),
            text=row.text("document", "text"),
            question=row.text("question", "text"),
            answers=tuple(answer.text("text") for answer in row.records("answers")),
            where=row.where,
        )


def _read_repository(folder: Path, split: str) -> Iterator[QuestionRecord]:
    # The repository calls the validation part so.
    known = {"val": "valid", "validation": "valid"}
    wanted = known.get(split, split)
    stories: dict[str, str] = {}
    for row in csv_rows(folder / "qaps.csv"):
        if row.text("set") != wanted:
            continue
        name = row.text("document_id")
        # A story is asked about many times, and read once.
        if name not in stories:
            stories[name] = read_text(folder / "tmp" / f"{name}.content").strip()
        answers = (row.text("answer1"), row.text("answer2"))
        yield QuestionRecord(name, stories[name], row.text("question"), answers, row.where)


def squality(given: str, split: str) -> Iterator[QuestionRecord]:
    """Yields the questions of stories in JSON lines, each with several long answers."""
    for story in json_lines(Path(given)):
        name = story.text("metadata", "passage_id")
        text = story.text("document")
        for question in story.records("questions"):
            answers = [answer.text("response_text") for answer in question.records("responses")]
            yield QuestionRecord(
                name, text, question.text("question_text"), tuple(answers), question.where
            )


def quality(given: str, split: str) -> Iterator[QuestionRecord]:
    """Yields the questions of articles in JSON lines, each with four options.

    A story comes once for each writer of questions.
    """
    for story in json_lines(Path(given)):
        name = story.text("article_id")
        text = story.text("article")
        for question in story.records("questions"):
            options = question.texts("options")
            right = question.number("gold_label")
            # Letters stand for places, so that a missing option would move the right one.
            if len(options) != len(_LETTERS) or not 1 <= right <= len(_LETTERS):
                raise UsageError(
                    f"{question.where} lacks its four options or the number of the right one:"
                    " correct or remove it."
                )
            choices = map("{}. {}".format, _LETTERS, options)
            asked = f"{question.text('question')}\n\nChoices:\n" + "\n".join(choices)
            answers = (_LETTERS[right - 1], options[right - 1])
            yield QuestionRecord(name, text, asked, answers, question.where)
