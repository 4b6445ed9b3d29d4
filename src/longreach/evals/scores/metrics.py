"""How a prediction is scored, by the name that its sample gives. All scores lie between 0 and 1.

Papers: Hsieh et al. 2024, RULER (arXiv 2404.06654): `all` and `part`; Kuratov et al. 2024, BABILong
(2406.10149): `babilong`; Pang et al. 2021, QuALITY (2112.08608): `choice`; Bai et al. 2023,
LongBench (2308.14508): `classification`, `retrieval`, `count`, `code_similarity` and what looks at
the first line only; see `scores.overlap` for the others.
"""

import re
from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from typing import Any

from longreach.errors import UsageError
from longreach.evals.run.rows import JsonObject
from longreach.evals.run.sample import CLASSES, Sample
from longreach.evals.scores.choices import chosen, options_of
from longreach.evals.scores.overlap import SCORING, exact_match, rouge_l, token_f1
from longreach.evals.suites.babilong.babi import GIVERS, OBJECTS, PLACES
from longreach.plain import folded, plain

Metric = Callable[[str, Sample], float]
Metrics = Mapping[str, Metric]
# What marks a line of an answer as a comment or a fence and not as code.
_COMMENT = ("`", "#", "//")
_LABELS = dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), PLACES) | {"qa5": (*GIVERS, *OBJECTS)}
_BREAKS = re.compile(r"\.|<context>|<example>")
_NUMBER = re.compile(r"\d+")


def _count_found(text: str, sample: Sample) -> int:
    """Returns how many of the right answers stand in a text."""
    said = folded(text)
    return sum(folded(answer) in said for answer in sample.answers)


def _score_all(text: str, sample: Sample) -> float:
    return _count_found(text, sample) / len(sample.answers)


def _score_part(text: str, sample: Sample) -> float:
    return float(_count_found(text, sample) > 0)


def _score_f1(text: str, sample: Sample) -> float:
    return token_f1(text, sample.answers)


def _score_exact_match(text: str, sample: Sample) -> float:
    return exact_match(text, sample.answers)


def _score_rouge(text: str, sample: Sample) -> float:
    return rouge_l(text, sample.answers)


def _score_babilong(text: str, sample: Sample) -> float:
    """Returns 1 where the first sentence names the right label and no other one of the task.

    Labels of the question do not count.
    """
    # A model may continue with an example of its own.
    said = _BREAKS.split(folded(text), maxsplit=1)[0]
    question = sample.question.lower()
    named = set()
    for label in _LABELS[sample.task]:
        low = label.lower()
        if low in said and low not in question:
            named.add(low)
    return float(named == {sample.answers[0].lower()})


def _score_choice(text: str, sample: Sample) -> float:
    """Returns 1 where the choice that an answer names is the right one."""
    # Samples of this metric have two answers: the letter and the words of the right choice.
    letter, right = sample.answers
    options = options_of(sample.question) or {letter: right}
    return float(chosen(text, options) == letter)


def _take_first_line(text: str) -> str:
    return text.lstrip("\n").split("\n")[0]


def _score_first_line_f1(text: str, sample: Sample) -> float:
    return token_f1(_take_first_line(text), sample.answers)


def _score_first_line_rouge(text: str, sample: Sample) -> float:
    return rouge_l(_take_first_line(text), sample.answers)


def _score_classification(text: str, sample: Sample) -> float:
    """Returns a share of 1 where several names are said; parts of the right one do not count."""
    line = plain(_take_first_line(text))
    names = str(sample.tags[CLASSES]).split("\n")
    said = [name for name in names if plain(name) in line]
    best = 0.0
    for answer in sample.answers:
        if answer in said:
            # A name that is part of the right one cannot but be said with it.
            counted = sum(name == answer or name not in answer for name in said)
            best = max(best, 1 / counted)
    return best


def _share_of_numbers(text: str, wanted: str) -> float:
    """Returns the share of the numbers said that are the wanted one."""
    said = _NUMBER.findall(plain(text))
    if not said:
        return 0.0
    return said.count(wanted) / len(said)


def _score_retrieval(text: str, sample: Sample) -> float:
    best = 0.0
    for answer in sample.answers:
        # Answers say "Paragraph 7".
        wanted = _NUMBER.findall(answer)[0]
        best = max(best, _share_of_numbers(text, wanted))
    return best


def _score_count(text: str, sample: Sample) -> float:
    best = 0.0
    for answer in sample.answers:
        best = max(best, _share_of_numbers(text, answer.strip()))
    return best


def _score_code_similarity(text: str, sample: Sample) -> float:
    """Returns how alike the answer and the first line that is code are, to two digits."""
    code = ""
    for line in text.lstrip("\n").split("\n"):
        if not any(sign in line for sign in _COMMENT):
            code = line
            break
    ratios = [SequenceMatcher(None, code, answer).ratio() for answer in sample.answers]
    # Rounded as upstream.
    return round(max(ratios), 2)


METRICS: Metrics = {
    "all": _score_all,
    "part": _score_part,
    "f1": _score_f1,
    "exact_match": _score_exact_match,
    "babilong": _score_babilong,
    "rouge_l": _score_rouge,
    "choice": _score_choice,
    "first_line_f1": _score_first_line_f1,
    "first_line_rouge_l": _score_first_line_rouge,
    "classification": _score_classification,
    "retrieval": _score_retrieval,
    "count": _score_count,
    "code_similarity": _score_code_similarity,
}


def rescore(line: Mapping[str, Any], metrics: Metrics = METRICS) -> JsonObject:
    """Returns a line of predictions.jsonl with the score of this release's rules.

    A line whose metric is not known stays as it is.

    Args:
        line: As `runner.make_line` writes it; "scoring" says by which rules it was scored.
        metrics: Those of the suite.

    Raises:
        UsageError: The line does not hold what its metric needs.
    """
    # A metric that is unknown here may be one of a newer release, or of a suite that is not
    # installed.
    if line.get("scoring") == SCORING or line.get("metric") not in metrics:
        return dict(line)
    sample = Sample(
        id=line["id"],
        suite=line["suite"],
        task=line["task"],
        before="",
        context="",
        after="",
        question=line["question"],
        answers=tuple(line["answers"]),
        metric=line["metric"],
        max_new_tokens=0,
        tags=line["tags"],
    )
    try:
        score = metrics[sample.metric](line["prediction"], sample)
    except (LookupError, ValueError) as error:  # such as a choice without its letter
        raise UsageError(
            f"The answer to '{sample.id}' cannot be scored as '{sample.metric}': run the evaluation"
            " again."
        ) from error
    return {**line, "score": score, "scoring": SCORING}
