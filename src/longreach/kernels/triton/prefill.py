"""Triton forward: one program per tile of queries and query head.

A program reads the permanent blocks first, then the window.

Keys and values come in two regions (far: permanent blocks; near: consecutive positions), which are
one and the same array when all keys are present, and two when a cache has freed the others
(COMPACT).

Shapes: B rows, Hq and Hkv heads, Tq queries, Tk keys, D head dim. Scores are kept in base 2.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from longreach.kernels.backend import Retained
from longreach.kernels.triton.blocks import (
    dot,
    dot_add,
    far_tokens,
    first_strided,
    key_range,
    load_rows,
    permanent_position,
    visible,
)
from longreach.kernels.triton.launch import launch, pattern_args, strides_of
from longreach.kernels.view import HeadView


@triton.jit
def _softmax_step(scores, v, acc, top, total, MASKED: tl.constexpr):
    """One step of the online softmax; rows that have seen nothing yet keep top = -inf."""
    new_top = tl.maximum(top, tl.max(scores, 1))
    safe = tl.where(new_top == float("-inf"), 0.0, new_top) if MASKED else new_top
    weights = tl.exp2(scores - safe[:, None])
    alpha = tl.exp2(top - safe)
    total = total * alpha + tl.sum(weights, 1)
    acc = acc * alpha[:, None]
    acc = dot_add(weights.to(v.dtype), v, acc)
    return acc, new_top, total


@triton.jit
def _window_steps(
    acc, top, total, q, q_pos, near_k, near_v, base, stride_k, stride_v, low, high, end, first, scale, d,
    D: tl.constexpr, SIZE: tl.constexpr, SINK: tl.constexpr, LOCAL: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The keys at positions [low, high) of the near region, whose slot 0 is position -base."""
    for n in range(low, high, BLOCK_N):
        k_pos = n + tl.arange(0, BLOCK_N)
        ok = k_pos < end
        k = load_rows(near_k, k_pos + base, stride_k, d, ok, D, BLOCK_D, MASKED)
        v = load_rows(near_v, k_pos + base, stride_v, d, ok, D, BLOCK_D, MASKED)
        scores = dot(q, tl.trans(k)) * scale
        if MASKED:
            seen = (
                visible(q_pos[:, None], k_pos[None, :], first, SIZE, SINK, LOCAL, STRIDE)
                & ok[None, :]
            )
            scores = tl.where(seen, scores, float("-inf"))
        acc, top, total = _softmax_step(scores, v, acc, top, total, MASKED)
    return acc, top, total


