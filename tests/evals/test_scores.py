"""Scorers on answers whose scores are known by hand."""

import pytest

from longreach.evals.scores import exact_match, interval, mean_interval, normalised, rouge_l, token_f1


def test_words_are_compared_without_case_articles_and_punctuation():
    assert normalised("The Knave, of  Hearts!") == ["knave", "of", "hearts"]
    assert normalised("an apple a day; theatre") == ["apple", "day", "theatre"]


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
    assert interval([0.5]) == (0.5, 0.5, 0.5)
    assert interval(scores * 25).high - interval(scores * 25).low < (found.high - found.low) / 3


def test_each_group_is_drawn_by_itself():
    few, many = [100.0, 100.0], [80.0, 100.0] * 50
    found = mean_interval([few, many])
    assert found.mean == 95 and 93 < found.low < 95 < found.high < 97
    assert mean_interval([many]) == interval(many)
