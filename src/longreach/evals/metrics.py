"""How a prediction is scored, by the name that its sample gives. All scores lie between 0 and 1.

Papers: Hsieh et al. 2024, RULER (arXiv 2404.06654): `all` and `part`; Kuratov et al. 2024, BABILong (arXiv 2406.10149):
`babilong`; see `evals.scores` for the others.
"""

import re
from collections.abc import Callable

from longreach.evals.babi import GIVERS, OBJECTS, PLACES
from longreach.evals.sample import Sample
from longreach.evals.scores import exact_match, rouge_l, token_f1


def _found(text: str, sample: Sample) -> list[float]:
    return [float(answer.lower() in text.lower()) for answer in sample.answers]


_LABELS = dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), PLACES) | {"qa5": (*GIVERS, *OBJECTS)}
_BREAKS = re.compile(r"\.|<context>|<example>")


def _sole_label(text: str, sample: Sample) -> float:
    """1 where the first sentence names the target and no other label of the task, those of the question aside."""
    said, question = _BREAKS.split(text.lower(), maxsplit=1)[0], sample.question.lower()
    labels = {label.lower() for label in _LABELS[sample.task]}
    return float([label for label in labels if label in said and label not in question] == [sample.answers[0].lower()])


METRICS: dict[str, Callable[[str, Sample], float]] = {
    "all": lambda text, sample: sum(found := _found(text, sample)) / len(found),
    "part": lambda text, sample: max(_found(text, sample)),
    "f1": lambda text, sample: token_f1(text, sample.answers),
    "exact_match": lambda text, sample: exact_match(text, sample.answers),
    "babilong": _sole_label,
    "rouge_l": lambda text, sample: rouge_l(text, sample.answers),
}
