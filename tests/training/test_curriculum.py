"""Lengths over a run, and which samples ask."""

import pytest

from longreach.errors import UsageError
from longreach.training.extend.curriculum import Stage, check_stages, parse_stages, plan_turns


def test_lengths_with_their_shares():
    assert parse_stages("1024:0.6,2048:0.3,4096:.1") == ((1024, 0.6), (2048, 0.3), (4096, 0.1))
    assert parse_stages("512") == (Stage(512, 1.0),)


@pytest.mark.parametrize("text", ["", "1024:", "short:0.5", "1024:half", "1024:0.5;2048:0.5"])
def test_other_words_are_refused(text):
    if text == "1024:":  # no share is all of it
        assert parse_stages(text) == (Stage(1024, 1.0),)
        return
    with pytest.raises(UsageError, match="give lengths with their shares"):
        parse_stages(text)


@pytest.mark.parametrize(
    "stages, words",
    [
        ([(64, 0.5), (128, 0.4)], "0.9 in all"),
        ([(1, 1.0)], "rows of 1 token"),
        ([(256, 1.0)], "2 to the target length, 128"),
        ([(64, 2.0), (128, -1.0)], "above 0"),
        ([(64, float("nan"))], "above 0"),
    ],
)
def test_stages_that_cannot_be_are_refused(stages, words):
    with pytest.raises(UsageError, match=words):
        check_stages([Stage(*stage) for stage in stages], 128)


@pytest.mark.parametrize("asks", [0.0, 0.25, 1 / 3, 0.8, 1.0])
@pytest.mark.parametrize("count", [1, 7, 100])
def test_every_sample_has_its_turn(asks, count):
    stages = [Stage(32, 0.6), Stage(64, 0.3), Stage(128, 0.1)]
    turns = plan_turns(stages, asks, count)
    assert len(turns) == count
    assert [turn.stage for turn in turns] == sorted(turn.stage for turn in turns)
    for number, stage in enumerate(stages):
        own = [turn for turn in turns if turn.stage == number]
        assert abs(len(own) - stage.share * count) <= 1
        asked = [turn for turn in own if turn.asked]
        assert abs(len(asked) - asks * len(own)) < 1
        # Each kind counts by itself, so that documents are learned in the order of their own.
        assert [turn.number for turn in asked] == list(range(len(asked)))
        assert [turn.number for turn in own if not turn.asked] == list(range(len(own) - len(asked)))


def test_samples_that_ask_are_spread_evenly():
    turns = plan_turns([Stage(64, 1.0)], 0.75, 40)
    for start in range(0, 40, 4):
        assert sum(turn.asked for turn in turns[start : start + 4]) == 3
