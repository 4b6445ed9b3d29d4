"""A cache that holds only what the pattern retains: enough, no more, and equal to keeping everything."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longreach.errors import UsageError
from longreach.kernels.api import Retained, chunk_attention, decode_attention, sparse_attention, store_token
from longreach.pattern import AttentionPattern
from tests.kernels.cases import OWN, Case, cases, device_of, keep, needs_triton, worst


def check_decode(impl, case, q_len, lengths):
    device = device_of(impl)
    q, k, v = (x.detach() for x in case._replace(starts=None).tensors(device=device))
    q = q[:, :, :q_len]
    ring = case.p.window_tokens + q_len - 1 + 3
    kept = keep(k, v, case, lengths, ring, chunk=q_len)
    got = decode_attention(
        q, kept, case.p, torch.tensor(lengths, device=device), case.layer, impl=impl, heads=case.heads
    )
    for b, length in enumerate(lengths):
        one = (x[b : b + 1, :, :length] for x in (q, k, v))
        want = sparse_attention(*one, case.p, case.layer, impl="reference", heads=case.heads)
        assert max(worst([got[b : b + 1]], [want])) < 1e-5


def draw_lengths(data, case):
    q_len = data.draw(st.integers(1, min(4, case.q_len)))
    lengths = st.lists(st.integers(q_len, case.kv_len), min_size=case.rows, max_size=case.rows)
    return q_len, data.draw(lengths)


@settings(max_examples=60, deadline=None)
@given(case=cases(longest=100), data=st.data())
def test_decoding_on_a_cpu_is_the_reference(case, data):
    check_decode("cpu", case, *draw_lengths(data, case))


@needs_triton
@settings(max_examples=10, deadline=None)
@given(case=cases(longest=100, most=2), data=st.data())
def test_decoding_with_triton_is_the_reference(case, data):
    check_decode("triton", case, *draw_lengths(data, case))


@pytest.mark.parametrize("impl", OWN)
def test_decoding_over_a_block_boundary(impl):
    # A permanent block leaves the window between the first and the last of the four queries.
    case = Case(AttentionPattern(16, 1, 2, 2), 2, 2, 2, 4, 70, 16)
    check_decode(impl, case, 4, [66, 34])


def guarded(x):
    """The same numbers between others that must not be read."""
    wide = x.new_full((*x.shape[:2], 3 * x.shape[2] + 400, x.shape[3]), float("nan"))
    inside = wide[:, :, 200 + x.shape[2] : 200 + 2 * x.shape[2]]
    return inside.copy_(x)


def check_chunk(impl, case, start, length):
    p, layer = case.p, case.layer
    q, k, v = (x.detach() for x in case.tensors(device=device_of(impl)))
    near = p.local_start(start // p.block_size) * p.block_size
    kept = keep(k, v, case, [length] * case.rows, case.kv_len + 50, chunk=length - start)._replace(
        near_k=guarded(k[:, :, near:length]), near_v=guarded(v[:, :, near:length])
    )
    got = chunk_attention(q[:, :, start:length], kept, p, length, layer, impl=impl, heads=case.heads)
    all_keys = (x[:, :, :length] for x in (k, v))
    want = sparse_attention(q[:, :, start:length], *all_keys, p, layer, impl="reference", heads=case.heads)
    assert max(worst([got], [want])) < 1e-5


@pytest.mark.parametrize("impl", OWN)
@pytest.mark.parametrize("chunk", [(0, 70), (70, 150), (150, 151), (64, 128)])
def test_chunks_over_a_cache_are_the_whole(impl, chunk):
    check_chunk(impl, Case(AttentionPattern(16, 1, 2, 3), 2, 2, 2, 151, 151, 16, layer=1), *chunk)


def draw_chunk(data, case):
    case = case._replace(starts=None, q_len=case.kv_len)
    start = data.draw(st.integers(0, case.kv_len - 1))
    return case, start, data.draw(st.integers(start + 1, case.kv_len))


@settings(max_examples=60, deadline=None)
@given(case=cases(longest=100), data=st.data())
def test_any_chunk_on_a_cpu_is_the_reference(case, data):
    check_chunk("cpu", *draw_chunk(data, case))


@needs_triton
@settings(max_examples=12, deadline=None)
@given(case=cases(longest=100, most=2), data=st.data())
def test_any_chunk_with_triton_is_the_reference(case, data):
    check_chunk("triton", *draw_chunk(data, case))


@settings(max_examples=40, deadline=None)
@given(case=cases(longest=100), data=st.data())
def test_retained_keys_are_sufficient_and_minimal(case, data):
    length = data.draw(st.integers(0, case.kv_len - 1))
    p, heads = case.p, case.kv_heads
    q, k, v = (x.detach() for x in case._replace(starts=None, q_len=case.kv_len).tensors())
    kept = p.retained(length, heads, case.layer)
    later = q[:, :, length:]
    before = sparse_attention(later, k, v, p, case.layer, impl="cpu")
    other_k, other_v = k.clone(), v.clone()
    for g in range(heads):
        freed = sorted(set(range(length)) - set(kept[g]))
        other_k[:, g, freed], other_v[:, g, freed] = 1e4, -1e4
    assert torch.equal(sparse_attention(later, other_k, other_v, p, case.layer, impl="cpu"), before)
    for g in range(heads):
        if kept[g]:
            changed = v.clone()
            changed[:, g, data.draw(st.sampled_from(kept[g]))] += 100
            after = sparse_attention(later, k, changed, p, case.layer, impl="cpu")
            groups = slice(g * case.groups, (g + 1) * case.groups)
            assert not torch.allclose(after[:, groups], before[:, groups])


@needs_triton
@settings(max_examples=12, deadline=None)
@given(case=cases(longest=60, most=2), data=st.data())
def test_tokens_are_stored_where_decoding_reads_them(case, data):
    p, heads, rows = case.p, case.kv_heads, case.rows
    q, k, v = (x.detach() for x in case._replace(starts=None, q_len=case.kv_len).tensors())
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, case.kv_len), min_size=rows, max_size=rows)))
    far = (p.blocks(case.kv_len) + 1) * p.block_size
    made = []
    for impl in ("cpu", "triton"):
        kept = Retained(
            *(k.new_full((rows, heads, n, case.dim), float("nan")) for n in [far] * 2 + [p.window_tokens] * 2)
        )
        kept = Retained(*(x.to(device_of(impl)) for x in kept))
        # All rows write their first tokens again and again until the longest one is there.
        for step in range(int(lengths.max())):
            so_far = lengths.clamp(max=step + 1).to(device_of(impl))
            one = [torch.stack([x[b, :, n - 1 : n] for b, n in enumerate(so_far.tolist())]) for x in (k, v)]
            store_token(*(x.to(device_of(impl)) for x in one), kept, p, so_far, case.layer, impl, heads=case.heads)
        made.append(kept)
        last = torch.stack([q[b, :, n - 1 : n] for b, n in enumerate(lengths.tolist())]).to(device_of(impl))
        got = decode_attention(last, kept, p, so_far, case.layer, impl=impl, heads=case.heads)
        for b, n in enumerate(lengths.tolist()):
            one = (q[b : b + 1, :, n - 1 : n], k[b : b + 1, :, :n], v[b : b + 1, :, :n])
            want = sparse_attention(*one, p, case.layer, impl="reference", heads=case.heads)
            assert max(worst([got[b : b + 1]], [want])) < 1e-5
    for a, b in zip(*made, strict=True):  # all but the block that nobody reads
        a, b = (x[:, :, : -p.block_size] if x.shape[2] == far else x for x in (a, b.cpu()))
        torch.testing.assert_close(a, b, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("impl", OWN)
def test_error_over_a_cache_is_within_that_of_naive_low_precision(impl, dtype):
    case = Case(AttentionPattern(16, 1, 3, 4), 2, 2, 2, 150, 150, 64, layer=1)
    device = device_of(impl)
    q, k, v = (x.detach() for x in case.tensors(dtype))
    scores = q @ k.repeat_interleave(2, 1).transpose(-1, -2) / 8
    hidden = ~case.p.mask(150, 150, 2, 1).repeat_interleave(2, 0)
    naive = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v.repeat_interleave(2, 1)
    want = sparse_attention(*(x.double() for x in (q, k, v)), case.p, 1, impl="reference")
    kept = Retained(*(x.to(device) for x in keep(k, v, case, [150, 150], 200)))
    lengths = torch.tensor([150, 150], device=device)
    decoded = decode_attention(q[:, :, -1:].to(device), kept, case.p, lengths, 1, impl=impl).cpu()
    near = case.p.local_start(70 // 16) * 16
    far = keep(k, v, case, [150, 150], 200, chunk=80)[:2]
    kept = Retained(*(x.to(device) for x in (*far, k[:, :, near:], v[:, :, near:])))
    chunk = chunk_attention(q[:, :, 70:].to(device), kept, case.p, 150, 1, impl=impl).cpu()
    # Triton's interpreter cuts bfloat16 off instead of rounding it: a whole unit in the last place, not half.
    cut = dtype == torch.bfloat16 and impl == "triton" and device == "cpu"
    for got, part in ((decoded, slice(149, 150)), (chunk, slice(70, 150))):
        error, budget = worst([got, naive[:, :, part]], [want[:, :, part]] * 2)
        assert error <= budget + torch.finfo(dtype).eps * (1 if cut else 0.5)


def test_bad_caches_are_refused():
    p = AttentionPattern(16, 1, 2)
    q, far, near = torch.zeros(2, 4, 3, 8), torch.zeros(2, 2, 16, 8), torch.zeros(2, 2, 40, 8)
    one = torch.zeros(2, 2, 1, 8)
    kept, lengths = Retained(far, far, near, near), torch.tensor([50, 60])
    decode_attention(q, kept, p, lengths)
    for call, word in (
        (lambda: decode_attention(q, kept._replace(near_k=near[:, :, 8:], near_v=near[:, :, 8:]), p, lengths), "34"),
        (lambda: decode_attention(q, kept, p, lengths[:1]), "2 whole numbers"),
        (lambda: decode_attention(q, kept, p, lengths, impl="reference"), "compact cache"),
        (lambda: decode_attention(q, kept._replace(far_k=far[:1], far_v=far[:1]), p, lengths), "rows"),
        (lambda: decode_attention(q, kept._replace(far_k=far[:, :, 1:], far_v=far[:, :, 1:]), p, lengths), "far holds"),
        (lambda: store_token(near, near, kept, p, lengths), "one token"),
        (lambda: store_token(one, one, kept, p, lengths[:1]), "one length"),
        (lambda: store_token(one, one[..., 1:], kept, p, lengths), "one shape"),
        (lambda: chunk_attention(q, kept, p, 50), "block boundary"),
        (lambda: chunk_attention(q, kept._replace(far_k=far[:, :, 1:], far_v=far[:, :, 1:]), p, 56), "far holds"),
    ):
        with pytest.raises(UsageError, match=word):
            call()
