"""RULER's eight needle tasks: keys and values hidden in noise, in prose, or among other needles.

Paper: Hsieh et al. 2024, RULER (arXiv 2404.06654); templates, kinds of needles and depths of
NVIDIA/RULER (Apache-2.0).
"""

import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from longreach.evals.suites.draw import Drawn, Parts, fit, piece_tokens
from longreach.evals.suites.haystack import Prose
from longreach.evals.suites.ruler.words import compound, distinct, number, random_uuid

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
_DEPTHS = [round(100 * step / 39) for step in range(40)]
_MAKERS = {"word": compound, "number": number, "uuid": random_uuid}


@dataclass(frozen=True)
class Needles:
    """One needle task.

    Attributes:
        haystack: repeated sentences, prose, or needles of other keys.
        key, value: what the two are.
        keys, values, queries: how many keys are hidden, values of each, and how many keys are asked
            for.
    """

    haystack: Literal["noise", "essay", "needle"]
    key: Literal["word", "uuid"] = "word"
    value: Literal["number", "uuid"] = "number"
    keys: int = 1
    values: int = 1
    queries: int = 1


def needles(
    task: Needles, tokenizer: Any, budget: int, what: str, prose: Prose | None
) -> Callable[[str], Drawn]:
    """Makes the function that draws a prompt of at most `budget` tokens from a stream of chance."""
    hide = {"noise": _noise, "essay": _essay, "needle": _others}[task.haystack](
        task, tokenizer, budget, what, prose
    )

    def draw(stream: str) -> Drawn:
        chance = random.Random(stream)
        keys = distinct(lambda: _MAKERS[task.key](chance), task.keys)
        values = distinct(lambda: _MAKERS[task.value](chance), task.keys * task.values)
        of = {key: values[i * task.values : (i + 1) * task.values] for i, key in enumerate(keys)}
        hidden = [
            _NEEDLE.format(kind=task.value, key=key, value=value)
            for key in keys
            for value in of[key]
        ]
        chance.shuffle(hidden)
        asked = chance.sample(keys, task.queries)
        query = ", ".join(asked[:-1]) + ", and " + asked[-1] if len(asked) > 1 else asked[0]
        before, question, prefix = _texts(task.value, query, single=task.queries * task.values == 1)
        parts = hide(hidden, stream, before, f"\n{question}{prefix}")
        return Drawn(parts, question, tuple(value for key in asked for value in of[key]))

    return draw


def _texts(kind: str, query: str, *, single: bool) -> tuple[str, str, str]:
    """What is said before the haystack, the question, and the beginning of the answer."""
    some, them, are, are_all = (
        ("A", kind, "is", "is") if single else ("Some", f"{kind}s", "are", "are all")
    )
    asked = f"the special magic {them} for {query} mentioned in the provided text"
    return (
        (
            f"{some} special magic {them} {are} hidden within the following text. Make sure to"
            f" memorize it. I will quiz you about the {them} afterwards.\n"
        ),
        f"What {are_all} {asked}?",
        f" The special magic {them} for {query} mentioned in the provided text {are}",
    )


_Hide = Callable[[list[str], str, str, str], Parts]


def _noise(task: Needles, tokenizer: Any, budget: int, what: str, prose: Prose | None) -> _Hide:
    unit = piece_tokens(tokenizer, [f"{NOISE}\n"])[0]

    def hide(hidden: list[str], stream: str, before: str, after: str) -> Parts:
        def assemble(count: int) -> Parts:
            return Parts(before, _among([NOISE] * count, hidden, stream), after)

        most = budget // unit + 1
        return assemble(
            fit(tokenizer, assemble, unit.__mul__, budget, least=len(hidden), most=most, what=what)
        )

    return hide


def _others(task: Needles, tokenizer: Any, budget: int, what: str, prose: Prose | None) -> _Hide:
    def line(chance: random.Random) -> str:
        key, value = _MAKERS[task.key](chance), _MAKERS[task.value](chance)
        return _NEEDLE.format(kind=task.value, key=key, value=value)

    shortest = min(piece_tokens(tokenizer, [line(random.Random(seed)) for seed in range(100)]))

    def hide(hidden: list[str], stream: str, before: str, after: str) -> Parts:
        chance = random.Random(f"{stream} haystack")
        lines = distinct(lambda: line(chance), max(len(hidden), budget // shortest + 1))
        lines = [line for line in lines if line not in hidden]
        tokens = list(
            accumulate(piece_tokens(tokenizer, [f"{line}\n" for line in lines]), initial=0)
        )

        def assemble(count: int) -> Parts:
            return Parts(before, _among(lines[:count], hidden, stream), after)

        count = fit(
            tokenizer,
            assemble,
            tokens.__getitem__,
            budget,
            least=len(hidden),
            most=len(lines),
            what=what,
        )
        return assemble(count)

    return hide


def _among(lines: list[str], hidden: list[str], stream: str) -> str:
    """Lines with each needle before another one of them."""
    places = random.Random(f"{stream} places").sample(range(len(lines)), len(hidden))
    lines = list(lines)
    for place, needle in zip(sorted(places, reverse=True), hidden, strict=True):
        lines.insert(place, needle)
    return "\n".join(lines)


def _essay(task: Needles, tokenizer: Any, budget: int, what: str, prose: Prose | None) -> _Hide:
    assert prose is not None
    most = len(prose.words) - 1

    def hide(hidden: list[str], stream: str, before: str, after: str) -> Parts:
        depths = sorted(random.Random(f"{stream} places").sample(_DEPTHS, len(hidden)))

        def assemble(count: int) -> Parts:
            sentences = bisect_left(prose.sentences, count)
            gaps = [*prose.sentences[:sentences], count]
            places = [gaps[int(sentences * depth / 100)] for depth in depths]
            return Parts(
                before, prose.with_facts(0, count, list(zip(places, hidden, strict=True))), after
            )

        count = fit(
            tokenizer, assemble, prose.tokens.__getitem__, budget, least=1, most=most, what=what
        )
        if count == most:
            raise prose.too_short(what)
        return assemble(count)

    return hide
