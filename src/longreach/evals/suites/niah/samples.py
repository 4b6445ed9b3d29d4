"""Needle in a haystack: one sentence at every depth of prose of every length, for a heat map.

`niah` hides another number for another city in every sample, so that no model can know the answer;
`niah_original` is the sentence and the question of Kamradt 2023
(github.com/gkamradt/LLMTest_NeedleInAHaystack), which models have read since. Its judge was a
model; here the score is the share of the needle's facts found in the answer.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from longreach.errors import UsageError
from longreach.evals.run.sample import Sample
from longreach.evals.suites.draw import PromptParts, check, fit
from longreach.evals.suites.haystack import Prose, read_prose
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ORIGINAL = "niah_original"
TASKS = ("niah", ORIGINAL)
_NEW_TOKENS = 32
_BEFORE = "Read the following text. A question about it follows.\n\n"
_CITIES = (
    "Accra", "Ankara", "Athens", "Bangkok", "Beirut", "Berlin", "Bogota", "Cairo", "Chicago", "Dakar", "Dublin",
    "Geneva", "Hanoi", "Havana", "Lima", "Lisbon", "Madrid", "Nairobi", "Oslo", "Quito", "Riga", "Seoul", "Tunis",
)  # fmt: skip


class Needle(NamedTuple):
    """A sentence to hide, and what is asked about it.

    Attributes:
        text: The sentence.
        question: That it answers.
        prefix: The beginning of the answer.
        answers: Facts that the answer has to hold.
    """

    text: str
    question: str
    prefix: str
    answers: tuple[str, ...]


def generate(
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    *,
    depths: int = 11,
    samples: int = 1,
    seed: int = 42,
    tasks: Sequence[str] = TASKS[:1],
    haystack: str | Path | None = None,
) -> Iterator[Sample]:
    """Makes the samples of a grid of lengths and depths.

    Each says its depth, in percent, among its tags.

    Args:
        tokenizer: Of the model that is asked; its tokens are counted.
        lengths: Tokens of a prompt and its answer together, at most and nearly.
        depths: How many, evenly from the beginning (0) to the end (100) of the text; the needle
            stands before the sentence that reaches there.
        samples: Of each cell and task.
        seed: Of the needles.
        tasks: Names out of `TASKS`.
        haystack: The prose, from its beginning; see `haystack.read_prose`.

    Raises:
        UsageError: A task is unknown, there are fewer than two depths, or the haystack is shorter
            than a length.
        ContextError: A length is too small.
    """
    check(tasks, TASKS, "NIAH", samples)
    # One depth alone has no step from the beginning to the end.
    if depths < 2 or not lengths:
        raise UsageError("A grid needs one length and two depths at least: name more of them.")
    # Read once: shorter lengths take its beginning.
    prose = read_prose(haystack, tokenizer, max(lengths))

    # A generator of its own, so that the checks above run at the call and not at the first
    # sample.
    def walk() -> Iterator[Sample]:
        for task in tasks:
            for length in lengths:
                for step in range(depths):
                    depth = round(100 * step / (depths - 1))
                    # Each sample has a stream of chance of its own, whatever else is drawn.
                    for index in range(samples):
                        name = f"{task}-{length}-{depth}-{index}"
                        needle = draw_needle(task, f"{seed} {name}")
                        yield _make_sample(tokenizer, prose, name, task, length, depth, needle)

    return walk()


def draw_needle(task: str, stream: str) -> Needle:
    """Returns a needle of a task, drawn from a stream of chance."""
    if task == ORIGINAL:
        best = "The best thing to do in San Francisco is"
        return Needle(
            text=f"{best} eat a sandwich and sit in Dolores Park on a sunny day.",
            question="What is the best thing to do in San Francisco?",
            prefix=best,
            answers=("sandwich", "Dolores Park", "sunny day"),
        )
    chance = random.Random(stream)
    subject = f"special magic {chance.choice(_CITIES)} number"
    # Seven digits, which no model guesses.
    number = str(chance.randint(1_000_000, 9_999_999))
    return Needle(
        text=f"The {subject} is: {number}.",
        question=f"What is the {subject}?",
        prefix=f"The {subject} is:",
        answers=(number,),
    )


def _make_sample(
    tokenizer: PreTrainedTokenizerBase,
    prose: Prose,
    name: str,
    task: str,
    length: int,
    depth: int,
    needle: Needle,
) -> Sample:
    what = f"{task} at {counted(length, 'token')}"
    parts = _fill(tokenizer, prose, what, length - _NEW_TOKENS, depth, needle)
    return Sample(
        id=name,
        suite="niah",
        task=task,
        before=parts.before,
        context=parts.context,
        after=parts.after,
        question=needle.question,
        answers=needle.answers,
        metric="all",
        max_new_tokens=_NEW_TOKENS,
        length=length,
        document=name,
        tags={"depth": depth},
    )


def _fill(
    tokenizer: PreTrainedTokenizerBase,
    prose: Prose,
    what: str,
    budget: int,
    depth: int,
    needle: Needle,
) -> PromptParts:
    """Returns the longest prompt within a budget of tokens."""
    most = len(prose.words) - 1
    # The prompt begins the answer, so that a model without chat training completes it.
    after = f"\n\nQuestion: {needle.question}\nAnswer: {needle.prefix}"

    def assemble(count: int) -> PromptParts:
        # The needle stands before the last sentence that begins within the depth.
        gaps = [0, *prose.gaps(1, count)]
        tokens = list(map(prose.tokens.__getitem__, gaps))
        reached = bisect_right(tokens, prose.tokens[count] * depth / 100) - 1
        context = prose.with_facts(0, count, [(gaps[reached], needle.text)])
        return PromptParts(_BEFORE, context, after)

    count = fit(
        tokenizer, assemble, prose.tokens.__getitem__, budget, least=1, most=most, what=what
    )
    # Where all words fit, the length is not reached.
    if count == most:
        raise prose.too_short(what)
    return assemble(count)
