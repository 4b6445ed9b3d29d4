"""RULER's tasks that take the whole text: variable tracking, common words, frequent words.

Paper: Hsieh et al. 2024, RULER (arXiv 2404.06654); templates and frequencies of NVIDIA/RULER
(Apache-2.0).
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from longreach.evals.suites.draw import Drawn, PromptParts, count_tokens, fit, piece_tokens
from longreach.evals.suites.ruler.needles import NOISE
from longreach.evals.suites.ruler.words import code, compound, distinct, words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HOPS = 4
_EXAMPLE_TOKENS = 500  # of variable tracking's worked example, about
_FREQUENT = 10
_SHORT = 4096  # below it words are repeated less
_ZETA = math.pi**2 / 6  # of 2, the exponent of the coded words' frequencies
_TOP = 3
# From 74 words on the third comes more often than the fourth, whatever rounding does.
_LEAST_CODED = 74


class Chain(NamedTuple):
    """Variables with one value: the prompt by its lines of noise, and their names."""

    assemble: Callable[[int], PromptParts]
    names: list[str]


def variable_tracking(
    tokenizer: PreTrainedTokenizerBase, budget: int, what: str
) -> Callable[[str], Drawn]:
    """Returns the function that draws a chain of five variables among noise.

    All have one value, and a worked example comes before.

    Args:
        tokenizer: The model's.
        budget: Tokens of a prompt at most.
        what: The task and its length, for what is said.
    """
    unit = piece_tokens(tokenizer, [f"{NOISE}\n"])[0]

    def fill(assemble: Callable[[int], PromptParts], tokens: int) -> PromptParts:
        most = tokens // unit + _HOPS + 2
        count = fit(
            tokenizer, assemble, unit.__mul__, tokens, least=_HOPS + 1, most=most, what=what
        )
        return assemble(count)

    def draw(stream: str) -> Drawn:
        chance = random.Random(stream)
        shown, asked = map(str, chance.sample(range(10_000, 99_999), 2))
        short = _make_chain("", f"{stream} example", shown, 3)
        # A tokenizer of few tokens a word may need more for the shortest example.
        least = count_tokens(tokenizer, "".join(short.assemble(_HOPS + 1)))
        filled = "".join(fill(short.assemble, max(_EXAMPLE_TOKENS, least)))
        example = f"{filled} {' '.join(short.names)}\n\n"
        chain = _make_chain(example, stream, asked, 5)
        question = f"Find all variables that are assigned the value {asked} in the text above."
        return Drawn(fill(chain.assemble, budget), question, tuple(chain.names))

    return draw


def _make_chain(example: str, stream: str, value: str, letters: int) -> Chain:
    """Returns a chain of variables, each assigned the one before it.

    Args:
        example: What is said before.
        stream: Of chance.
        value: Of the first variable, and so of all.
        letters: Of a name.
    """
    chance = random.Random(stream)
    names = distinct(lambda: code(chance, string.ascii_uppercase, letters), _HOPS + 1)
    chain = [f"VAR {names[0]} = {value}"]
    for earlier, name in pairwise(names):
        chain.append(f"VAR {name} = VAR {earlier} ")
    # The words are upstream's, to the letter.
    before = (
        f"{example}Memorize and track the chain(s) of variable assignment hidden in the"
        " following text.\n\n"
    )
    after = (
        f"\nQuestion: Find all variables that are assigned the value {value} in the text above."
        " Answer: According to the chain(s) of variable assignment in the text above,"
        f" {len(names)} variables are assigned the value {value}, they are: "
    )

    def assemble(count: int) -> PromptParts:
        lines = [NOISE] * count
        places = sorted(random.Random(f"{stream} places").sample(range(count), len(chain)))
        # Every line that is there already moves the next place by one.
        for earlier, (place, line) in enumerate(zip(places, chain, strict=True)):
            lines.insert(place + earlier, line)
        return PromptParts(before, "\n".join(lines), after)

    return Chain(assemble, names)


class Repeats(NamedTuple):
    """How often words come: the common ones and the others; and of how many words a list is."""

    often: int
    seldom: int
    words: int = 0


def _list_words(chosen: list[str], repeats: Repeats, stream: str) -> str:
    """Returns a numbered list in which the first words come more often than the others."""
    found = chosen[:_FREQUENT] * repeats.often + chosen[_FREQUENT:] * repeats.seldom
    random.Random(f"{stream} order").shuffle(found)
    return _number(found)


def _count_each(tokenizer: PreTrainedTokenizerBase, found: list[str]) -> list[int]:
    """Returns the tokens of each word, which stands behind a space."""
    return piece_tokens(tokenizer, [f" {word}" for word in found])


def _number(found: list[str]) -> str:
    return " ".join(f"{place}. {word}" for place, word in enumerate(found, 1))


def common_words(
    tokenizer: PreTrainedTokenizerBase, budget: int, what: str, length: int
) -> Callable[[str], Drawn]:
    """Returns the function that draws a numbered list in which ten words are common.

    A worked example comes before.

    Args:
        tokenizer: The model's.
        budget: Tokens of a prompt at most.
        what: The task and its length, for what is said.
        length: Tokens of a prompt and its answer; of short ones words are repeated less.
    """
    repeats = Repeats(6, 1)
    in_example = Repeats(3, 1, words=20)
    if length >= _SHORT:
        repeats = Repeats(30, 3)
        in_example = Repeats(10, 3, words=40)
    question = "What are the 10 most common words in the above list?"
    before = (
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize the ones that appear most often.\n"
    )
    after = (
        f"\nQuestion: {question} Answer: The top 10 words that appear most often in the list are:"
    )
    # Numbers become longer: the tokens of the first n of them.
    each_number = piece_tokens(tokenizer, [f" {place}." for place in range(1, budget // 2)])
    numbers = list(accumulate(each_number, initial=0))

    def draw(stream: str) -> Drawn:
        chance = random.Random(stream)
        shown = chance.sample(words(), in_example.words)
        listed = _list_words(shown, in_example, f"{stream} example")
        example = f"{before}{listed}{after} {_number(shown[:_FREQUENT])}\n"
        # Number, dot, word: three tokens at least.
        most = max(_FREQUENT + budget // (3 * repeats.seldom), _FREQUENT + 1)
        chosen = chance.sample(words(), min(most, len(words())))
        drawn = fill(stream, example, chosen)
        # All words fit: upstream turns to a list of more words, here they are compounds.
        if drawn is None:
            drawn = fill(stream, example, distinct(lambda: compound(chance), most))
        assert drawn, "an item takes three tokens at least"
        return drawn

    def fill(stream: str, example: str, chosen: list[str]) -> Drawn | None:
        """Returns the longest list of chosen words that fits; None where all of them fit."""
        repeated = []
        each_word = _count_each(tokenizer, chosen)
        for place, tokens in enumerate(each_word):
            times = repeats.often if place < _FREQUENT else repeats.seldom
            repeated.append(tokens * times)
        taken = list(accumulate(repeated, initial=0))

        def cost(count: int) -> int:
            common = min(count, _FREQUENT)
            # Every word brings its number, which is longer in long lists.
            items = common * repeats.often + (count - common) * repeats.seldom
            return taken[count] + numbers[min(items, len(numbers) - 1)]

        def assemble(count: int) -> PromptParts:
            return PromptParts(
                example + before, _list_words(chosen[:count], repeats, stream), after
            )

        count = fit(
            tokenizer, assemble, cost, budget, least=_FREQUENT + 1, most=len(chosen), what=what
        )
        # The list could be longer, and there are no more words for it.
        if count == len(chosen):
            return None
        return Drawn(assemble(count), question, tuple(chosen[:_FREQUENT]))

    return draw


def frequent_words(
    tokenizer: PreTrainedTokenizerBase, budget: int, what: str
) -> Callable[[str], Drawn]:
    """Returns the function that draws coded words, of which three come most often after the dots.

    Their frequencies are those of a zeta distribution.

    Args:
        tokenizer: The model's.
        budget: Tokens of a prompt at most.
        what: The task and its length, for what is said.
    """
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
    kinds = max(_TOP + 2, budget // 50)

    def count_each(total: int) -> list[int]:
        return [int(total * rank**-2.0 / _ZETA) for rank in range(1, kinds + 1)]

    def draw(stream: str) -> Drawn:
        chance = random.Random(stream)
        coded = ["...", *distinct(lambda: code(chance), kinds - 1)]
        tokens = _count_each(tokenizer, coded)

        def cost(total: int) -> int:
            found = 0
            for count, each in zip(count_each(total), tokens, strict=True):
                found += count * each
            return found

        def assemble(total: int) -> PromptParts:
            text = []
            for word, count in zip(coded, count_each(total), strict=True):
                text += [word] * count
            # Of its own stream, so that it does not depend on what was drawn before.
            random.Random(f"{stream} order").shuffle(text)
            return PromptParts(before, " ".join(text), after)

        most = max(_LEAST_CODED, 2 * budget)
        total = fit(tokenizer, assemble, cost, budget, least=_LEAST_CODED, most=most, what=what)
        return Drawn(assemble(total), question, tuple(coded[1 : 1 + _TOP]))

    return draw
