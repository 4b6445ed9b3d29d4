"""Layers run one by one are the model that `convert` makes, whatever states were taken over."""

import pytest
import torch

import longreach
from longreach.layers.probes import Probe
from longreach.layers.scores import score_states
from longreach.models.hybrid.families import FAMILIES
from longreach.models.hybrid.states import LayerRunner
from tests.conftest import make_model

PATTERN = longreach.AttentionPattern(4, 1, 3, 0)
LENGTH = 61
CHOICES = [(), (0, 2), (1, 2, 3, 4), (0, 1, 2, 3, 4), (4,)]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def make(family):
    return make_model(family, num_hidden_layers=5)


def ids_of(rows=2):
    return torch.randint(0, 250, (rows, LENGTH), generator=torch.Generator().manual_seed(3))


def logits_of(model, full, ids):
    """What a converted model says: the reference."""
    hybrid = longreach.convert(model, PATTERN, list(full), max_length=2048).eval()
    return hybrid(ids, use_cache=False).logits


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_choice_is_the_converted_hybrid(family):
    model, ids = make(family), ids_of()
    runner = LayerRunner(model, PATTERN, ids)
    base = None
    for full in CHOICES:
        base = runner.read(full, base)
        expected = logits_of(model, full, ids)
        close(runner.logits(base.output), expected[:, base.start :])
    # The choices do differ, or nothing has been compared.
    assert (logits_of(model, CHOICES[0], ids) - logits_of(model, CHOICES[3], ids)).abs().max() > 0.05


def test_states_below_the_first_change_are_not_computed_again(monkeypatch):
    model, ids = make("llama"), ids_of()
    runner = LayerRunner(model, PATTERN, ids)
    base = runner.read([0, 1, 2])
    ran = []
    run = LayerRunner._run
    monkeypatch.setattr(LayerRunner, "_run", lambda self, layer, *rest: (ran.append(layer), run(self, layer, *rest))[1])
    runner.read([0, 1, 2, 4], base)
    assert ran == [4]
    runner.read_end([0, 2], base, 40)
    assert ran == [4, 1, 2, 3, 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_is_the_whole_where_nothing_before_it_differs(family):
    model, ids = make(family), ids_of()
    runner = LayerRunner(model, PATTERN, ids)
    base = runner.read(range(5))
    close(runner.read_end([0, 3], base, base.start), runner.read([0, 3], base).output)
    close(runner.read_end(range(5), base, 50), base.output[:, 50 - base.start :])


def test_the_end_sees_the_text_as_the_base_has_read_it():
    model, ids = make("llama"), ids_of()
    runner = LayerRunner(model, PATTERN, ids)
    whole = runner.read([0, 1, 2, 3, 4])
    start = 50
    # The last layer sparse: nothing before the end is read by a later layer.
    expected = logits_of(model, [0, 1, 2, 3], ids)[:, start:]
    close(runner.logits(runner.read_end([0, 1, 2, 3], whole, start)), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_heads_of_a_layer_sparse_are_the_layer_sparse(family):
    # With one KV head the head is the layer.
    model, ids = make_model(family, num_hidden_layers=3, num_key_value_heads=1), ids_of()
    runner = LayerRunner(model, PATTERN, ids)
    base = runner.read(range(3))
    close(runner.read_end_without_head(1, 0, base, 50), runner.read_end([0, 2], base, 50))


def test_one_head_of_two_is_neither_the_full_nor_the_sparse_layer():
    model, ids = make("llama"), ids_of()
    runner = LayerRunner(model, PATTERN, ids)
    base = runner.read(range(5))
    one = runner.read_end_without_head(2, 0, base, 50)
    other = runner.read_end_without_head(2, 1, base, 50)
    for states in (base.output[:, 50 - base.start :], runner.read_end([0, 1, 3, 4], base, 50), other):
        assert (one - states).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_converted_hybrid(family):
    model, ids = make(family), ids_of()
    probes = [
        Probe("a", tuple(ids[0].tolist()), 50, ((52, 53), (58,))),
        Probe("b", tuple(ids[1].tolist()), 51, ((55, 56, 57),)),
    ]
    runner = LayerRunner(model, PATTERN, ids)
    read = runner.read([1, 3])
    score = score_states(runner, probes, read.output, read.start)
    losses = -logits_of(model, [1, 3], ids).log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    first = (float(losses[0, 51:53].mean()) + float(losses[0, 57])) / 2
    second = float(losses[1, 54:57].mean())
    assert score.by_kind["a"][0] == pytest.approx(first, abs=1e-4)
    assert score.by_kind["b"][0] == pytest.approx(second, abs=1e-4)
    assert score.nll == pytest.approx((first + second) / 2, abs=1e-4)


def test_an_answer_is_found_where_all_of_its_tokens_are_the_likeliest():
    model, ids = make("llama"), ids_of(1)
    runner = LayerRunner(model, PATTERN, ids)
    read = runner.read(range(5))
    said = runner.logits(read.output)[0].argmax(-1).tolist()
    right = ids[0].tolist()
    # The text as the model would write it at 50 and 51, and something else at 52.
    for at in (50, 51):
        right[at] = said[at - 1 - read.start]
    right[52] = (said[51 - read.start] + 1) % 250
    runner.ids = torch.tensor([right])
    probe = Probe("a", tuple(right), 49, ((50, 51), (51, 52)))
    assert score_states(runner, [probe], read.output, read.start).found == 0.5
