"""Triton decode (split-K): queries are few, so their keys are split over programs.

A second kernel combines the parts. A row's keys are one virtual list: the permanent blocks outside the last query's window, then the
positions from the first query's window on. Every split takes an equal share of it, whatever the
length of the row, so one launch (and one CUDA graph) serves a ragged batch and a growing cache.
Lengths are read on the device.

Shapes: B rows, Hq and Hkv heads, Tq queries (few), D head dim, M = Hq / Hkv * Tq rows of scores, S
splits.
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
    load_rows,
    permanent_position,
)
from longreach.kernels.triton.launch import launch, pattern_args, strides_of
from longreach.kernels.view import HeadView

MAX_ROWS = 64  # of one program: query heads of a KV head times queries


@triton.jit
def _split_kernel(
    q_ptr, far_k, far_v, near_k, near_v, starts_ptr, lengths_ptr, part_ptr, lse_ptr,
    sqb, sqh, sqt, sfkb, sfkh, sfkt, sfvb, sfvh, sfvt, snkb, snkh, snkt, snvb, snvh, snvt,
    tk, capacity, splits, shift, scale, local,
    HKV: tl.constexpr, GROUPS: tl.constexpr, TQ: tl.constexpr, HAS_STARTS: tl.constexpr, COMPACT: tl.constexpr,
    STEP: tl.constexpr, SIZE: tl.constexpr, SINK: tl.constexpr, STRIDE: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(0)
    b = (tl.program_id(1) // HKV).to(tl.int64)
    g = tl.program_id(1) % HKV
    start = tl.load(starts_ptr + b).to(tl.int32) if HAS_STARTS else 0
    end = tl.load(lengths_ptr + b).to(tl.int32) if COMPACT else tk - start
    d = tl.arange(0, BLOCK_D)
    row = tl.arange(0, ROWS)
    q_pos = end - TQ + row % TQ
    row_ok = (row < GROUPS * TQ) & (q_pos >= 0)
    head = g * GROUPS + row // TQ
    q_rows = (
        q_ptr + b * sqb + head.to(tl.int64)[:, None] * sqh + (row % TQ)[:, None] * sqt + d[None, :]
    )
    q = tl.load(q_rows, mask=row_ok[:, None] & (d[None, :] < D), other=0.0)
    far_k += b * sfkb + g * sfkh
    far_v += b * sfvb + g * sfvh
    near_k += b * snkb + g * snkh
    near_v += b * snvb + g * snvh

    first = first_strided(g, shift, STEP, SINK, STRIDE)
    far = far_tokens((end - 1) // SIZE, first, SIZE, SINK, local, STRIDE)
    low = tl.maximum(tl.maximum(end - TQ, 0) // SIZE - local + 1, 0) * SIZE
    # Shares are whole tiles: only the last one of all is ragged.
    tiles = (far + end - low + BLOCK_N - 1) // BLOCK_N
    share = (tiles + splits - 1) // splits * BLOCK_N
    stop = tl.minimum(split * share + share, far + end - low)

    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for c in range(split * share, stop, BLOCK_N):
        index = c + tl.arange(0, BLOCK_N)
        is_far = index < far
        k_pos = tl.where(
            is_far, permanent_position(index, first, SIZE, SINK, STRIDE), low + index - far
        )
        ok = index < stop
        if COMPACT:
            # One load for both regions, the near one being a ring: a load under an `if` would not
            # be started ahead.
            slot = tl.where(is_far, index, k_pos % capacity).to(tl.int64)
            k_rows = tl.where(is_far, far_k + slot * sfkt, near_k + slot * snkt)
            v_rows = tl.where(is_far, far_v + slot * sfvt, near_v + slot * snvt)
            inside = ok[:, None] & (d[None, :] < D)
            k = tl.load(k_rows[:, None] + d[None, :], mask=inside, other=0.0)
            v = tl.load(v_rows[:, None] + d[None, :], mask=inside, other=0.0)
        else:
            k = load_rows(near_k, k_pos + start, snkt, d, ok, D, BLOCK_D, True)
            v = load_rows(near_v, k_pos + start, snvt, d, ok, D, BLOCK_D, True)
        scores = dot(q, tl.trans(k)) * (scale * 1.4426950408889634)
        # A permanent block that leaves the window between two of the queries is in both lists, each
        # query in one.
        window = q_pos[:, None] // SIZE - k_pos[None, :] // SIZE < local
        seen = ok[None, :] & (k_pos[None, :] <= q_pos[:, None]) & (window != is_far[None, :])
        scores = tl.where(seen, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        safe = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores - safe[:, None])
        alpha = tl.exp2(top - safe)
        total = total * alpha + tl.sum(weights, 1)
        acc = dot_add(weights.to(v.dtype), v, acc * alpha[:, None])
        top = new_top

    # A split may see nothing: short rows have fewer tiles than splits. It then weighs nothing.
    out = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    lse = tl.where(total == 0.0, float("-inf"), top + tl.log2(tl.where(total == 0.0, 1.0, total)))
    slot = (tl.program_id(1).to(tl.int64) * splits + split) * ROWS + row
    tl.store(part_ptr + slot[:, None] * BLOCK_D + d[None, :], out)
    tl.store(lse_ptr + slot, lse)


@triton.jit
def _combine_kernel(
    part_ptr, part_lse_ptr, out_ptr, lse_ptr, sob, soh, sot, splits,
    HKV: tl.constexpr, GROUPS: tl.constexpr, TQ: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    pair = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    s = tl.arange(0, BLOCK_S)
    slot = (pair * splits + s) * ROWS + row
    lse = tl.load(part_lse_ptr + slot, mask=s < splits, other=float("-inf"))
    top = tl.max(lse, 0)
    # Of a row of padding no split has seen anything: -inf less -inf would be NaN.
    top = tl.where(top == float("-inf"), 0.0, top)
    weights = tl.exp2(lse - top)
    total = tl.sum(weights, 0)
    parts = tl.load(
        part_ptr + slot[:, None] * BLOCK_D + d[None, :], mask=(s < splits)[:, None], other=0.0
    )
    out = tl.sum(parts * weights[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    head = pair % HKV * GROUPS + row // TQ
    b = pair // HKV
    tl.store(
        out_ptr + b * sob + head * soh + row % TQ * sot + d,
        out.to(out_ptr.dtype.element_ty),
        mask=d < D,
    )
    natural = (top + tl.log2(tl.where(total == 0.0, 1.0, total))) * 0.6931471805599453
    tl.store(lse_ptr + (b * HKV * GROUPS + head) * TQ + row % TQ, natural)


_CONFIGS = [
    {"BLOCK_N": 64, "num_warps": 4, "num_stages": 3},
    {"BLOCK_N": 128, "num_warps": 4, "num_stages": 2},
    {"BLOCK_N": 32, "num_warps": 2, "num_stages": 3},
]


def decode(
    q: Tensor,
    kept: Retained,
    view: HeadView,
    scale: float,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the attention of the last few positions.

    Args:
        q: [B, Hq, Tq, D] with Hq / Hkv * Tq <= MAX_ROWS.
        kept: Keys and values. `far` [B, Hkv, F, D] holds permanent blocks in order, or is the same
            tensors as `near` where all are present; `near` [B, Hkv, R, D] is a ring, position p at
            slot p % R, or holds all positions.
        view: Which blocks each KV head sees.
        scale: Factor of the scores.
        lengths: [B] tokens so far, the queries included: the two regions are a compact cache. None:
            near is complete.
        starts: [B] first real slot of each row; only where near is complete.
        splits: Programs that share a row and KV head; None to fill the device.

    Returns:
        Output [B, Hq, Tq, D], zeros for padding, and logsumexp [B, Hq, Tq] in float32.
    """
    b, hq, tq, dim = q.shape
    hkv, capacity = kept.near_k.shape[1:3]
    rows = max(16, triton.next_power_of_2(hq // hkv * tq))
    if splits is None:
        # An upper bound from shapes and the pattern alone, so that a recorded graph fits every
        # later step.
        blocks = view.far_count(capacity // view.pattern.block_size, 0) + 1
        far = blocks * view.pattern.block_size if lengths is None else kept.far_k.shape[2]
        near = min(capacity, view.pattern.window_tokens + tq)
        splits = _count_splits(b * hkv, far + near, q.device)
    block_d = max(16, triton.next_power_of_2(dim))
    part = torch.empty((b * hkv, splits, rows, block_d), dtype=torch.float32, device=q.device)
    part_lse = torch.empty((b * hkv, splits, rows), dtype=torch.float32, device=q.device)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((b, hq, tq), dtype=torch.float32, device=q.device)
    shape = {"HKV": hkv, "GROUPS": hq // hkv, "TQ": tq, "D": dim, "BLOCK_D": block_d, "ROWS": rows}
    tensors = [q, *kept]
    arguments = pattern_args(view, scale)
    # The window may grow with every answer: as a constant it would be another kernel for each.
    arguments["local"] = arguments.pop("LOCAL")
    launch(
        _split_kernel,
        _CONFIGS,
        lambda meta: (splits, b * hkv),
        (*tensors, starts, lengths, part, part_lse),
        (*strides_of(*tensors), capacity, capacity, splits),
        arguments | shape | {"HAS_STARTS": starts is not None, "COMPACT": lengths is not None},
    )
    launch(
        _combine_kernel,
        [{"num_warps": 4}],
        lambda meta: (hq // hkv * tq, b * hkv),
        (part, part_lse, out, lse),
        (*out.stride()[:3], splits),
        shape | {"BLOCK_S": triton.next_power_of_2(splits)},
    )
    return out, lse


def _count_splits(pairs: int, keys: int, device: torch.device) -> int:
    """Returns how many programs share a pair of row and KV head with so many keys."""
    if device.type != "cuda":
        return min(4, triton.cdiv(keys, 32))
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    # Two programs a processor keep its loads going. Rounded down: a few more would wait for a
    # second round.
    return max(1, min(64, 2 * processors // pairs, triton.cdiv(keys, 128)))
