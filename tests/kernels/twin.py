"""A kernel that writes down what the functions of `kernels/triton/blocks.py` say; only imported where triton is."""

import triton
import triton.language as tl

from longreach.kernels.triton.blocks import (
    far_tokens,
    first_strided,
    in_window,
    is_permanent,
    permanent_index,
    permanent_position,
    visible,
)


@triton.jit
def visibility_kernel(
    visible_ptr, window_ptr, permanent_ptr, index_ptr, position_ptr, far_ptr, shift,
    STEP: tl.constexpr, SIZE: tl.constexpr, SINK: tl.constexpr, LOCAL: tl.constexpr, STRIDE: tl.constexpr,
    TOKENS: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    first = first_strided(head, shift, STEP, SINK, STRIDE)
    q = tl.arange(0, TOKENS)[:, None]
    k = tl.arange(0, TOKENS)[None, :]
    one = tl.arange(0, TOKENS)
    pairs = q * TOKENS + k
    seen = visible(q, k, first, SIZE, SINK, LOCAL, STRIDE)
    tl.store(visible_ptr + head * TOKENS * TOKENS + pairs, seen.to(tl.int32))
    tl.store(window_ptr + pairs, in_window(q, k, SIZE, LOCAL).to(tl.int32))
    tl.store(permanent_ptr + head * TOKENS + one, is_permanent(one, first, SIZE, SINK, STRIDE).to(tl.int32))
    tl.store(index_ptr + head * TOKENS + one, permanent_index(one, first, SIZE, SINK, STRIDE))
    tl.store(position_ptr + head * TOKENS + one, permanent_position(one, first, SIZE, SINK, STRIDE))
    tl.store(far_ptr + head * TOKENS + one, far_tokens(one // SIZE, first, SIZE, SINK, LOCAL, STRIDE))
