"""What one way of reading comes to in the gate: means over its answers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from longreach.datasets.questions import Question
from longreach.evals.scores.intervals import interval
from longreach.evals.scores.overlap import exact_match, rouge_l, token_f1
from longreach.reading.answer import Answer
from longreach.reading.policy import Policy
from longreach.reading.scorecard import ScorecardRow


class Answered(NamedTuple):
    """An answer and its question's references."""

    answer: Answer
    references: Sequence[str]


def pair_answers(
    questions: Sequence[Question], answers: Sequence[Answer | None]
) -> Iterator[Answered]:
    """Yields the answers that were given, with what would be right."""
    for question, answer in zip(questions, answers, strict=True):
        # None: the context did not fit, which is no wrong answer.
        if answer:
            yield Answered(answer, question.answers)


def score_answers(questions: Sequence[Question], answers: Sequence[Answer | None]) -> list[float]:
    """Returns the F1 of each answer that was given, 0 to 100."""
    scores = []
    for answer, references in pair_answers(questions, answers):
        scores.append(100 * token_f1(answer.text, references))
    return scores


def make_row(
    reading: str,
    policy: Policy | None,
    questions: Sequence[Question],
    answers: Sequence[Answer | None],
    seed: int,
) -> ScorecardRow | None:
    """Returns the row of a way of reading; None where it could read nothing.

    Args:
        reading: What it is called.
        policy: What asks for it; None for a control.
        questions: That were asked.
        answers: In their order; None where a question could not be read.
        seed: Of the bootstrap.
    """
    scores = score_answers(questions, answers)
    # There is no mean of no answers.
    if not scores:
        return None
    f1, low, high = interval(scores, seed=seed)
    exact = 0.0
    rouge = 0.0
    positions = 0
    for answer, references in pair_answers(questions, answers):
        exact += exact_match(answer.text, references)
        rouge += rouge_l(answer.text, references)
        positions += answer.usage.positions
    count = len(scores)
    return ScorecardRow(
        reading,
        policy,
        count,
        f1,
        low,
        high,
        exact_match=100 * exact / count,
        rouge_l=100 * rouge / count,
        positions=positions / count,
    )
