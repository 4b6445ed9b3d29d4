"""How near an answer comes to its references: token F1, exact match, ROUGE-L, and how sure a mean
of them is.

Papers: Rajpurkar et al. 2016, SQuAD (arXiv 1606.05250): F1, exact match; Lin 2004, ROUGE. What a
word is, and which characters are the same: see `longreach.plain`.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from longreach.plain import words

SCORING = 2
"""The number of the rules here and in `evals.metrics`: it rises whenever an answer may score
otherwise."""
FEWEST = 10
"""Answers that an interval needs: of fewer, a bootstrap says nothing about how sure their mean
is."""


def token_f1(answer: str, references: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of words, 0 to 1; the best over the references."""
    return _best(_f1, answer, references)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 where the answer is one of the references, word by word, else 0."""
    return _best(lambda one, other: float(one == other), answer, references)


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """The F-measure over the longest common subsequence of words, 0 to 1; the best over the
    references."""
    return _best(_rouge, answer, references)


def _best(
    score: Callable[[list[str], list[str]], float], answer: str, references: Sequence[str]
) -> float:
    return max(score(words(answer), words(reference)) for reference in references)


def _f1(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:  # "the" against "a": nothing is left of either
        return float(answer == reference)
    return _harmonic((Counter(answer) & Counter(reference)).total(), answer, reference)


def _rouge(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    row = [0] * (len(reference) + 1)
    for word in answer:
        before = 0  # the entry above and to the left
        for place, other in enumerate(reference, 1):
            here = row[place]
            row[place] = before + 1 if word == other else max(here, row[place - 1])
            before = here
    return _harmonic(row[-1], answer, reference)


def _harmonic(common: int, answer: list[str], reference: list[str]) -> float:
    return 2 * common / (len(answer) + len(reference))


class Interval(NamedTuple):
    """A mean and where it lies with 95% confidence; no ends where there are too few answers to say
    so."""

    mean: float
    low: float | None
    high: float | None


def interval(scores: Sequence[float], *, seed: int = 0, draws: int = 1000) -> Interval:
    """Returns the mean of scores and its 95% interval by the percentile bootstrap.

    As many scores are drawn with replacement, many times. Fewer than `FEWEST` have no interval.

    Args:
        scores: at least one.
        seed: of the draws; the same seed gives the same interval.
        draws: how many means.
    """
    return mean_interval([scores], seed=seed, draws=draws)


def mean_interval(
    groups: Sequence[Sequence[float]], *, seed: int = 0, draws: int = 1000
) -> Interval:
    """Returns the mean of the groups' means, however many scores each has, and its interval, each
    drawn by itself.

    There is no interval where the groups have fewer than `FEWEST` scores together, or one of them
    has a single score: how much others would differ from that one is not known.

    Args:
        groups: at least one, of at least one score each.
        seed, draws: as in `interval`.
    """

    def mean(groups: Iterable[Sequence[float]]) -> float:
        means = [sum(scores) / len(scores) for scores in groups]
        return sum(means) / len(means)

    if sum(map(len, groups)) < FEWEST or min(map(len, groups)) < 2:
        return Interval(mean(groups), None, None)
    chance = random.Random(seed)
    means = sorted(
        mean(chance.choices(scores, k=len(scores)) for scores in groups) for _ in range(draws)
    )
    return Interval(
        mean(groups), means[round(0.025 * (draws - 1))], means[round(0.975 * (draws - 1))]
    )
