"""Which way of reading the gate chooses: the default one, unless another answers better.

All ways answer the same questions, so they are compared question by question: the 95% interval of
the mean difference to the default has to lie above zero, and there have to be enough questions for
it to mean something.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from longreach.evals.scores.intervals import mean_interval
from longreach.reading.scorecard import ScorecardRow
from longreach.wording import counted

DEFAULT = "default"
"""The row of the policy that is read where nothing was measured."""
FEWEST_QUESTIONS = 30


class Verdict(NamedTuple):
    """The reading that was chosen, and why, in a sentence."""

    chosen: str
    why: str


def verdict(
    rows: Sequence[ScorecardRow], scores: Mapping[str, Sequence[float]], seed: int
) -> Verdict:
    """Returns the reading of the highest mean F1 that beats the default one; else the default.

    Args:
        rows: Of the default reading and of those that may take its place; all were asked the same
            questions.
        scores: F1 of each answer, 0 to 100, by reading; in the order of the questions.
        seed: Of the bootstrap.
    """
    base = next(row for row in rows if row.reading == DEFAULT)
    found = counted(base.questions, "question")
    # Of few questions an interval is wide, and chance would decide.
    if base.questions < FEWEST_QUESTIONS:
        return Verdict(
            DEFAULT, f"The default policy stays: {found} cannot tell, it takes {FEWEST_QUESTIONS}."
        )
    others = [row for row in rows if row is not base]
    # Of two that answer equally well, the one that reads less comes first.
    others.sort(key=lambda row: (-row.f1, row.positions))
    why = "The default policy stays: no other was measured."
    for row in others:
        differences = []
        for one, other in zip(scores[row.reading], scores[DEFAULT], strict=True):
            differences.append(one - other)
        gain = mean_interval([differences], seed=seed)
        assert gain.low is not None and gain.high is not None, "there are enough questions"
        span = f"{gain.mean:+.1f} F1 ({gain.low:+.1f} to {gain.high:+.1f}) on {found}"
        if gain.low > 0:
            return Verdict(row.reading, f"'{row.reading}' beats the default policy by {span}.")
        # The sentence is about the best of those that do not beat it.
        if row is others[0]:
            why = (
                f"The default policy stays: '{row.reading}', the best other, differs by no more"
                f" than chance, {span}."
            )
    return Verdict(DEFAULT, why)
