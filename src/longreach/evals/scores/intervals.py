"""How sure a mean of scores is: the percentile bootstrap."""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

FEWEST = 10
"""Answers that an interval needs: of fewer, a bootstrap does not say how sure their mean is."""


class Interval(NamedTuple):
    """A mean and where it lies with 95% confidence; no ends where there are too few answers."""

    mean: float
    low: float | None
    high: float | None


def interval(scores: Sequence[float], *, seed: int = 0, draws: int = 1000) -> Interval:
    """Returns the mean of scores and its 95% interval by the percentile bootstrap.

    As many scores are drawn with replacement, many times. Fewer than `FEWEST` have no interval.

    Args:
        scores: At least one.
        seed: Of the draws; the same seed gives the same interval.
        draws: How many means.
    """
    return mean_interval([scores], seed=seed, draws=draws)


def mean_interval(
    groups: Sequence[Sequence[float]], *, seed: int = 0, draws: int = 1000
) -> Interval:
    """Returns the mean of the groups' means and its interval, each group drawn by itself.

    There is no interval where the groups have fewer than `FEWEST` scores together, or one of them
    has a single score: how much others would differ from that one is not known.

    Args:
        groups: At least one, of at least one score each.
        seed: As in `interval`.
        draws: As in `interval`.
    """
    mean = _mean_of_means(groups)
    sizes = list(map(len, groups))
    if sum(sizes) < FEWEST or min(sizes) < 2:
        return Interval(mean, None, None)
    # Seeded: a report that is made again says the same.
    chance = random.Random(seed)
    means = []
    for _ in range(draws):
        means.append(_mean_of_means(chance.choices(scores, k=len(scores)) for scores in groups))
    means.sort()
    last = draws - 1
    return Interval(mean, means[round(0.025 * last)], means[round(0.975 * last)])


def _mean_of_means(groups: Iterable[Sequence[float]]) -> float:
    means = [sum(scores) / len(scores) for scores in groups]
    return sum(means) / len(means)
