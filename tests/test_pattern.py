"""The pattern's arithmetic against brute force over the definition."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longreach.errors import UsageError
from longreach.pattern import AttentionPattern, LayerPlan

PATTERNS = st.builds(
    AttentionPattern,
    block_size=st.sampled_from([1, 2, 4, 8]),
    sink_blocks=st.integers(0, 4),
    local_blocks=st.integers(1, 6),
    stride=st.integers(0, 9),
)
HEADS = st.integers(1, 4)
LAYERS = st.integers(0, 40)


def sees(p, q, k, head, heads, layer):
    """The contract of DESIGN.md, letter for letter."""
    i, j = q // p.block_size, k // p.block_size
    step = max(1, p.stride // heads)
    kept = i - j < p.local_blocks or j < p.sink_blocks or (p.stride > 0 and (j + head * step + layer) % p.stride == 0)
    return k <= q and j <= i and kept


@settings(max_examples=60, deadline=None)
@given(p=PATTERNS, heads=HEADS, layer=LAYERS, kv_len=st.integers(0, 70), data=st.data())
def test_mask_and_pairs_are_the_definition(p, heads, layer, kv_len, data):
    q_len = data.draw(st.integers(0, kv_len))
    mask = p.mask(q_len, kv_len, heads, layer)
    want = [
        [[sees(p, q, k, g, heads, layer) for k in range(kv_len)] for q in range(kv_len - q_len, kv_len)]
        for g in range(heads)
    ]
    assert mask.shape == (heads, q_len, kv_len)
    assert mask.tolist() == want
    pairs = [sum(map(sum, rows)) for rows in want]
    assert p.visited(kv_len, heads, layer, q_len=q_len) == pairs
    assert p.attention_flops(kv_len, 2 * heads, heads, 8, layer, q_len=q_len) == 4 * 8 * 2 * sum(pairs)
    if kv_len:
        whole = p.mask(kv_len, kv_len, heads, layer).double().mean().item() * kv_len**2
        assert p.density(kv_len, heads, layer) == pytest.approx(whole / (kv_len * (kv_len + 1) / 2))


@settings(max_examples=60, deadline=None)
@given(p=PATTERNS, heads=HEADS, layer=LAYERS, i=st.integers(0, 60))
def test_blocks_are_the_definition(p, heads, layer, i):
    for g in range(heads):
        kept = [j for j in range(i + 1) if p.keeps(i, j, g, heads, layer)]
        size = p.block_size
        assert kept == [j for j in range(i + 1) if sees(p, i * size + size - 1, j * size, g, heads, layer)]
        far = p.far_blocks(i, g, heads, layer)
        assert far + list(range(p.local_start(i), i + 1)) == kept
        assert p.far_count(i, g, heads, layer) == len(far)
        permanent = [j for j in range(i) if p.is_permanent(j, g, heads, layer)]
        assert [p.permanent_block(f, g, heads, layer) for f in range(len(permanent))] == permanent
        assert p.permanent_count(i, g, heads, layer) == len(permanent)
    assert not p.keeps(i, i + 1)
    assert not p.keeps(i, -1)


@settings(max_examples=60, deadline=None)
@given(p=PATTERNS, heads=HEADS, layer=LAYERS, length=st.integers(0, 90))
def test_retained_is_what_the_future_sees(p, heads, layer, length):
    horizon = length + p.window_tokens + p.block_size
    future = p.mask(horizon - length, horizon, heads, layer)[:, :, :length].any(1)
    kept = p.retained(length, heads, layer)
    assert kept == [future[g].nonzero().flatten().tolist() for g in range(heads)]
    assert p.kv_tokens(length, heads, layer) == [len(row) for row in kept]
    assert p.kv_bytes(length, heads, 16, 2, layer) == 2 * sum(map(len, kept)) * 16 * 2


@settings(max_examples=40, deadline=None)
@given(p=PATTERNS, heads=HEADS, layer=LAYERS, length=st.integers(0, 90))
def test_what_is_freed_stays_freed_and_heads_differ_by_a_block(p, heads, layer, length):
    now, later = p.retained(length, heads, layer), p.retained(length + 1, heads, layer)
    for before, after in zip(now, later, strict=True):
        assert set(after) <= {*before, length}
    if p.sink_blocks == 0:
        counts = p.kv_tokens(length, heads, layer)
        assert max(counts) - min(counts) <= p.block_size


def test_heads_and_layers_together_see_every_block():
    p = AttentionPattern(block_size=1, sink_blocks=0, local_blocks=1, stride=8)
    assert bool(p.mask(1, 64, 8).any(0).all())
    layers = [p.mask(1, 64, 2, layer).any(0) for layer in range(4)]
    assert bool((layers[0] | layers[1] | layers[2] | layers[3]).all())


def test_long_sequences_are_arithmetic_only():
    p = AttentionPattern.strided()
    length = 1 << 40
    assert 0 < p.density(length, 8) < 0.01
    assert p.kv_tokens(131072, 1) == [2048 - 64]  # the block being filled is empty at a block boundary
    assert AttentionPattern.sink_window().kv_tokens(131072 + 63, 1) == [64 + 30 * 64 + 63]
    assert AttentionPattern.preset("sink-window") == AttentionPattern.sink_window()
    assert AttentionPattern(local_blocks=1000).density(5000, 3) == 1.0


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"block_size": 48}, "power of two"),
        ({"block_size": 0}, "at least 1"),
        ({"local_blocks": 0}, "at least 1"),
        ({"stride": -1}, "at least 0"),
        ({"sink_blocks": -2}, "at least 0"),
        ({"stride": 1.5}, "whole number"),
        ({"sink_blocks": True}, "whole number"),
    ],
)
def test_values_out_of_range_are_refused(bad, word):
    with pytest.raises(UsageError, match=word):
        AttentionPattern(**bad)


def test_lengths_and_names_out_of_range_are_refused():
    p = AttentionPattern()
    for call in (
        lambda: p.mask(5, 4, 1),
        lambda: p.mask(-1, 4, 1),
        lambda: p.density(-1),
        lambda: p.retained(-1, 1),
        lambda: p.retained(4, 0),
        lambda: p.permanent_block(1),
        lambda: p.offset(2, 2),
        lambda: AttentionPattern.preset("dense"),
    ):
        with pytest.raises(UsageError):
            call()


@given(layers=st.integers(1, 100))
def test_middle_third_is_the_definition(layers):
    n = round(layers / 3)
    plan = LayerPlan.make(layers)
    assert plan.full == tuple(range((layers - n) // 2, (layers - n) // 2 + n))
    assert sorted(plan.full + plan.sparse) == list(range(layers))
    assert all(plan.is_full(i) == (i in plan.full) for i in range(layers))


def test_layer_plan_forms_and_bytes():
    assert LayerPlan.make(32, 10).full == tuple(range(11, 21))
    assert LayerPlan.make(4, [3, 0, 3]).full == (0, 3)
    assert LayerPlan.make(4, 0).full == ()
    p, plan = AttentionPattern.sink_window(), LayerPlan.make(32, 10)
    assert round(plan.kv_reduction(p, 131072, 32), 3) == 0.677
    assert LayerPlan.make(32, 12).kv_reduction(p, 131072, 32) == pytest.approx(0.615, abs=1e-3)
    sizes = plan.kv_bytes(p, 1000, 8, 64, 2)
    assert sizes[11] == 2 * 1000 * 8 * 64 * 2
    assert sizes[0] == p.kv_bytes(1000, 8, 64, 2)
    assert LayerPlan.make(3, 3).kv_reduction(p, 1000, 8) == 0
    flops = plan.attention_flops(p, 5000, 8, 8, 64)
    assert flops[11] == 4 * 64 * 8 * 5000 * 5001 // 2
    assert flops[0] == p.attention_flops(5000, 8, 8, 64)


@pytest.mark.parametrize("bad", ["last-third", -1, 5, [4], [-1], True, [1.5]])
def test_layer_plans_outside_the_model_are_refused(bad):
    with pytest.raises(UsageError, match="full"):
        LayerPlan.make(4, bad)


def test_the_pattern_does_not_import_torch():
    code = "import sys, longreach.pattern as p; p.AttentionPattern().retained(9, 2); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
