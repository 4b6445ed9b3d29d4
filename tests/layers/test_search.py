"""The search on made-up scores, and progress that survives a kill."""

import json

import pytest

from longreach.errors import UsageError
from longreach.layers.measure import Progress
from longreach.layers.scores import Score
from longreach.layers.search import search


class Scores:
    """Stands for `Measure`: any function of the full layers."""

    def __init__(self, layers, nll):
        self.num_layers = layers
        self.nll = nll
        self.asked = []

    def whole(self, full):
        self.asked.append(tuple(sorted(full)))
        return Score(self.nll(frozenset(full)), 0.0, {})

    def end(self, full, base):
        return Score(self.nll(frozenset(full)), 0.0, {})


def test_additive_effects_are_found_in_their_order():
    gains = [0.1, 0.9, 0.0, 0.5, 0.3, 0.7]
    found = search(Scores(6, lambda full: 3 - sum(gains[layer] for layer in full)), 4)
    assert found.order == [1, 5, 3, 4, 0, 2]
    assert found.costs == pytest.approx(gains)
    assert {count: choice.full for count, choice in found.choices.items()} == {
        0: (),
        3: (1, 3, 5),
        4: (1, 3, 4, 5),
        6: (0, 1, 2, 3, 4, 5),
    }


def test_a_pair_that_only_helps_together_with_the_chosen_is_found():
    def nll(full):
        # Layer 0 is worth nothing by its own cost, and much beside 5.
        return 3 - 0.2 * len(full & {3, 4, 5}) - (1.0 if {0, 5} <= full and 1 not in full else 0.0)

    assert search(Scores(6, nll), 4).choices[4].full == (0, 3, 4, 5)


def test_layers_that_cost_nothing_any_more_are_dropped():
    def nll(full):
        # Beside all others 0, 1 and 2 matter most, so that the search begins with them.
        if len(full) >= 6:
            return 1.0 - 0.1 * len(full & {0, 1, 2})
        # Once 3 and 4 are there, nearly nothing is left for them to do.
        if {3, 4} <= full:
            return 1.0 - 0.01 * len(full & {0, 1, 2})
        return 3.0 - 0.3 * len(full & {0, 1, 2}) - 0.2 * len(full & {3, 4})

    scores = Scores(7, nll)
    found = search(scores, 5)
    sizes = [len(full) for full in scores.asked]
    assert sizes[2:] == [3, 4, 5, 4, 3, 4, 5]
    assert {3, 4} <= set(found.choices[3].full) and found.choices[3].score.nll == pytest.approx(0.99)
    assert {3, 4} <= set(found.choices[4].full) and found.choices[4].score.nll == pytest.approx(0.98)
    assert found.choices[5].full == (0, 1, 2, 3, 4)
    assert sorted(found.order) == list(range(7))


def test_progress_is_taken_up_and_a_torn_line_is_measured_again(tmp_path):
    path = tmp_path / "progress"
    first = Progress(path, {"seed": 1})
    first.put("one", {"nll": 1.0})
    first.put("two", {"nll": 2.0})
    path.write_bytes(path.read_bytes()[:-5])
    again = Progress(path, {"seed": 1})
    assert again.get("one") == {"nll": 1.0} and again.get("two") is None
    again.put("three", {"nll": 3.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("name") for line in lines] == [None, "one", "three"]


def test_the_progress_of_another_measurement_is_refused(tmp_path):
    path = tmp_path / "progress"
    Progress(path, {"seed": 1}).put("one", {"nll": 1.0})
    with pytest.raises(UsageError, match="another measurement"):
        Progress(path, {"seed": 2})
    (tmp_path / "notes").write_text("mine\n")
    with pytest.raises(UsageError, match="another measurement"):
        Progress(tmp_path / "notes", {"seed": 1})
    assert (tmp_path / "notes").read_text() == "mine\n"
