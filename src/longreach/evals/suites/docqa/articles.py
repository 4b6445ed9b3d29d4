"""Questions about papers, meetings and encyclopedia pages as published: Qasper, QMSum, HotpotQA.

Papers: Dasigi et al. 2021 (arXiv 2105.03011); Zhong et al. 2021 (2104.05938); Yang et al. 2018
(1809.09600). Each function takes a path, or the id of a Hub data set where it is published as one,
and a split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from longreach.datasets.jsonlines import Record
from longreach.errors import UsageError
from longreach.evals.suites.records import (
    QuestionRecord,
    hub_records,
    json_file,
    json_items,
    json_lines,
)
from longreach.jsontext import JsonValue


class WikiPage(NamedTuple):
    """A page of an encyclopedia: its title and its sentences."""

    title: str
    sentences: list[str]


def qasper(given: str, split: str) -> Iterator[QuestionRecord]:
    """Yields the questions of papers by their id in JSON; every annotator's answer counts."""
    path = Path(given)
    papers = _read_papers(path) if path.exists() else hub_records(given, None, split)
    for paper in papers:
        text = _join_paper(paper)
        for asked in paper.records("qas"):
            found = [_read_answer(answer) for answer in asked.records("answers")]
            # Annotators may agree.
            answers = tuple(dict.fromkeys(found))
            yield QuestionRecord(
                paper.text("id"), text, asked.text("question"), answers, asked.where
            )


def _join_paper(paper: Record) -> str:
    """Returns the text of a paper: title, abstract, and sections with their headings."""
    parts = [paper.text("title"), str(paper.values.get("abstract") or "")]
    for section in paper.records("full_text"):
        parts.append(str(section.values.get("section_name") or ""))
        parts += map(str, section.values.get("paragraphs") or ())
    stripped = map(str.strip, parts)
    return "\n\n".join(filter(None, stripped))


def _read_papers(path: Path) -> Iterator[Record]:
    papers = json_file(path)
    if not isinstance(papers, dict) or not _all_are(dict, papers.values()):
        raise UsageError(
            f"'{path}' is not an object of papers by their id: give the file as it was published."
        )
    for name, paper in papers.items():
        yield Record(f"Paper '{name}' of '{path}'", {"id": name, **paper})


def _all_are(kind: type, values: Iterable[object]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _read_answer(record: Record) -> str:
    """Returns an answer as Qasper's own evaluator says it."""
    answer = record.values.get("answer")
    if not isinstance(answer, dict):
        answer = {}
    if answer.get("unanswerable"):
        return "Unanswerable"
    # Kinds of answers in the order in which the evaluator looks at them.
    if answer.get("extractive_spans"):
        return ", ".join(record.texts("answer", "extractive_spans"))
    if answer.get("free_form_answer"):
        return record.text("answer", "free_form_answer")
    if isinstance(answer.get("yes_no"), bool):
        return "Yes" if answer["yes_no"] else "No"
    raise UsageError(f"{record.where} has no answer of any kind: correct or remove it.")


def qmsum(given: str, split: str) -> Iterator[QuestionRecord]:
    """Yields the general and the specific queries of meetings in JSON lines."""
    for number, meeting in enumerate(json_lines(Path(given)), 1):
        turns = []
        for turn in meeting.records("meeting_transcripts"):
            turns.append(f"{turn.text('speaker')}: {turn.values.get('content') or ''}")
        text = "\n".join(turns)
        name = str(meeting.values.get("meeting_id") or f"meeting-{number}")
        for kind in ("general_query_list", "specific_query_list"):
            for asked in meeting.records(kind):
                yield QuestionRecord(
                    name, text, asked.text("query"), (asked.text("answer"),), asked.where
                )


def hotpotqa(given: str, split: str) -> Iterator[QuestionRecord]:
    """Yields the questions of a JSON list or of the Hub, each with ten pages."""
    path = Path(given)
    items = json_items(path) if path.exists() else hub_records(given, "distractor", split)
    for item in items:
        pages = []
        for page in _read_pages(item):
            pages.append(f"{page.title}\n{' '.join(map(str.strip, page.sentences))}")
        name = str(item.values.get("_id") or item.values.get("id") or item.where)
        answers = (item.text("answer"),)
        yield QuestionRecord(name, "\n\n".join(pages), item.text("question"), answers, item.where)


def _read_pages(item: Record) -> list[WikiPage]:
    """Returns the pages of a question, whichever of the three published forms it has."""
    context = item.values.get("context")
    if isinstance(context, dict):
        context = _pair_columns(context)
    elif context is None and "para_a" in item.values:
        # Of a sample that QuALITY's authors published.
        context = [(item.values.get(f"title_{x}"), item.values.get(f"para_{x}")) for x in "ab"]
        context += map(tuple, item.values.get("distractors", ()))
        # The two pages that matter are not to come first.
        context.sort(key=str)
    pages = []
    for page in context or ():
        if isinstance(page, list | tuple) and len(page) == 2:
            pages.append(tuple(page))
    found = []
    for title, sentences in pages:
        if isinstance(title, str) and isinstance(sentences, list):
            found.append(WikiPage(title, list(map(str, sentences))))
    if not found or len(found) < len(pages):
        raise UsageError(
            f"{item.where} has no list of titles with sentences under 'context': correct or"
            " remove it."
        )
    return found


def _pair_columns(context: Mapping[str, list[JsonValue]]) -> list[tuple[JsonValue, JsonValue]]:
    """Returns the pages of a row of the Hub, which keeps titles apart from sentences."""
    titles = context.get("title") or []
    sentences = context.get("sentences") or []
    # Nobody could say which belong together.
    if len(titles) != len(sentences):
        return []
    return list(zip(titles, sentences, strict=True))
