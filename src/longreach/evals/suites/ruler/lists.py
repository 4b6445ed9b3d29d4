"""RULER's tasks that take the whole text: variable tracking, common words, frequent words.

Paper: Hsieh et al. 2024, RULER (arXiv 2404.06654); templates and frequencies of NVIDIA/RULER
(Apache-2.0).
"""

import math
import random
import string
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

from longreach.evals.suites.draw import Drawn, Parts, count_tokens, fit, piece_tokens
from longreach.evals.suites.ruler.needles import NOISE
from longreach.evals.suites.ruler.words import code, compound, distinct, words

_HOPS = 4
_EXAMPLE_TOKENS = 500  # of variable tracking's worked example, about
_FREQUENT = 10
_SHORT = 4096  # below it words are repeated less
_ZETA = math.pi**2 / 6  # of 2, the exponent of the coded words' frequencies
_TOP = 3


def variable_tracking(tokenizer: Any, budget: int, what: str) -> Callable[[str], Drawn]:
    """One chain of five variables with one value, among noise, after a worked example."""
    unit = piece_tokens(tokenizer, [f"{NOISE}\n"])[0]

    def told(
        example: str, stream: str, value: str, letters: int
    ) -> tuple[Callable[[int], Parts], list[str]]:
        chance = random.Random(stream)
        names = distinct(lambda: code(chance, string.ascii_uppercase, letters), _HOPS + 1)
        chain = [f"VAR {names[0]} = {value}"]
        chain += [f"VAR {name} = VAR {earlier} " for earlier, name in pairwise(names)]
        before = (
            f"{example}Memorize and track the chain(s) of variable assignment hidden in the"
            " following text.\n\n"
        )
        after = (
            f"\nQuestion: Find all variables that are assigned the value {value} in the text above."
            " Answer: According to the chain(s) of variable assignment in the text above,"
            f" {len(names)} variables are assigned the value {value}, they are: "
        )

        def assemble(count: int) -> Parts:
            lines = [NOISE] * count
            places = sorted(random.Random(f"{stream} places").sample(range(count), len(chain)))
            for earlier, (place, line) in enumerate(zip(places, chain, strict=True)):
                lines.insert(place + earlier, line)
            return Parts(before, "\n".join(lines), after)

        return assemble, names

    def fill(assemble: Callable[[int], Parts], room: int) -> Parts:
        most = room // unit + _HOPS + 2
        return assemble(
            fit(tokenizer, assemble, unit.__mul__, room, least=_HOPS + 1, most=most, what=what)
        )

    def draw(stream: str) -> Drawn:
        chance = random.Random(stream)
        shown, asked = (str(value) for value in chance.sample(range(10_000, 99_999), 2))
        assemble, names = told("", f"{stream} example", shown, 3)
        room = max(_EXAMPLE_TOKENS, count_tokens(tokenizer, "".join(assemble(_HOPS + 1))))
        example = f"{''.join(fill(assemble, room))} {' '.join(names)}\n\n"
        assemble, names = told(example, stream, asked, 5)
        question = f"Find all variables that are assigned the value {asked} in the text above."
        return Drawn(fill(assemble, budget), question, tuple(names))

    return draw


def common_words(tokenizer: Any, budget: int, what: str, length: int) -> Callable[[str], Drawn]:
    """The ten words of a numbered list that come more often than the others, after a worked
    example."""
    often, seldom = (30, 3) if length >= _SHORT else (6, 1)
    example_words, example_often, example_seldom = (40, 10, 3) if length >= _SHORT else (20, 3, 1)
    question = "What are the 10 most common words in the above list?"
    before = (
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize the ones that appear most often.\n"
    )
    after = (
        f"\nQuestion: {question} Answer: The top 10 words that appear most often in the list are:"
    )
    numbers = list(
        accumulate(piece_tokens(tokenizer, [f" {i}." for i in range(1, budget // 2)]), initial=0)
    )

    def listed(chosen: list[str], often: int, seldom: int, stream: str) -> str:
        found = chosen[:_FREQUENT] * often + chosen[_FREQUENT:] * seldom
        random.Random(f"{stream} order").shuffle(found)
        return " ".join(f"{i}. {word}" for i, word in enumerate(found, 1))

    def draw(stream: str) -> Drawn:
        chance = random.Random(stream)
        shown = chance.sample(words(), example_words)
        answer = " ".join(f"{i}. {word}" for i, word in enumerate(shown[:_FREQUENT], 1))
        example = (
            before
            + listed(shown, example_often, example_seldom, f"{stream} example")
            + f"{after} {answer}\n"
        )
        # Number, dot, word: three tokens at least.
        most = max(_FREQUENT + budget // (3 * seldom), _FREQUENT + 1)
        chosen = chance.sample(words(), min(most, len(words())))
        drawn = fill(stream, example, chosen)
        # All words fit: upstream turns to a list of more words, here they are compounds.
        if drawn is None:
            drawn = fill(stream, example, distinct(lambda: compound(chance), most))
        assert drawn, "an item takes three tokens at least"
        return drawn

    def fill(stream: str, example: str, chosen: list[str]) -> Drawn | None:
        each = piece_tokens(tokenizer, [f" {word}" for word in chosen])
        repeated = (tokens * (often if i < _FREQUENT else seldom) for i, tokens in enumerate(each))
        taken = list(accumulate(repeated, initial=0))

        def cost(count: int) -> int:
            items = min(count, _FREQUENT) * often + max(0, count - _FREQUENT) * seldom
            return taken[count] + numbers[min(items, len(numbers) - 1)]

        def assemble(count: int) -> Parts:
            return Parts(example + before, listed(chosen[:count], often, seldom, stream), after)

        count = fit(
            tokenizer, assemble, cost, budget, least=_FREQUENT + 1, most=len(chosen), what=what
        )
        if count == len(chosen):
            return None
        return Drawn(assemble(count), question, tuple(chosen[:_FREQUENT]))

    return draw


def frequent_words(tokenizer: Any, budget: int, what: str) -> Callable[[str], Drawn]:
    """The three coded words that come most often after the dots, their frequencies those of a zeta
    distribution."""
    before = (
        "Read the following coded text and track the frequency of each coded word. "
        "Find the three most frequently appeared coded words. "
    )
    question = (
        "Do not provide any explanation. Please ignore the dots '....'. "
        "What are the three most frequently appeared words in the above coded text?"
    )
    after = (
        f"\nQuestion: {question} Answer: According to the coded text above, "
        "the three most frequently appeared words are:"
    )
    # From 74 words on the third comes more often than the fourth, whatever rounding does.
    least, kinds = 74, max(_TOP + 2, budget // 50)

    def draw(stream: str) -> Drawn:
        chance = random.Random(stream)
        coded = ["...", *distinct(lambda: code(chance), kinds - 1)]
        tokens = piece_tokens(tokenizer, [f" {word}" for word in coded])

        def counts(total: int) -> list[int]:
            return [int(total * rank**-2.0 / _ZETA) for rank in range(1, kinds + 1)]

        def cost(total: int) -> int:
            return sum(count * each for count, each in zip(counts(total), tokens, strict=True))

        def assemble(total: int) -> Parts:
            text = [
                word for word, count in zip(coded, counts(total), strict=True) for _ in range(count)
            ]
            random.Random(f"{stream} order").shuffle(text)
            return Parts(before, " ".join(text), after)

        total = fit(
            tokenizer, assemble, cost, budget, least=least, most=max(least, 2 * budget), what=what
        )
        return Drawn(assemble(total), question, tuple(coded[1 : 1 + _TOP]))

    return draw
