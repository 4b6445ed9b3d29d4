"""Small texts that can be learned, and small models."""

import random

import pytest

import longreach
from tests.conftest import make_model

WORDS = ("alice", "king", "queen", "tarts", "hole", "rabbit")
PATTERN = longreach.AttentionPattern(8, 1, 2, 0)


def make_texts(count, seed=0, words=(4, 16, 60)):
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.choice(words))) for _ in range(count)]


def make_hybrid(**shape):
    return longreach.convert(make_model(**shape), PATTERN, [1], max_length=4096)


def write_texts(folder):
    folder.mkdir()
    for number, text in enumerate(make_texts(12)):
        (folder / f"{number:02}.txt").write_text(text)
    return folder


@pytest.fixture
def texts(tmp_path):
    """A folder of twelve text files."""
    return write_texts(tmp_path / "texts")
