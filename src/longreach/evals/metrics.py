"""How a prediction is scored, by the name that its sample gives. All scores lie between 0 and 1.

Papers: Hsieh et al. 2024, RULER (arXiv 2404.06654): `all` and `part`; Kuratov et al. 2024, BABILong (2406.10149):
`babilong`; Pang et al. 2021, QuALITY (2112.08608): `choice`; Bai et al. 2023, LongBench (2308.14508): `classification`,
`retrieval`, `count`, `code_similarity` and what looks at the first line only; see `evals.scores` for the others.
"""

import re
from collections.abc import Callable
from difflib import SequenceMatcher

from longreach.evals.babi import GIVERS, OBJECTS, PLACES
from longreach.evals.sample import Sample
from longreach.evals.scores import exact_match, normalised, rouge_l, token_f1

CLASSES = "classes"
"""The tag of a sample that holds the names its answer is to be one of, a line each."""
_CHOICE = re.compile(r"^\W*([A-D])(?:[.):,]|\W*$)|\b(?i:answer(?: is)?):?\s*\W?([A-D])\b", re.MULTILINE)
_COMMENT = ("`", "#", "//")
_LABELS = dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), PLACES) | {"qa5": (*GIVERS, *OBJECTS)}
_BREAKS = re.compile(r"\.|<context>|<example>")


def _found(text: str, sample: Sample) -> list[float]:
    return [float(answer.lower() in text.lower()) for answer in sample.answers]


def _sole_label(text: str, sample: Sample) -> float:
    """1 where the first sentence names the target and no other label of the task, those of the question aside."""
    said, question = _BREAKS.split(text.lower(), maxsplit=1)[0], sample.question.lower()
    labels = {label.lower() for label in _LABELS[sample.task]}
    return float([label for label in labels if label in said and label not in question] == [sample.answers[0].lower()])


def _choice(text: str, sample: Sample) -> float:
    """Whether the first letter that is given as a choice is right; where there is none, whether the words are."""
    letter, words = sample.answers
    if found := _CHOICE.search(text):
        return float(letter == (found[1] or found[2]))
    return float(normalised(text) == normalised(words))


def _first_line(text: str) -> str:
    return text.lstrip("\n").split("\n")[0]


def _classification(text: str, sample: Sample) -> float:
    """A share of 1 where several names are said; parts of the right name do not count as others."""
    said = [name for name in str(sample.tags[CLASSES]).split("\n") if name in _first_line(text)]
    return max(
        (1 / len([name for name in said if name == answer or name not in answer]) if answer in said else 0.0)
        for answer in sample.answers
    )


def _numbers(text: str, wanted: str) -> float:
    """The share of the numbers said that are the wanted one."""
    said = re.findall(r"\d+", text)
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
    "retrieval": lambda text, sample: max(_numbers(text, re.findall(r"\d+", answer)[0]) for answer in sample.answers),
    "count": lambda text, sample: max(_numbers(text, answer.strip()) for answer in sample.answers),
    "code_similarity": _code_similarity,
}
