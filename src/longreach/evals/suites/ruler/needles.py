"""RULER's eight needle tasks: keys and values hidden in noise, in prose, or among other needles.

Paper: Hsieh et al. 2024, RULER (arXiv 2404.06654); templates, kinds of needles and depths of
NVIDIA/RULER (Apache-2.0).
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, NamedTuple

from longreach.evals.suites.draw import Drawn, PromptParts, fit, piece_tokens
from longreach.evals.suites.haystack import Prose
from longreach.evals.suites.ruler.words import compound, distinct, number, random_uuid

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
_DEPTHS = [round(100 * step / 39) for step in range(40)]
_MAKERS = {"word": compound, "number": number, "uuid": random_uuid}


@dataclass(frozen=True)
class Needles:
    """One needle task.

    Attributes:
        haystack: Repeated sentences, prose, or needles of other keys.
        key: What a key is.
        value: What a value is.
        keys: How many keys are hidden.
        values: Values of each key.
        queries: How many keys are asked for.
    """

    haystack: Literal["noise", "essay", "needle"]
    key: Literal["word", "uuid"] = "word"
    value: Literal["number", "uuid"] = "number"
    keys: int = 1
    values: int = 1
    queries: int = 1


class TaskWords(NamedTuple):
    """What is said before the haystack, the question, and the beginning of the answer."""

    before: str
    question: str
    prefix: str


Hide = Callable[[list[str], str, str, str], PromptParts]
"""Hides needles by a stream of chance, between what is said before and after the haystack."""


def needles(
    task: Needles,
    tokenizer: PreTrainedTokenizerBase,
    budget: int,
    what: str,
    prose: Prose | None,
) -> Callable[[str], Drawn]:
    """Returns the function that draws a prompt from a stream of chance.

    Args:
        task: One of the eight.
        tokenizer: The model's.
        budget: Tokens of a prompt at most.
        what: The task and its length, for what is said.
        prose: The haystack of tasks that want one.
    """
    if task.haystack == "noise":
        hide = _hide_in_noise(tokenizer, budget, what)
    elif task.haystack == "needle":
        hide = _hide_among_others(task, tokenizer, budget, what)
    else:
        assert prose is not None, "the task wants prose"
        hide = _hide_in_prose(prose, tokenizer, budget, what)

    def draw(stream: str) -> Drawn:
        chance = random.Random(stream)
        keys = distinct(lambda: _MAKERS[task.key](chance), task.keys)
        # Values differ as well, so that an answer tells which key it is about.
        values = distinct(lambda: _MAKERS[task.value](chance), task.keys * task.values)
        of = {}
        hidden = []
        for index, key in enumerate(keys):
            of[key] = values[index * task.values : (index + 1) * task.values]
            for value in of[key]:
                hidden.append(_NEEDLE.format(kind=task.value, key=key, value=value))
        # Needles of one key are not to stand together.
        chance.shuffle(hidden)
        chosen = chance.sample(keys, task.queries)
        asked = _ask(task, chosen)
        parts = hide(hidden, stream, asked.before, f"\n{asked.question}{asked.prefix}")
        answers = list[str]()
        for key in chosen:
            answers += of[key]
        return Drawn(parts, asked.question, tuple(answers))

    return draw


def _ask(task: Needles, keys: list[str]) -> TaskWords:
    """Returns what is said around a haystack: of one value in the singular, else in the plural."""
    query = keys[-1]
    if len(keys) > 1:
        query = f"{', '.join(keys[:-1])}, and {keys[-1]}"
    some = "Some"
    them = f"{task.value}s"
    are = "are"
    are_all = "are all"
    if task.queries * task.values == 1:
        some = "A"
        them = task.value
        are = "is"
        are_all = "is"
    return TaskWords(
        before=(
            f"{some} special magic {them} {are} hidden within the following text. Make sure to"
            f" memorize it. I will quiz you about the {them} afterwards.\n"
        ),
        question=(
            f"What {are_all} the special magic {them} for {query} mentioned in the provided text?"
        ),
        prefix=f" The special magic {them} for {query} mentioned in the provided text {are}",
    )


def _hide_in_noise(tokenizer: PreTrainedTokenizerBase, budget: int, what: str) -> Hide:
    # The same sentences again and again: their tokens are counted once.
    unit = piece_tokens(tokenizer, [f"{NOISE}\n"])[0]

    def hide(hidden: list[str], stream: str, before: str, after: str) -> PromptParts:
        def assemble(count: int) -> PromptParts:
            return PromptParts(before, _mix([NOISE] * count, hidden, stream), after)

        most = budget // unit + 1
        count = fit(
            tokenizer, assemble, unit.__mul__, budget, least=len(hidden), most=most, what=what
        )
        return assemble(count)

    return hide


def _hide_among_others(
    task: Needles, tokenizer: PreTrainedTokenizerBase, budget: int, what: str
) -> Hide:
    def make_line(chance: random.Random) -> str:
        key = _MAKERS[task.key](chance)
        value = _MAKERS[task.value](chance)
        return _NEEDLE.format(kind=task.value, key=key, value=value)

    # A hundred lines show about how short they can be.
    examples = [make_line(random.Random(seed)) for seed in range(100)]
    shortest = min(piece_tokens(tokenizer, examples))

    def hide(hidden: list[str], stream: str, before: str, after: str) -> PromptParts:
        chance = random.Random(f"{stream} haystack")
        # As many as could fit if all were as short as the shortest.
        made = distinct(lambda: make_line(chance), max(len(hidden), budget // shortest + 1))
        lines = [line for line in made if line not in hidden]
        tokens = piece_tokens(tokenizer, [f"{line}\n" for line in lines])
        taken = list(accumulate(tokens, initial=0))

        def assemble(count: int) -> PromptParts:
            return PromptParts(before, _mix(lines[:count], hidden, stream), after)

        count = fit(
            tokenizer,
            assemble,
            taken.__getitem__,
            budget,
            least=len(hidden),
            most=len(lines),
            what=what,
        )
        return assemble(count)

    return hide


def _mix(lines: list[str], hidden: list[str], stream: str) -> str:
    """Returns lines with each needle before another one of them."""
    places = random.Random(f"{stream} places").sample(range(len(lines)), len(hidden))
    mixed = list(lines)
    # From the last place on, so that those before it stay where they are.
    for place, needle in zip(sorted(places, reverse=True), hidden, strict=True):
        mixed.insert(place, needle)
    return "\n".join(mixed)


def _hide_in_prose(
    prose: Prose, tokenizer: PreTrainedTokenizerBase, budget: int, what: str
) -> Hide:
    most = len(prose.words) - 1

    def hide(hidden: list[str], stream: str, before: str, after: str) -> PromptParts:
        # Upstream spreads needles over forty depths.
        depths = sorted(random.Random(f"{stream} places").sample(_DEPTHS, len(hidden)))

        def assemble(count: int) -> PromptParts:
            sentences = bisect_left(prose.sentences, count)
            # Before a sentence, or at the very end.
            gaps = [*prose.sentences[:sentences], count]
            facts = []
            for depth, needle in zip(depths, hidden, strict=True):
                facts.append((gaps[int(sentences * depth / 100)], needle))
            return PromptParts(before, prose.with_facts(0, count, facts), after)

        count = fit(
            tokenizer, assemble, prose.tokens.__getitem__, budget, least=1, most=most, what=what
        )
        # Where all words fit, the length is not reached.
        if count == most:
            raise prose.too_short(what)
        return assemble(count)

    return hide
