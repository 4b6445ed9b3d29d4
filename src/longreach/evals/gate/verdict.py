"""Which way of reading the gate chooses: the default one, unless another answers better beyond
chance.

All ways answer the same questions, so they are compared question by question: the 95% interval of
the mean difference to the default has to lie above zero, and there have to be enough questions for
it to mean something.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from longreach.evals.scores.intervals import mean_interval
from longreach.reading.scorecard import Row
from longreach.wording import counted

DEFAULT = "default"
"""The row of the policy that is read where nothing was measured."""
FEWEST_QUESTIONS = 30


class Verdict(NamedTuple):
    """The reading that was chosen, and why, in a sentence."""

    chosen: str
    why: str


def verdict(rows: Sequence[Row], scores: Mapping[str, Sequence[float]], seed: int) -> Verdict:
    """Returns the reading with the highest mean F1 of those that beat the default one; else that
    stays.

    Args:
        rows: of the default reading and of those that may take its place; all were asked the same
            questions.
        scores: F1 of each answer, 0 to 100, by reading; in the order of the questions.
        seed: of the bootstrap.
    """
    base = next(row for row in rows if row.reading == DEFAULT)
    if base.questions < FEWEST_QUESTIONS:
        found = counted(base.questions, "question")
        return Verdict(
            DEFAULT, f"The default policy stays: {found} cannot tell, it takes {FEWEST_QUESTIONS}."
        )
    others = sorted(
        (row for row in rows if row is not base), key=lambda row: (-row.f1, row.positions)
    )
    why = "The default policy stays: no other was measured."
    for row in others:
        differences = [
            one - other for one, other in zip(scores[row.reading], scores[DEFAULT], strict=True)
        ]
        gain = mean_interval([differences], seed=seed)
        assert gain.low is not None and gain.high is not None, "there are enough questions"
        span = (
            f"{gain.mean:+.1f} F1 ({gain.low:+.1f} to {gain.high:+.1f}) on"
            f" {counted(base.questions, 'question')}"
        )
        if gain.low > 0:
            return Verdict(row.reading, f"'{row.reading}' beats the default policy by {span}.")
        if row is others[0]:
            why = (
                f"The default policy stays: '{row.reading}', the best other, differs by no more"
                f" than chance, {span}."
            )
    return Verdict(DEFAULT, why)
