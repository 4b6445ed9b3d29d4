"""The cache of a sparse layer: equal to keeping everything, no larger than the pattern says, restorable or refused."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longreach.caches.retained import RetainedCache, RetainedLayer
from longreach.caches.static import StaticRetainedLayer
from longreach.errors import UsageError
from longreach.kernels.api import sparse_attention
from longreach.pattern import AttentionPattern, LayerPlan
from tests.kernels.cases import device_of, needs_triton

HEADS, GROUPS, DIM, LAYER = 2, 2, 8, 1


@st.composite
def patterns(draw):
    return AttentionPattern(
        draw(st.sampled_from([1, 4, 8])), draw(st.integers(0, 2)), draw(st.integers(1, 4)), draw(st.integers(0, 4))
    )


def tensors(rows, tokens, seed=0):
    torch.manual_seed(seed)
    return (
        torch.randn(rows, HEADS * GROUPS, tokens, DIM),
        torch.randn(rows, HEADS, tokens, DIM),
        torch.randn(rows, HEADS, tokens, DIM),
    )


def oracle(q, k, v, p):
    return sparse_attention(q, k, v, p, LAYER, impl="reference")


def allocated(layer):
    """Bytes of the storages, whatever views lie on them."""
    kept = (layer.keys, layer.values, layer.far_keys, layer.far_values)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept)


def expected(p, length, rows=1):
    """The pattern's arithmetic in whole blocks, the fullest head counting for all."""
    far = max(p.far_count(length // p.block_size, head, HEADS, LAYER) for head in range(HEADS))
    return 2 * rows * HEADS * DIM * 4 * p.block_size * (far + min(p.blocks(length), p.local_blocks))


def chunks_of(data, tokens):
    left = tokens
    while left:
        size = data.draw(st.sampled_from([1, 1, 2, 3, 7, 17, 40]).filter(lambda n, left=left: n <= left))
        yield size
        left -= size


@settings(max_examples=80, deadline=None)
@given(p=patterns(), data=st.data(), tokens=st.integers(1, 90))
def test_chunks_are_the_whole_and_the_bytes_are_the_patterns(p, data, tokens):
    q, k, v = tensors(2, tokens)
    want = oracle(q, k, v, p)
    layer, at = RetainedLayer(p, LAYER), 0
    for size in chunks_of(data, tokens):
        part = slice(at, at + size)
        got = layer.attend(q[:, :, part], k[:, :, part], v[:, :, part])
        at += size
        torch.testing.assert_close(got, want[:, :, part], atol=1e-5, rtol=1e-4)
        assert allocated(layer) == expected(p, at, rows=2)
        assert layer.get_seq_length() == at and layer.get_mask_sizes(3) == (at + 3, 0)
        exact = 2 * p.kv_bytes(at, HEADS, DIM, 4, LAYER)
        assert 0 <= allocated(layer) - exact <= 2 * 2 * HEADS * DIM * 4 * p.block_size * (2 if p.stride else 1)


@settings(max_examples=60, deadline=None)
@given(p=patterns(), data=st.data())
def test_rows_of_unlike_lengths_do_not_see_each_other(p, data):
    # Each step brings each row a number of real tokens, the rest is padding behind them.
    steps = data.draw(st.lists(st.tuples(*[st.integers(0, 12)] * 3), min_size=1, max_size=8))
    steps += [(1, 1, 1)] * data.draw(st.integers(0, 10))
    totals = [sum(step[b] for step in steps) for b in range(3)]
    q, k, v = tensors(3, max(1, *totals))
    layer, seen = RetainedLayer(p, LAYER), [0, 0, 0]
    for step in steps:
        width = max(step)
        if width == 0:
            continue
        new = [torch.full((3, x.shape[1], width, DIM), 9.0) for x in (q, k, v)]
        for b, count in enumerate(step):
            for target, source in zip(new, (q, k, v), strict=True):
                target[b, :, :count] = source[b, :, seen[b] : seen[b] + count]
        got = layer.attend(*new, counts=step, sure=0)
        for b, count in enumerate(step):
            begin, seen[b] = seen[b], seen[b] + count
            if count:
                row = slice(b, b + 1)
                want = oracle(q[row, :, begin : seen[b]], k[row, :, : seen[b]], v[row, :, : seen[b]], p)
                torch.testing.assert_close(got[row, :, :count], want, atol=1e-5, rtol=1e-4)
        assert layer.lengths == seen


@settings(max_examples=60, deadline=None)
@given(p=patterns(), data=st.data(), tokens=st.integers(1, 70))
def test_cropping_restores_or_refuses(p, data, tokens):
    q, k, v = tensors(1, 200)
    layer = RetainedLayer(p, LAYER)
    layer.attend(q[:, :, :tokens], k[:, :, :tokens], v[:, :, :tokens])
    length = tokens
    if data.draw(st.booleans()):
        layer.activate_past_recording()
    for _ in range(data.draw(st.integers(1, 4))):
        for size in data.draw(st.lists(st.integers(1, 9), max_size=3)):
            part = slice(length, length + size)
            got = layer.attend(q[:, :, part], k[:, :, part], v[:, :, part])
            length += size
            want = oracle(q[:, :, part], k[:, :, :length], v[:, :, :length], p)
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
        recorded = length - layer.committed[0] if layer.record_past else 0
        remove = data.draw(st.integers(0, min(length, recorded + 5)))
        before = copy.deepcopy(vars(layer))
        try:
            layer.crop(torch.tensor(-remove) if data.draw(st.booleans()) else -remove)
        except UsageError:
            assert remove > recorded
            assert layer.lengths == before["lengths"] and torch.equal(layer.keys, before["keys"])
            continue
        length -= remove
        assert layer.get_seq_length() == length and type(layer.slots) is int
    part = slice(length, length + 5)
    got = layer.attend(q[:, :, part], k[:, :, part], v[:, :, part])
    want = oracle(q[:, :, part], k[:, :, : length + 5], v[:, :, : length + 5], p)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(p=patterns(), data=st.data(), tokens=st.integers(1, 90))
def test_a_static_layer_is_the_whole_and_never_moves(p, data, tokens):
    q, k, v = tensors(2, tokens)
    want = oracle(q, k, v, p)
    layer, at, places = StaticRetainedLayer(p, LAYER, tokens), 0, set()
    for _ in range(2):
        for size in [*chunks_of(data, max(1, tokens // 2)), *[1] * (tokens - max(1, tokens // 2))]:
            part = slice(at, at + size)
            got = layer.attend(q[:, :, part], k[:, :, part], v[:, :, part])
            at += size
            torch.testing.assert_close(got, want[:, :, part], atol=1e-5, rtol=1e-4)
            places.add(tuple(x.data_ptr() for x in (layer.keys, layer.values, layer.far_keys, layer.lengths)))
        assert int(layer.get_seq_length()) == tokens and len(places) == 1
        with pytest.raises(UsageError, match=f"static cache of {tokens}"):
            layer.attend(q[:, :, :1], k[:, :, :1], v[:, :, :1])
        layer.reset()
        at = 0


@needs_triton
def test_drafts_for_many_query_heads_are_read_as_a_chunk():
    # Ten queries of eight heads on one KV head are more rows than the decode kernel takes.
    p, device = AttentionPattern(4, 1, 2, 3), device_of("triton")
    q, k, v = (torch.randn(1, heads, 60, 16, device=device) for heads in (8, 1, 1))
    layer = RetainedLayer(p, 0)
    layer.activate_past_recording()
    layer.attend(q[:, :, :45], k[:, :, :45], v[:, :, :45])
    got = layer.attend(q[:, :, 45:55], k[:, :, 45:55], v[:, :, 45:55], impl="triton")
    want = sparse_attention(q[:, :, 45:55], k[:, :, :55], v[:, :, :55], p, impl="reference")
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_recording_ends_with_its_memory():
    p = AttentionPattern(4, 1, 2)
    q, k, v = tensors(1, 80)
    layer = RetainedLayer(p, LAYER)
    layer.activate_past_recording()
    layer.attend(q[:, :, :60], k[:, :, :60], v[:, :, :60])
    assert layer.keys.shape[2] >= 60
    layer.crop(-7)
    assert layer.keys.shape[2] == p.window_tokens + 8  # room for drafts
    layer.record_past = False
    layer.attend(q[:, :, 53:54], k[:, :, 53:54], v[:, :, 53:54])
    assert allocated(layer) == expected(p, 54)


def test_rows_are_chosen_repeated_and_reordered():
    p = AttentionPattern(4, 1, 2, 2)
    q, k, v = tensors(3, 60)
    layer = RetainedLayer(p, LAYER)
    layer.attend(q[:, :, :50], k[:, :, :50], v[:, :, :50], counts=[50, 31, 44], sure=31)
    for rows, change in (
        ([2, 0], lambda x: x.batch_select_indices(torch.tensor([2, 0]))),
        ([1], lambda x: x.batch_select_indices(torch.tensor([False, True, False]))),
        ([0, 0, 1, 1, 2, 2], lambda x: x.batch_repeat_interleave(2)),
        ([1, 1, 0], lambda x: x.reorder_cache(torch.tensor([1, 1, 0]))),
    ):
        other = copy.deepcopy(layer)
        change(other)
        got = other.attend(q[rows, :, 50:51], k[rows, :, 50:51], v[rows, :, 50:51])
        for at, b in enumerate(rows):
            n = [50, 31, 44][b]
            keys, values = (torch.cat([x[b : b + 1, :, :n], x[b : b + 1, :, 50:51]], 2) for x in (k, v))
            want = oracle(q[b : b + 1, :, 50:51], keys, values, p)
            torch.testing.assert_close(got[at : at + 1], want, atol=1e-5, rtol=1e-4)


def test_a_copy_and_a_reset_are_independent():
    p = AttentionPattern(4, 1, 2)
    q, k, v = tensors(1, 40)
    cache = RetainedCache(p, LayerPlan(2, (0,)))
    layer = cache.layers[1]
    layer.attend(q[:, :, :30], k[:, :, :30], v[:, :, :30])
    other = copy.deepcopy(layer)
    layer.attend(q[:, :, 30:], k[:, :, 30:], v[:, :, 30:])
    assert other.get_seq_length() == 30
    cache.reset()
    assert layer.get_seq_length() == 0 and layer.keys is None
    torch.testing.assert_close(layer.attend(q, k, v), oracle(q, k, v, p))


def test_misuse_is_refused():
    p = AttentionPattern(4, 1, 2)
    q, k, v = tensors(2, 40)
    cache = RetainedCache(p, LayerPlan(2, (0,)))
    layer = cache.layers[1]
    cache.update(k, v, 0)
    layer.attend(q, k, v)
    for call, word in (
        (lambda: cache.update(k, v, 1), "hybrid model"),
        (lambda: cache.crop(-20), "freed"),
        (lambda: cache.crop(3), "minus"),
        (lambda: layer.attend(q[:1], k[:1], v[:1]), "2 rows"),
    ):
        with pytest.raises(UsageError, match=word):
            call()
    assert cache.layers[0].get_seq_length() == 40  # a refused crop leaves the full layers alone as well
    other = RetainedLayer(p, LAYER)
    other.attend(q[:, :, :6], k[:, :, :6], v[:, :, :6], counts=[6, 3], sure=0)
    with pytest.raises(UsageError, match="without padding"):
        other.crop(-1)
