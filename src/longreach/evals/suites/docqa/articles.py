"""Questions about papers, meetings and encyclopedia pages as they are published: Qasper, QMSum,
HotpotQA.

Papers: Dasigi et al. 2021 (arXiv 2105.03011); Zhong et al. 2021 (2104.05938); Yang et al. 2018
(1809.09600). Each function takes a path, or the id of a Hub data set where it is published as one,
and a split.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from longreach.datasets.jsonlines import Record
from longreach.errors import UsageError
from longreach.evals.suites.records import (
    Item,
    hub_records,
    json_file,
    json_items,
    json_lines,
)


def qasper(given: str, split: str) -> Iterator[Item]:
    """The JSON object of papers by their id, or the Hub's id; every annotator's answer counts."""
    path = Path(given)
    for paper in _papers(path) if path.exists() else hub_records(given, None, split):
        parts = [paper.text("title"), str(paper.values.get("abstract") or "")]
        for section in paper.records("full_text"):
            parts.append(str(section.values.get("section_name") or ""))
            parts += [str(part) for part in section.values.get("paragraphs") or ()]
        text = "\n\n".join(part.strip() for part in parts if part.strip())
        for asked in paper.records("qas"):
            found = [_answer(answer) for answer in asked.records("answers")]
            yield Item(
                paper.text("id"),
                text,
                asked.text("question"),
                tuple(dict.fromkeys(found)),
                asked.where,
            )


def _papers(path: Path) -> Iterator[Record]:
    papers = json_file(path)
    if not isinstance(papers, dict) or not all(
        isinstance(paper, dict) for paper in papers.values()
    ):
        raise UsageError(
            f"'{path}' is not an object of papers by their id: give the file as it was published."
        )
    for name, paper in papers.items():
        yield Record(f"Paper '{name}' of '{path}'", {"id": name, **paper})


def _answer(record: Record) -> str:
    """As Qasper's own evaluator says it."""
    answer = record.values.get("answer")
    answer = answer if isinstance(answer, dict) else {}
    if answer.get("unanswerable"):
        return "Unanswerable"
    if answer.get("extractive_spans"):
        return ", ".join(record.texts("answer", "extractive_spans"))
    if answer.get("free_form_answer"):
        return record.text("answer", "free_form_answer")
    if isinstance(answer.get("yes_no"), bool):
        return "Yes" if answer["yes_no"] else "No"
    raise UsageError(f"{record.where} has no answer of any kind: correct or remove it.")


def qmsum(given: str, split: str) -> Iterator[Item]:
    """JSON lines of meetings with general and specific queries."""
    for number, meeting in enumerate(json_lines(Path(given)), 1):
        turns = meeting.records("meeting_transcripts")
        text = "\n".join(
            f"{turn.text('speaker')}: {turn.values.get('content') or ''}" for turn in turns
        )
        name = str(meeting.values.get("meeting_id") or f"meeting-{number}")
        for kind in ("general_query_list", "specific_query_list"):
            for asked in meeting.records(kind):
                yield Item(name, text, asked.text("query"), (asked.text("answer"),), asked.where)


def hotpotqa(given: str, split: str) -> Iterator[Item]:
    """The JSON list of questions, each with ten paragraphs; or the Hub's id."""
    path = Path(given)
    for item in json_items(path) if path.exists() else hub_records(given, "distractor", split):
        pages = "\n\n".join(
            f"{title}\n{' '.join(part.strip() for part in parts)}" for title, parts in _pages(item)
        )
        name = str(item.values.get("_id") or item.values.get("id") or item.where)
        yield Item(name, pages, item.text("question"), (item.text("answer"),), item.where)


def _pages(item: Record) -> list[tuple[str, list[str]]]:
    context = item.values.get("context")
    if isinstance(context, dict):  # of the Hub
        columns = [context.get(name) or [] for name in ("title", "sentences")]
        context = list(zip(*columns, strict=True)) if len(columns[0]) == len(columns[1]) else None
    elif context is None and "para_a" in item.values:
        # Of a sample that QuALITY's authors published.
        both = [(item.values.get(f"title_{x}"), item.values.get(f"para_{x}")) for x in "ab"]
        context = sorted([*both, *map(tuple, item.values.get("distractors", ()))], key=str)
    pages = [
        tuple(page) for page in context or () if isinstance(page, list | tuple) and len(page) == 2
    ]
    if not pages or not all(
        isinstance(title, str) and isinstance(parts, list) for title, parts in pages
    ):
        raise UsageError(
            f"{item.where} has no list of titles with sentences under 'context': correct or"
            " remove it."
        )
    return [(title, [str(part) for part in parts]) for title, parts in pages]
