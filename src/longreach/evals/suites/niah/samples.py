"""Needle in a haystack: one sentence at every depth of prose of every length, for a heat map.

`niah` hides another number for another city in every sample, so that no model can know the answer;
`niah_original` is the sentence and the question of Kamradt 2023
(github.com/gkamradt/LLMTest_NeedleInAHaystack), which models have read since. Its judge was a
model; here the score is the share of the needle's facts found in the answer.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from longreach.errors import UsageError
from longreach.evals.run.sample import Sample
from longreach.evals.suites.draw import Parts, check, fit
from longreach.evals.suites.haystack import Prose, read_prose
from longreach.wording import counted

TASKS = ("niah", "niah_original")
_NEW_TOKENS = 32
_BEFORE = "Read the following text. A question about it follows.\n\n"
_CITIES = (
    "Accra", "Ankara", "Athens", "Bangkok", "Beirut", "Berlin", "Bogota", "Cairo", "Chicago", "Dakar", "Dublin",
    "Geneva", "Hanoi", "Havana", "Lima", "Lisbon", "Madrid", "Nairobi", "Oslo", "Quito", "Riga", "Seoul", "Tunis",
)  # fmt: skip


def generate(
    tokenizer: Any,
    lengths: Sequence[int],
    *,
    depths: int = 11,
    samples: int = 1,
    seed: int = 42,
    tasks: Sequence[str] = TASKS[:1],
    haystack: str | Path | None = None,
) -> Iterator[Sample]:
    """Makes the samples of a grid of lengths and depths; each says its depth, in percent, among its
    tags.

    Args:
        tokenizer: of the model that is asked; its tokens are counted.
        lengths: tokens of a prompt and its answer together, at most and nearly.
        depths: how many, evenly from the beginning (0) to the end (100) of the text; the needle
            stands before the sentence that reaches there.
        samples: of each cell and task.
        seed: of the needles.
        tasks: names out of `TASKS`.
        haystack: the prose, from its beginning; see `evals.haystack.read_prose`.

    Raises:
        UsageError: a task is unknown, there are fewer than two depths, or the haystack is shorter
            than a length.
        ContextError: a length is too small.
    """
    check(tasks, TASKS, "NIAH", samples)
    if depths < 2 or not lengths:
        raise UsageError("A grid needs one length and two depths at least: name more of them.")
    prose = read_prose(haystack, tokenizer, max(lengths))
    return (
        _sample(tokenizer, prose, task, length, round(100 * step / (depths - 1)), index, seed)
        for task in tasks
        for length in lengths
        for step in range(depths)
        for index in range(samples)
    )


def _sample(
    tokenizer: Any, prose: Prose, task: str, length: int, depth: int, index: int, seed: int
) -> Sample:
    name = f"{task}-{length}-{depth}-{index}"
    needle, question, prefix, answers = _needle(task, f"{seed} {name}")
    drawn = _drawn(
        tokenizer,
        prose,
        f"{task} at {counted(length, 'token')}",
        length - _NEW_TOKENS,
        depth,
        needle,
        question,
        prefix,
    )
    return Sample(
        id=name,
        suite="niah",
        task=task,
        **drawn._asdict(),
        question=question,
        answers=answers,
        metric="all",
        max_new_tokens=_NEW_TOKENS,
        length=length,
        document=name,
        tags={"depth": depth},
    )


def _needle(task: str, stream: str) -> tuple[str, str, str, tuple[str, ...]]:
    """The needle, its question, the beginning of the answer, and the facts that have to be in
    it."""
    if task == "niah_original":
        best = "The best thing to do in San Francisco is"
        needle = f"{best} eat a sandwich and sit in Dolores Park on a sunny day."
        return (
            needle,
            "What is the best thing to do in San Francisco?",
            best,
            ("sandwich", "Dolores Park", "sunny day"),
        )
    chance = random.Random(stream)
    subject, number = (
        f"special magic {chance.choice(_CITIES)} number",
        str(chance.randint(1_000_000, 9_999_999)),
    )
    return (
        f"The {subject} is: {number}.",
        f"What is the {subject}?",
        f"The {subject} is:",
        (number,),
    )


def _drawn(
    tokenizer: Any,
    prose: Prose,
    what: str,
    budget: int,
    depth: int,
    needle: str,
    question: str,
    prefix: str,
) -> Parts:
    most = len(prose.words) - 1

    def assemble(count: int) -> Parts:
        gaps = [0, *prose.gaps(1, count)]
        reached = (
            bisect_right([prose.tokens[gap] for gap in gaps], prose.tokens[count] * depth / 100) - 1
        )
        return Parts(
            _BEFORE,
            prose.with_facts(0, count, [(gaps[reached], needle)]),
            f"\n\nQuestion: {question}\nAnswer: {prefix}",
        )

    count = fit(
        tokenizer, assemble, prose.tokens.__getitem__, budget, least=1, most=most, what=what
    )
    if count == most:
        raise prose.too_short(what)
    return assemble(count)
