"""Words of made-up texts."""

import random
import re

from longreach.datasets.asks.words import Vocabulary, draw_different


def test_numbers_have_as_many_digits_as_asked_for():
    chance = random.Random(0)
    for digits in range(1, 9):
        for _ in range(50):
            assert re.fullmatch(rf"[0-9]{{{digits}}}", Vocabulary().number(chance, digits))
    assert {len(Vocabulary().number(chance)) for _ in range(300)} == {3, 4, 5, 6, 7, 8}


def test_marks_are_letters_and_digits_in_groups():
    chance = random.Random(0)
    for _ in range(100):
        assert re.fullmatch(r"[a-z0-9]{2,8}(-[a-z0-9]{2,4}){1,2}", Vocabulary().mark(chance))


def test_different_things_are_different_and_in_order():
    values = iter([3, 1, 3, 1, 2])
    assert draw_different(lambda: next(values), 3) == [3, 1, 2]
