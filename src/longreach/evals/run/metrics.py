"""How a prediction is scored, by the name that its sample gives. All scores lie between 0 and 1.

Papers: Hsieh et al. 2024, RULER (arXiv 2404.06654): `all` and `part`; Kuratov et al. 2024, BABILong
(2406.10149): `babilong`; Pang et al. 2021, QuALITY (2112.08608): `choice`; Bai et al. 2023,
LongBench (2308.14508): `classification`, `retrieval`, `count`, `code_similarity` and what looks at
the first line only; see `evals.scores` for the others.
"""

import re
from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from typing import Any

from longreach.errors import UsageError
from longreach.evals.run.choices import chosen, options_of
from longreach.evals.run.sample import Sample
from longreach.evals.run.scores import SCORING, exact_match, rouge_l, token_f1
from longreach.evals.suites.babi import GIVERS, OBJECTS, PLACES
from longreach.plain import folded, plain

CLASSES = "classes"
"""The tag of a sample that holds the names its answer is to be one of, a line each."""
_COMMENT = ("`", "#", "//")
_LABELS = dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), PLACES) | {"qa5": (*GIVERS, *OBJECTS)}
_BREAKS = re.compile(r"\.|<context>|<example>")


def _found(text: str, sample: Sample) -> list[float]:
    said = folded(text)
    return [float(folded(answer) in said) for answer in sample.answers]


def _sole_label(text: str, sample: Sample) -> float:
    """1 where the first sentence names the target and no other label of the task, those of the
    question aside."""
    said = _BREAKS.split(folded(text), maxsplit=1)[0]
    question = sample.question.lower()
    labels = {label.lower() for label in _LABELS[sample.task]}
    return float(
        [label for label in labels if label in said and label not in question]
        == [sample.answers[0].lower()]
    )


def _choice(text: str, sample: Sample) -> float:
    """Whether the choice that an answer names is the right one."""
    letter, right = sample.answers
    return float(chosen(text, options_of(sample.question) or {letter: right}) == letter)


def _first_line(text: str) -> str:
    return text.lstrip("\n").split("\n")[0]


def _classification(text: str, sample: Sample) -> float:
    """A share of 1 where several names are said; parts of the right name do not count as others."""
    line = plain(_first_line(text))
    said = [name for name in str(sample.tags[CLASSES]).split("\n") if plain(name) in line]
    return max(
        (
            1 / len([name for name in said if name == answer or name not in answer])
            if answer in said
            else 0.0
        )
        for answer in sample.answers
    )


def _numbers(text: str, wanted: str) -> float:
    """The share of the numbers said that are the wanted one."""
    said = re.findall(r"\d+", plain(text))
    return said.count(wanted) / len(said) if said else 0.0


def _code_similarity(text: str, sample: Sample) -> float:
    """How alike the first line that is code and the answer are, to two digits as upstream."""
    lines = text.lstrip("\n").split("\n")
    code = next((line for line in lines if not any(sign in line for sign in _COMMENT)), "")
    return max(round(SequenceMatcher(None, code, answer).ratio(), 2) for answer in sample.answers)


METRICS: dict[str, Callable[[str, Sample], float]] = {
    "all": lambda text, sample: sum(found := _found(text, sample)) / len(found),
    "part": lambda text, sample: max(_found(text, sample)),
    "f1": lambda text, sample: token_f1(text, sample.answers),
    "exact_match": lambda text, sample: exact_match(text, sample.answers),
    "babilong": _sole_label,
    "rouge_l": lambda text, sample: rouge_l(text, sample.answers),
    "choice": _choice,
    "first_line_f1": lambda text, sample: token_f1(_first_line(text), sample.answers),
    "first_line_rouge_l": lambda text, sample: rouge_l(_first_line(text), sample.answers),
    "classification": _classification,
    "retrieval": lambda text, sample: max(
        _numbers(text, re.findall(r"\d+", answer)[0]) for answer in sample.answers
    ),
    "count": lambda text, sample: max(_numbers(text, answer.strip()) for answer in sample.answers),
    "code_similarity": _code_similarity,
}


def scored(line: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a line of predictions.jsonl with the score of today's rules: one of an earlier
    release is scored anew.

    A line whose metric this release does not have stays as it is.

    Args:
        line: as `runner.line_of` writes it; it says under "scoring" by which rules it was scored.

    Raises:
        UsageError: the line does not hold what its metric needs.
    """
    if line.get("scoring") == SCORING or line.get("metric") not in METRICS:
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
        score = METRICS[sample.metric](line["prediction"], sample)
    except (LookupError, ValueError) as error:  # such as a choice without its letter
        raise UsageError(
            f"The answer to '{sample.id}' cannot be scored as '{sample.metric}': run the evaluation"
            " again."
        ) from error
    return {**line, "score": score, "scoring": SCORING}
