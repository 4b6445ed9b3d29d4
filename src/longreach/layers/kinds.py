"""The kinds of retrieval that layers are chosen on: what is hidden, what is asked, the answers.

Every answer is a fact of its text alone, so that a model that does not read it there cannot give
it. The questions of one text are asked one after the other behind it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from longreach.layers.words import (
    draw_count,
    draw_distinct,
    draw_line,
    draw_name,
    draw_number,
    draw_phrase,
)

_QUESTIONS = 3
_ENTRIES = 24
_LINE_WORDS = 4


class Question(NamedTuple):
    """The beginning of a sentence that only the text can complete, and how it is completed."""

    asked: str
    answer: str


class Hidden(NamedTuple):
    """What is hidden in a text, in this order, and what is then asked about it."""

    facts: list[str]
    questions: list[Question]


def draw_numbers(chance: random.Random) -> Hidden:
    """Returns single numbers, each of a person: the plainest kind."""
    facts = []
    questions = []
    for name in draw_distinct(draw_name, chance, _QUESTIONS):
        number = draw_number(chance)
        facts.append(f"The locker of {name} opens with code {number}.")
        questions.append(Question(f"To open the locker of {name}, dial code", number))
    return _shuffle(facts, questions, chance)


def draw_keys(chance: random.Random) -> Hidden:
    """Returns a register of many entries of one form, of which a few are looked up."""
    names = draw_distinct(draw_name, chance, _ENTRIES)
    counts = draw_distinct(draw_count, chance, _ENTRIES)
    facts = []
    questions = []
    for name, count in zip(names, counts, strict=True):
        facts.append(f"Register: {name} owes {count} crowns.")
        questions.append(Question(f"According to the register, {name} owes", count))
    return Hidden(facts, chance.sample(questions, _QUESTIONS))


def draw_prose(chance: random.Random) -> Hidden:
    """Returns facts that are told in other words than they are asked for in."""
    facts = []
    questions = []
    names = draw_distinct(draw_name, chance, _QUESTIONS)
    for name, phrase in zip(names, draw_distinct(draw_phrase, chance, _QUESTIONS), strict=True):
        facts.append(
            f"When the village of {name} needed a banner, its elders settled on a {phrase}, and the"
            " weavers began at once."
        )
        questions.append(Question(f"The banner that hangs in {name} shows a", phrase))
    return _shuffle(facts, questions, chance)


def draw_tracking(chance: random.Random) -> Hidden:
    """Returns boxes that are filled from one another: what is asked for is said of another box."""
    facts = []
    questions = []
    names = draw_distinct(draw_name, chance, 2 * _QUESTIONS)
    for first, second in zip(names[::2], names[1::2], strict=True):
        count = draw_count(chance)
        # In this order, as the second sentence points back to the first.
        facts += [
            f"Box {first} was filled with {count} beads.",
            f"Box {second} was filled with exactly as many beads as box {first}.",
        ]
        questions.append(
            Question(f"Box {second} has as many beads as box {first}, and that is", count)
        )
    chance.shuffle(questions)
    return Hidden(facts, questions)


def draw_copying(chance: random.Random) -> Hidden:
    """Returns lines that mean nothing, which are begun again and have to be completed."""
    facts = []
    questions = []
    for line in draw_distinct(lambda stream: draw_line(stream, _LINE_WORDS), chance, _QUESTIONS):
        head, rest = line.split(" ", 1)
        facts.append(f"They chanted: {line}.")
        questions.append(Question(f"And once more they chanted: {head}", rest))
    return _shuffle(facts, questions, chance)


KINDS: dict[str, Callable[[random.Random], Hidden]] = {
    "numbers": draw_numbers,
    "keys": draw_keys,
    "prose": draw_prose,
    "tracking": draw_tracking,
    "copying": draw_copying,
}
"""The kinds by name; each draws from a stream of chance."""


def _shuffle(facts: list[str], questions: list[Question], chance: random.Random) -> Hidden:
    """Returns the same with its facts and its questions in orders of chance."""
    chance.shuffle(facts)
    chance.shuffle(questions)
    return Hidden(facts, questions)
