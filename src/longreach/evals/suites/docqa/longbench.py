"""LongBench's tasks in English and code, over its own records: prompts, lengths, metrics.

Paper: Bai et al. 2023, LongBench (arXiv 2308.14508). The prompts are the benchmark's, to the
letter, with its slips. Its Chinese tasks need a segmenter of Chinese words to be scored, and are
not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from longreach.evals.suites.records import QuestionRecord, hub_records, json_lines


class LongBenchTask(NamedTuple):
    """One task.

    Attributes:
        prompt: With {context} and, mostly, {input}.
        max_new_tokens: Of an answer.
        metric: In `evals.metrics.METRICS`.
        chat: Whether a chat template goes around it; upstream omits it where examples or code are
            to be continued.
    """

    prompt: str
    max_new_tokens: int
    metric: str = "f1"
    chat: bool = True


_PASSAGES = (
    "Answer the question based on the given passages. Only give me the answer and do not output any"
    " other words.\n\nThe following are given passages.\n{context}\n\nAnswer the question based on"
    " the given passages. Only give me the answer and do not output any other words.\n\nQuestion:"
    " {input}\nAnswer:"
)
# The missing space is the benchmark's own: correcting it would change the figures.
_BRIEF = (
    "Answer the question asconcisely as you can, using a single phrase if possible. Do not provide"
    " any explanation."
)
_PAPER = (
    "as concisely as you can, using a single phrase or sentence if possible. If the question cannot"
    ' be answered based on the information in the article, write "unanswerable". If the question is'
    ' a yes/no question, answer "yes", "no", or "unanswerable". Do not provide any explanation.'
)
_REPORT = (
    "You are given a report by a government agency. Write a one-page summary of the"
    " report.\n\nReport:\n{context}\n\nNow, write a one-page summary of the report.\n\nSummary:"
)
_MEETING = (
    "You are given a meeting transcript and a query containing a question or instruction. Answer"
    " the query in one or more sentences.\n\nTranscript:\n{context}\n\nNow, answer the query based"
    " on the above meeting transcript in one or more sentences.\n\nQuery: {input}\nAnswer:"
)
_NEWS = (
    "You are given several news passages. Write a one-page summary of all news."
    " \n\nNews:\n{context}\n\nNow, write a one-page summary of all the news.\n\nSummary:"
)
_COUNT = (
    "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Please"
    " carefully read these paragraphs and determine how many unique paragraphs there are after"
    " removing duplicates. In other words, how many non-repeating paragraphs are there in"
    " total?\n\n{context}\n\nPlease enter the final count of unique paragraphs after removing"
    " duplicates. The output format should only contain the number, such as 1, 2, 3, and so"
    " on.\n\nThe final answer is: "
)
_RETRIEVAL = (
    "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which"
    " paragraph the abstract is from.\n\n{context}\n\nThe following is an"
    " abstract.\n\n{input}\n\nPlease enter the number of the paragraph that the abstract is from."
    ' The answer format must be like "Paragraph 1", "Paragraph 2", etc.\n\nThe answer is: '
)

TASKS: dict[str, LongBenchTask] = {
    "narrativeqa": LongBenchTask(
        "You are given a story, which can be either a novel or a movie script, and a question. "
        + _BRIEF
        + "\n\nStory: {context}\n\nNow, answer the question based on the story asconcisely as you"
        " can, using a single phrase if possible. Do not provide any explanation.\n\nQuestion:"
        " {input}\n\nAnswer:",
        128,
    ),
    "qasper": LongBenchTask(
        f"You are given a scientific article and a question. Answer the question {_PAPER}\n\n"
        f"Article: {{context}}\n\n Answer the question based on the above article {_PAPER}\n\n"
        "Question: {input}\n\nAnswer:",
        128,
    ),
    "multifieldqa_en": LongBenchTask(
        "Read the following text and answer briefly.\n\n{context}\n\nNow, answer the following"
        " question based on the above text, only give me the answer and do not output any other"
        " words.\n\nQuestion: {input}\nAnswer:",
        64,
    ),
    "hotpotqa": LongBenchTask(_PASSAGES, 32),
    "2wikimqa": LongBenchTask(_PASSAGES, 32),
    "musique": LongBenchTask(_PASSAGES, 32),
    "gov_report": LongBenchTask(_REPORT, 512, "rouge_l"),
    "qmsum": LongBenchTask(_MEETING, 512, "rouge_l"),
    "multi_news": LongBenchTask(_NEWS, 512, "rouge_l"),
    "trec": LongBenchTask(
        "Please determine the type of the question below. Here are some examples of"
        " questions.\n\n{context}\n{input}",
        64,
        "classification",
        chat=False,
    ),
    "triviaqa": LongBenchTask(
        "Answer the question based on the given passage. Only give me the answer and do not output"
        " any other words. The following are some examples.\n\n{context}\n\n{input}",
        32,
        "first_line_f1",
        chat=False,
    ),
    "samsum": LongBenchTask(
        "Summarize the dialogue into a few short sentences. The following are some"
        " examples.\n\n{context}\n\n{input}",
        128,
        "first_line_rouge_l",
        chat=False,
    ),
    "passage_count": LongBenchTask(_COUNT, 32, "count"),
    "passage_retrieval_en": LongBenchTask(_RETRIEVAL, 32, "retrieval"),
    "lcc": LongBenchTask(
        "Please complete the code given below. \n{context}Next line of code:\n",
        64,
        "code_similarity",
        chat=False,
    ),
    "repobench-p": LongBenchTask(
        "Please complete the code given below. \n{context}{input}Next line of code:\n",
        64,
        "code_similarity",
        chat=False,
    ),
}


def read_longbench(given: str, task: str) -> Iterator[QuestionRecord]:
    """Yields the records of one task.

    Args:
        given: A folder with TASK.jsonl, or the Hub's id.
        task: One of `TASKS`.
    """
    # The Hub's files, unpacked.
    folder = Path(given)
    if folder.is_dir():
        rows = json_lines(folder / f"{task}.jsonl")
    else:
        rows = hub_records(given, task, "test")
    for number, row in enumerate(rows, 1):
        # Copies of the data exist without ids.
        name = str(row.values.get("_id") or f"{task}-{number}")
        question = row.values.get("input")
        classes = row.values.get("all_classes") or ()
        yield QuestionRecord(
            document=name,
            text=row.text("context", strip=False),
            # Some tasks ask nothing beside their context.
            question=question if isinstance(question, str) else "",
            answers=tuple(row.texts("answers", strip=False)),
            where=row.where,
            classes=tuple(map(str, classes)),
        )
