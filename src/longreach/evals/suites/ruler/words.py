"""What RULER's needles and lists are made of: English words, numbers, UUIDs and coded words."""

import random
import string
import uuid
from collections.abc import Callable
from functools import cache

from longreach.errors import MissingDependency

WORDS_INSTALL = "pip install 'longreach[evals]'"


@cache
def _english() -> dict[str, list[str]]:
    """Returns words of `wonderwords`, which upstream takes, by part of speech."""
    try:
        from wonderwords import RandomWord
    except ImportError as error:
        raise MissingDependency(
            f"RULER's words lie in a package that is not installed: {WORDS_INSTALL}"
        ) from error
    source = RandomWord()
    found = {}
    for kind in ("noun", "adjective", "verb"):
        # Sorted: a set has another order in every process.
        found[kind] = sorted(set(source.filter(include_categories=[kind])))
    return found


@cache
def words() -> list[str]:
    """Returns nouns, adjectives and verbs, about eight thousand different ones, sorted."""
    found = set[str]()
    for kind in _english().values():
        found.update(kind)
    return sorted(found)


def compound(chance: random.Random) -> str:
    """Returns an adjective and a noun with a hyphen, one of six million."""
    return f"{chance.choice(_english()['adjective'])}-{chance.choice(_english()['noun'])}"


def number(chance: random.Random) -> str:
    """Returns seven digits."""
    return str(chance.randint(1_000_000, 9_999_999))


def random_uuid(chance: random.Random) -> str:
    """Returns a UUID of version 4."""
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def code(chance: random.Random, letters: str = string.ascii_lowercase, length: int = 6) -> str:
    """Returns a word that means nothing."""
    return "".join(chance.choices(letters, k=length))


def distinct(make: Callable[[], str], count: int) -> list[str]:
    """Returns a number of different texts, in the order they are made."""
    # A dictionary keeps the order, where a set does not.
    found = dict[str, None]()
    while len(found) < count:
        found[make()] = None
    return list(found)
