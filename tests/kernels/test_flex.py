"""The block mask is the pattern, block by block, and its storage grows with blocks, not with their square."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longreach.errors import UsageError
from longreach.kernels import flex
from longreach.kernels.api import sparse_attention
from longreach.kernels.flex import block_mask
from longreach.pattern import AttentionPattern
from tests.kernels.cases import Case, cases, worst


def listed(counts, indices, h, row):
    return indices[0, h, row, : counts[0, h, row]].tolist()


@settings(max_examples=60, deadline=None)
@given(case=cases(longest=80), coarser=st.sampled_from([1, 2, 3, 8]))
def test_block_mask_is_the_pattern(case, coarser):
    p, size = case.p, case.p.block_size * coarser
    heads, groups = case.kv_heads, case.groups
    mask = block_mask(p, case.q_len, case.kv_len, heads * groups, heads, case.layer, tile=size)
    assert (size, size) == mask.BLOCK_SIZE
    dense = p.mask(case.q_len, case.kv_len, heads, case.layer).repeat_interleave(groups, 0)
    q, k = torch.arange(case.q_len)[:, None], torch.arange(case.kv_len)[None]
    for h in range(heads * groups):
        assert torch.equal(mask.mask_mod(torch.tensor(0), torch.tensor(h), q, k), dense[h])
    for h in range(mask.kv_indices.shape[1]):
        pairs = set()
        for i in range(-(-case.q_len // size)):
            full = listed(mask.full_kv_num_blocks, mask.full_kv_indices, h, i)
            part = listed(mask.kv_num_blocks, mask.kv_indices, h, i)
            for j in range(-(-case.kv_len // size)):
                tile = dense[h, i * size : (i + 1) * size, j * size : (j + 1) * size]
                assert tile.all() if j in full else bool(tile.any()) == (j in part)
            pairs |= {(i, j) for j in full + part}
        turned = {
            (i, j)
            for j in range(-(-case.kv_len // size))
            for counts, table in ((mask.q_num_blocks, mask.q_indices), (mask.full_q_num_blocks, mask.full_q_indices))
            for i in listed(counts, table, h, j)
        }
        assert pairs == turned


def test_tiles_are_those_of_the_device():
    pattern = AttentionPattern(64, 1, 4)
    assert [flex.tile_of(pattern, torch.device(device)) for device in ("cpu", "cuda")] == [64, 128]
    assert flex.tile_of(AttentionPattern(256), torch.device("cuda")) == 256
    with pytest.raises(UsageError, match="multiple"):
        block_mask(pattern, 100, 100, 1, 1, tile=96)


@pytest.mark.parametrize(
    ("tile", "dtype"),
    [(32, torch.float32), (128, torch.float32), (64, torch.bfloat16)],
)
@pytest.mark.slow
def test_any_tile_gives_the_same_within_the_error_of_naive_low_precision(tile, dtype):
    case = Case(AttentionPattern(32, 1, 2, 4), 1, 2, 2, 130, 200, 32, layer=1)
    q, k, v = (x.detach() for x in case.tensors(dtype))
    mask = block_mask(case.p, 130, 200, 4, 2, 1, backward=False, tile=tile)
    got = flex._compiled()(q, k, v, block_mask=mask, scale=32**-0.5, enable_gqa=True)
    want = sparse_attention(*(x.double() for x in (q, k, v)), case.p, 1, impl="reference")
    hidden = ~case.p.mask(130, 200, 2, 1).repeat_interleave(2, 0)
    scores = (q @ k.repeat_interleave(2, 1).transpose(-1, -2) * 32**-0.5).masked_fill(hidden, float("-inf"))
    naive = scores.softmax(-1) @ v.repeat_interleave(2, 1)
    error, budget = worst([got, naive], [want, want])
    assert error <= budget + torch.finfo(dtype).eps * 4


def test_long_masks_are_small():
    mask = block_mask(AttentionPattern.strided(), 131072, 131072, 8, 8, backward=False)
    assert mask.full_kv_indices.untyped_storage().nbytes() < 4 * 8 * 2048 * 33


@pytest.mark.parametrize("starts", [pytest.param(None, marks=pytest.mark.slow), [0, 130]])
def test_flex_is_the_reference(starts):
    case = Case(AttentionPattern(32, 1, 2, 4), 2, 2, 2, 130, 200, 32, layer=1, starts=starts)
    q, k, v = (x.detach() for x in case.tensors())
    first = None if starts is None else torch.tensor(starts)
    got = sparse_attention(q, k, v, case.p, 1, impl="flex", starts=first)
    want = sparse_attention(q, k, v, case.p, 1, impl="reference", starts=first)
    assert max(worst([got], [want])) < 1e-5


def test_block_masks_are_made_once_for_all_layers_that_see_the_same(monkeypatch):
    made = []
    monkeypatch.setattr(flex, "_compiled", lambda: lambda q, k, v, block_mask, **options: made.append(block_mask) or q)
    q = torch.zeros(1, 2, 70, 8)
    for pattern in (AttentionPattern(8, 1, 2, 0), AttentionPattern(8, 1, 2, 3)):
        for layer in (0, 1, 0):
            sparse_attention(q, q, q, pattern, layer, impl="flex")
    alike, strided = made[:3], made[3:]
    assert alike[0] is alike[1] is alike[2] and strided[0] is strided[2] is not strided[1]
    sparse_attention(q[:, :, :9], q, q, AttentionPattern(8, 1, 2, 0), impl="flex")
    with torch.inference_mode():  # what is made here may not be saved for a backward pass
        sparse_attention(q, q, q, AttentionPattern(8, 1, 2, 0), impl="flex")
    assert made[-2] is not alike[0] and made[-1] is not alike[0]
