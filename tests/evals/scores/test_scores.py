"""Scorers on answers whose scores are known by hand."""

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longreach.evals.scores.intervals import interval, mean_interval
from longreach.evals.scores.overlap import exact_match, rouge_l, token_f1
from longreach.plain import words


def test_words_are_compared_without_case_articles_and_punctuation():
    assert words("The Knave, of  Hearts!") == ["knave", "of", "hearts"]
    assert words("an apple a day; theatre") == ["apple", "day", "theatre"]


@pytest.mark.parametrize(
    "answer, references, f1, exact, rouge",
    [
        ("The Knave of Hearts.", ["knave of hearts"], 1, 1, 1),
        ("the knave", ["knave of hearts"], 2 * (1 * 1 / 3) / (1 + 1 / 3), 0, 0.5),
        ("hearts of knave", ["knave of hearts"], 1, 0, 1 / 3),  # all words, the wrong way round
        ("a b b", ["b b b"], 0.8, 0, 0.8),  # words as often as both have them, "a" is an article
        ("queen", ["king", "the queen", "knave"], 1, 1, 1),  # the best reference counts
        ("", ["king"], 0, 0, 0),
        ("the", ["a"], 1, 1, 1),
        ("one two three four", ["one three"], 2 / 3, 0, 2 / 3),
    ],
)
def test_scores_by_hand(answer, references, f1, exact, rouge):
    assert token_f1(answer, references) == pytest.approx(f1)
    assert exact_match(answer, references) == exact
    assert rouge_l(answer, references) == pytest.approx(rouge)


def test_an_interval_holds_the_mean_and_is_the_same_again():
    scores = [0.0] * 30 + [1.0] * 10
    found = interval(scores, seed=3)
    assert found == interval(scores, seed=3) != interval(scores, seed=4)
    assert found.mean == 0.25
    # Of a share p of n the normal approximation says 1.96 sqrt(p (1 - p) / n), here 0.134.
    assert found.low == pytest.approx(0.25 - 0.134, abs=0.03) and found.high == pytest.approx(0.25 + 0.134, abs=0.03)
    assert interval(scores * 25).high - interval(scores * 25).low < (found.high - found.low) / 3


def test_each_group_is_drawn_by_itself():
    few, many = [100.0, 100.0], [80.0, 100.0] * 50
    found = mean_interval([few, many])
    assert found.mean == 95 and 93 < found.low < 95 < found.high < 97
    assert mean_interval([many]) == interval(many)


def test_few_answers_have_a_mean_and_no_interval():
    assert interval([0.5]) == (0.5, None, None) and interval([0.0, 1.0] * 4 + [1.0]) == (5 / 9, None, None)
    found = interval([0.0, 1.0] * 5)
    assert found.mean == 0.5 and 0 < found.low < 0.5 < found.high < 1
    assert mean_interval([[0.0, 1.0], [1.0] * 7]) == (0.75, None, None)  # nine answers
    assert mean_interval([[0.0, 1.0], [1.0] * 8]).low is not None
    assert mean_interval([[1.0], [0.0, 1.0] * 20]) == (0.75, None, None)  # one answer does not say how others differ


def official(text):
    """Words as SQuAD's evaluation script of 2016 has them, step by step."""
    text = "".join(mark for mark in text.lower() if mark not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=127)) | st.text(alphabet="aAnNtThHeE xz.,'-\n"))
def test_on_ascii_words_are_those_of_the_official_script(text):
    assert words(text) == official(text)


@pytest.mark.parametrize(
    "answer, plain",
    [
        ("\u201cParis\u201d", "Paris"),
        ("\u00abParis\u00bb", "Paris"),
        ("\u00bfMadrid?", "Madrid"),
        ("\u300cParis\u300d", "Paris"),
        ("10\u201312", "10-12"),
        ("10\u201412", "10-12"),
        ("\u22125", "-5"),
        ("King\u2019s", "King's"),
        ("don\u00b4t", "don't"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u1112\u1161\u11ab", "\ud55c"),
        ("\uff21\uff22\uff23 \uff11\uff12\uff13", "ABC 123"),
        ("\ufb01nal", "final"),
        ("New\u00a0York", "New York"),
        ("12\u2009000", "12 000"),
        ("New\u202fYork\u3000City", "New York City"),
        ("co\u00adoperate", "cooperate"),
        ("Par\u200bis\ufeff", "Paris"),
        ("Stra\u00dfe", "STRASSE"),
        ("\u0130stanbul", "Istanbul"),
        ("wait\u2026", "wait..."),
        ("\u00bd", "1/2"),
        ("\uff76\uff9e", "\u30ac"),  # half-width katakana
        ("\u5317\u4eac\u3002", "\u5317\u4eac"),
    ],
)
def test_what_only_looks_different_is_equal(answer, plain):
    assert exact_match(answer, [plain]) == token_f1(plain, [answer]) == rouge_l(answer, [plain]) == 1


def test_what_differs_stays_different():
    assert exact_match("caf\u00e9", ["cafe"]) == 0 and exact_match("10", ["12"]) == 0
    assert exact_match("\u0440\u0430\u0440", ["pap"]) == 0  # Cyrillic letters are no Latin ones


@pytest.mark.parametrize(
    "answer, reference, f1",
    [
        ("\u5317\u4eac\u5e02", "\u5317\u4eac", 0.8),
        ("\u5317\u4eac", "\u4e1c\u4eac", 0.5),
        ("\u6771\u4eac\u30bf\u30ef\u30fc", "\u6771\u4eac", 4 / 7),
        ("\u304c\u304f\u305b\u3044\u3067\u3059", "\u304c\u304f\u305b\u3044", 0.8),
        ("iPhone \u624b\u673a", "iphone\u624b\u673a", 1),
        ("\u7b2c12\u7ae0", "12\u7ae0", 0.8),  # a number is one word
        ("\u0442\u0435\u043f\u043b\u0430\u044f \u0437\u0438\u043c\u0430", "\u0437\u0438\u043c\u0430", 2 / 3),
        ("\uc11c\uc6b8 \ud2b9\ubcc4\uc2dc", "\uc11c\uc6b8", 2 / 3),  # Korean sets spaces
    ],
)
def test_what_sets_no_spaces_is_compared_by_character(answer, reference, f1):
    assert token_f1(answer, [reference]) == pytest.approx(f1)
    assert rouge_l(answer, [reference]) == pytest.approx(f1)
