"""The Triton kernels repeat the pattern's arithmetic in their own language: it gives the same numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longreach.kernels.view import HeadView
from longreach.pattern import AttentionPattern
from tests.kernels.cases import HAS_TRITON, TRITON_DEVICE, needs_triton

if HAS_TRITON:
    from tests.kernels.twin import visibility_kernel

TOKENS = 64


@pytest.fixture(scope="module")
def pattern_args():
    from longreach.kernels.triton.launch import pattern_args

    return pattern_args


@needs_triton
@settings(max_examples=15, deadline=None)
@given(
    p=st.builds(
        AttentionPattern,
        block_size=st.sampled_from([1, 4, 8]),
        sink_blocks=st.integers(0, 3),
        local_blocks=st.integers(1, 5),
        stride=st.integers(0, 9),
    ),
    heads=st.integers(1, 3),
    layer=st.integers(0, 40),
    first=st.integers(0, 2),
)
def test_the_triton_twin_is_the_formula(pattern_args, p, heads, layer, first):
    view = HeadView(p, layer, first, first + heads)
    arguments = pattern_args(view, 1.0)
    named = {name: arguments[name] for name in ("shift", "STEP", "SIZE", "SINK", "LOCAL", "STRIDE")}
    visible = torch.zeros(heads, TOKENS, TOKENS, dtype=torch.int32, device=TRITON_DEVICE)
    window = torch.zeros(TOKENS, TOKENS, dtype=torch.int32, device=TRITON_DEVICE)
    permanent, index, position, far = (
        torch.zeros(heads, TOKENS, dtype=torch.int32, device=TRITON_DEVICE) for _ in range(4)
    )
    visibility_kernel[(heads,)](visible, window, permanent, index, position, far, **named, TOKENS=TOKENS)

    at = torch.arange(TOKENS)
    assert torch.equal(visible.cpu().bool(), view.mask(at, at, heads))
    for q in range(TOKENS):
        for k in range(q + 1):
            near = p.local_start(q // p.block_size) * p.block_size <= k
            assert bool(window[q, k]) == near, (q, k)
    for head in range(heads):
        of = (first + head, view.total_heads, layer)
        tokens = [k for k in range(TOKENS) if p.is_permanent(k // p.block_size, *of)]
        assert permanent[head].nonzero().flatten().tolist() == tokens
        assert [int(index[head, k]) for k in tokens] == list(range(len(tokens)))
        assert position[head, : len(tokens)].tolist() == tokens
        counts = [view.far_count(q // p.block_size, head) * p.block_size for q in range(TOKENS)]
        assert far[head].tolist() == counts
