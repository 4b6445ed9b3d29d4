"""The words of probes: invented names, numbers and phrases, drawn from a stream of chance.

Names are made of syllables, so that no model knows anything about them. None of these words, and
none of the sentences of `longreach.layers.kinds`, comes from a test of quality: layers are chosen
on other texts than those they are judged by.
"""

from __future__ import annotations

import random
from collections.abc import Callable

_FIRST = ("Bra", "Cor", "Del", "Fen", "Gal", "Hes", "Ill", "Jor", "Kal", "Lor", "Mar", "Nev")
_MIDDLE = ("a", "e", "i", "o", "u", "an", "en", "il", "or", "ub")
_LAST = (
    "bek",
    "dric",
    "fold",
    "gan",
    "lith",
    "mund",
    "nock",
    "quist",
    "rath",
    "stel",
    "vane",
    "zor",
)
_COLORS = ("crimson", "ochre", "teal", "ashen", "coppery", "russet", "turquoise", "maroon", "mauve")
_SHAPES = ("three-legged", "winged", "crowned", "one-eyed", "kneeling", "striped", "leaping")
_BEASTS = (
    "kingfisher",
    "dormouse",
    "ibex",
    "stoat",
    "curlew",
    "bittern",
    "lapwing",
    "marmot",
    "vole",
)
_SOUNDS = ("ba", "du", "fi", "go", "lu", "ma", "ne", "pi", "ro", "su", "ta", "vo", "ze", "ki")


def draw_name(chance: random.Random) -> str:
    """Returns an invented name, one of some 1,400."""
    return chance.choice(_FIRST) + chance.choice(_MIDDLE) + chance.choice(_LAST)


def draw_number(chance: random.Random) -> str:
    """Returns six digits, the first of them not 0."""
    return str(chance.randint(100_000, 999_999))


def draw_count(chance: random.Random) -> str:
    """Returns four digits, the first of them not 0."""
    return str(chance.randint(1_000, 9_999))


def draw_phrase(chance: random.Random) -> str:
    """Returns what a banner can show, such as "crowned teal marmot"."""
    return f"{chance.choice(_SHAPES)} {chance.choice(_COLORS)} {chance.choice(_BEASTS)}"


def draw_line(chance: random.Random, words: int) -> str:
    """Returns a line of words that mean nothing, such as "lumane fibapi"."""
    line = []
    for _ in range(words):
        line.append("".join(chance.choices(_SOUNDS, k=3)))
    return " ".join(line)


def draw_distinct(
    make: Callable[[random.Random], str], chance: random.Random, count: int
) -> list[str]:
    """Returns a number of different texts, in the order they are made."""
    # A dictionary keeps the order, where a set does not.
    found = dict[str, None]()
    while len(found) < count:
        found[make(chance)] = None
    return list(found)
