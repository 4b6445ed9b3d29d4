"""How a prediction is scored, by the name that its sample gives. All scores lie between 0 and 1.

Papers: Hsieh et al. 2024, RULER (arXiv 2404.06654): `all` and `part`; see `evals.scores` for the others.
"""

from collections.abc import Callable

from longreach.evals.sample import Sample
from longreach.evals.scores import exact_match, rouge_l, token_f1


def _found(text: str, sample: Sample) -> list[float]:
    return [float(answer.lower() in text.lower()) for answer in sample.answers]


METRICS: dict[str, Callable[[str, Sample], float]] = {
    "all": lambda text, sample: sum(found := _found(text, sample)) / len(found),
    "part": lambda text, sample: max(_found(text, sample)),
    "f1": lambda text, sample: token_f1(text, sample.answers),
    "exact_match": lambda text, sample: exact_match(text, sample.answers),
    "rouge_l": lambda text, sample: rouge_l(text, sample.answers),
}
