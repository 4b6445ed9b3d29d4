"""Questions about stories as they are published: FairytaleQA, NarrativeQA, SQuALITY, QuALITY.

Papers: Xu et al. 2022 (arXiv 2203.13947); Kočiský et al. 2017 (1712.07040); Wang et al. 2022
(2205.11465); Pang et al. 2021 (2112.08608). Each function takes a path, or the id of a Hub data set
where it is published as one, and a split.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from longreach.errors import UsageError
from longreach.evals.suites.records import Item, csv_rows, hub_records, json_lines, read_text

_LETTERS = "ABCD"


def fairytaleqa(given: str, split: str) -> Iterator[Item]:
    """The folder with `section-stories/SPLIT/NAME-story.csv` and
    `questions/SPLIT/NAME-questions.csv`."""
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
        story = list(csv_rows(folder / "section-stories" / split / f"{name}-story.csv"))
        text = "\n\n".join(section.text("text") for section in story)
        for row in csv_rows(path):
            answers = [str(row.values.get(f"answer{n}") or "").strip() for n in range(1, 7)]
            # Two annotators, of up to three answers each: the second may have left all of theirs
            # empty.
            yield Item(
                name,
                text,
                row.text("question"),
                tuple(dict.fromkeys(filter(None, answers))),
                row.where,
            )


def narrativeqa(given: str, split: str) -> Iterator[Item]:
    """The repository's folder with `qaps.csv` and the stories in `tmp/`, JSON lines of Hub rows, or
    the Hub's id."""
    folder = Path(given)
    if not folder.is_dir():
        for row in json_lines(folder) if folder.exists() else hub_records(given, None, split):
            answers = [answer.text("text") for answer in row.records("answers")]
            document, question = row.text("document", "id"), row.text("question", "text")
            yield Item(document, row.text("document", "text"), question, tuple(answers), row.where)
        return
    known = {"val": "valid", "validation": "valid"}
    stories: dict[str, str] = {}
    for row in csv_rows(folder / "qaps.csv"):
        if row.text("set") != known.get(split, split):
            continue
        name = row.text("document_id")
        if name not in stories:
            stories[name] = read_text(folder / "tmp" / f"{name}.content").strip()
        yield Item(
            name,
            stories[name],
            row.text("question"),
            (row.text("answer1"), row.text("answer2")),
            row.where,
        )


def squality(given: str, split: str) -> Iterator[Item]:
    """JSON lines of stories with questions, each with several long answers."""
    for story in json_lines(Path(given)):
        name, text = story.text("metadata", "passage_id"), story.text("document")
        for question in story.records("questions"):
            answers = [answer.text("response_text") for answer in question.records("responses")]
            yield Item(name, text, question.text("question_text"), tuple(answers), question.where)


def quality(given: str, split: str) -> Iterator[Item]:
    """JSON lines of articles with questions of four options; a story comes once for each writer of
    questions."""
    for story in json_lines(Path(given)):
        name, text = story.text("article_id"), story.text("article")
        for question in story.records("questions"):
            options, right = question.texts("options"), question.number("gold_label")
            if len(options) != len(_LETTERS) or not 1 <= right <= len(_LETTERS):
                raise UsageError(
                    f"{question.where} lacks its four options or the number of the right one:"
                    " mend it."
                )
            choices = "\n".join(
                f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=True)
            )
            asked = f"{question.text('question')}\n\nChoices:\n{choices}"
            yield Item(name, text, asked, (_LETTERS[right - 1], options[right - 1]), question.where)