@triton.jit
def _forward_kernel(
    q_ptr, far_k, far_v, near_k, near_v, starts_ptr, out_ptr, lse_ptr,
    sqb, sqh, sqt, sfkb, sfkh, sfkt, sfvb, sfvh, sfvt, snkb, snkh, snkt, snvb, snvh, snvt, sob, soh, sot,
    q_first, near_start, tq, shift, scale,
    HQ: tl.constexpr, GROUPS: tl.constexpr, HAS_STARTS: tl.constexpr, COMPACT: tl.constexpr,
    STEP: tl.constexpr, SIZE: tl.constexpr, SINK: tl.constexpr, LOCAL: tl.constexpr, STRIDE: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # Late tiles see the most permanent blocks: start them first.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    # 64 bits: rows times strides overflow 32 in long batches.
    b = (tl.program_id(1) // HQ).to(tl.int64)
    h = tl.program_id(1) % HQ
    g = h // GROUPS
    start = tl.load(starts_ptr + b).to(tl.int32) if HAS_STARTS else 0
    # Positions count from the row's first real token: padding queries have negative ones.
    q_start = q_first - start
    end = q_start + tq
    # Tiles begin at multiples of their size, so that they cut as few of the pattern's blocks as
    # can be.
    m0 = tl.maximum(q_start, 0) // BLOCK_M * BLOCK_M + tile * BLOCK_M
    # A row with padding has fewer tiles than the grid.
    if m0 >= end:
        return
    d = tl.arange(0, BLOCK_D)
    q_pos = m0 + tl.arange(0, BLOCK_M)
    q_ok = (q_pos >= q_start) & (q_pos < end)
    q_row = q_pos - q_start
    q = load_rows(q_ptr + b * sqb + h * sqh, q_row, sqt, d, q_ok, D, BLOCK_D, True)
    far_k += b * sfkb + g * sfkh
    far_v += b * sfvb + g * sfvh
    near_k += b * snkb + g * snkh
    near_v += b * snvb + g * snvh
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    scale2 = scale * 1.4426950408889634

    first = first_strided(g, shift, STEP, SINK, STRIDE)
    # A tile may begin before the first query, whose window is all that is kept.
    i0 = tl.maximum(m0, q_start) // SIZE
    i1 = (tl.minimum(m0 + BLOCK_M, end) - 1) // SIZE
    # What is far for the first block of the tile is far for all of them. What only the later ones
    # have left behind is met in the window's staircase below.
    far = far_tokens(i0, first, SIZE, SINK, LOCAL, STRIDE)
    for c in range(0, far, BLOCK_N):
        index = c + tl.arange(0, BLOCK_N)
        ok = index < far
        slot = index if COMPACT else permanent_position(index, first, SIZE, SINK, STRIDE) + start
        RAGGED: tl.constexpr = SIZE % BLOCK_N != 0
        k = load_rows(far_k, slot, sfkt, d, ok, D, BLOCK_D, RAGGED)
        v = load_rows(far_v, slot, sfvt, d, ok, D, BLOCK_D, RAGGED)
        scores = dot(q, tl.trans(k)) * scale2
        if RAGGED:
            scores = tl.where(ok[None, :], scores, float("-inf"))
        acc, top, total = _softmax_step(scores, v, acc, top, total, False)

    base = start - near_start
    # Three loops, so that the inner one, which is most of the work, needs no mask.
    low, inner, outer, high = key_range(m0, end, i0, i1, LOCAL, SIZE, BLOCK_M, BLOCK_N)
    acc, top, total = _window_steps(
        acc, top, total, q, q_pos, near_k, near_v, base, snkt, snvt, low, tl.minimum(inner, high), end, first, scale2,
        d, D, SIZE, SINK, LOCAL, STRIDE, BLOCK_N, BLOCK_D, True,
    )  # fmt: skip
    acc, top, total = _window_steps(
        acc, top, total, q, q_pos, near_k, near_v, base, snkt, snvt, inner, outer, end, first, scale2,
        d, D, SIZE, SINK, LOCAL, STRIDE, BLOCK_N, BLOCK_D, False,
    )  # fmt: skip
    acc, top, total = _window_steps(
        acc, top, total, q, q_pos, near_k, near_v, base, snkt, snvt, outer, high, end, first, scale2,
        d, D, SIZE, SINK, LOCAL, STRIDE, BLOCK_N, BLOCK_D, True,
    )  # fmt: skip

    # A missing row has seen nothing: 0 / 0 would be NaN.
    total = tl.where(q_ok, total, 1.0)
    out = acc / total[:, None]
    out_rows = out_ptr + b * sob + h * soh + q_row.to(tl.int64)[:, None] * sot + d[None, :]
    tl.store(out_rows, out.to(out_ptr.dtype.element_ty), mask=q_ok[:, None] & (d[None, :] < D))
    lse = (top + tl.log2(total)) * 0.6931471805599453
    tl.store(lse_ptr + (b * HQ + h) * tq + q_row, lse, mask=q_ok)


_CONFIGS: list[dict[str, int]] = [
    {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3},
    {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3},
    {"BLOCK_M": 128, "BLOCK_N": 32, "num_warps": 4, "num_stages": 3},
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3},
    {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
]


def forward(
    q: Tensor,
    kept: Retained,
    view: HeadView,
    scale: float,
    *,
    q_first: int,
    near_start: int = 0,
    starts: Tensor | None = None,
    compact: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns the attention of consecutive queries.

    Args:
        q: [B, Hq, Tq, D].
        kept: Keys and values. `far` [B, Hkv, F, D] holds permanent blocks in order (compact), or is
            the same tensors as `near`; `near` [B, Hkv, N, D] holds positions `near_start` on.
        view: Which blocks each KV head sees.
        scale: Factor of the scores.
        q_first: Position of the first query in a row that starts at 0.
        near_start: Position of near's slot 0.
        starts: [B] first real slot of each row; only where not compact.
        compact: Whether far holds the permanent blocks alone.

    Returns:
        Output [B, Hq, Tq, D], zeros for padding, and logsumexp [B, Hq, Tq] in float32.
    """
    b, hq, tq, dim = q.shape
    # The kernel writes no padding query, and only rows with a start have some.
    make = torch.empty if starts is None else torch.zeros
    out = make(q.shape, dtype=q.dtype, device=q.device)
    lse = make((b, hq, tq), dtype=torch.float32, device=q.device)
    tensors = [q, *kept]
    launch(
        _forward_kernel,
        _CONFIGS,
        lambda meta: (triton.cdiv(tq, meta["BLOCK_M"]) + 1, b * hq),
        (*tensors, starts, out, lse),
        (*strides_of(*tensors, out), q_first, near_start, tq),
        pattern_args(view, scale)
        | {
            "HQ": hq,
            "GROUPS": hq // kept.near_k.shape[1],
            "HAS_STARTS": starts is not None,
            "COMPACT": compact,
            "D": dim,
            "BLOCK_D": max(16, triton.next_power_of_2(dim)),
        },
    )
    return out, lse
