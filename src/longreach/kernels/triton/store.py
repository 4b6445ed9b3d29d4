"""Triton: one token a row into a cache whose tensors never move, in one launch.

Shapes: B rows, K KV heads, F far slots, R ring slots, D head dim.
"""

import triton
import triton.language as tl
from torch import Tensor

from longreach.kernels.backend import Retained
from longreach.kernels.triton.blocks import first_strided, is_permanent, permanent_index
from longreach.kernels.triton.launch import launch, pattern_args, strides_of
from longreach.kernels.view import HeadView


@triton.jit
def _store_kernel(
    k_ptr, v_ptr, far_k, far_v, near_k, near_v, lengths_ptr,
    skb, skh, svb, svh, sfkb, sfkh, sfkt, sfvb, sfvh, sfvt, snkb, snkh, snkt, snvb, snvh, snvt,
    far_slots, ring, shift,
    HKV: tl.constexpr, STEP: tl.constexpr, SIZE: tl.constexpr, SINK: tl.constexpr, STRIDE: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // HKV).to(tl.int64)
    g = tl.program_id(0) % HKV
    position = tl.load(lengths_ptr + b).to(tl.int32) - 1
    d = tl.arange(0, BLOCK_D)
    ok = (d < D) & (position >= 0)
    k = tl.load(k_ptr + b * skb + g * skh + d, mask=ok)
    v = tl.load(v_ptr + b * svb + g * svh + d, mask=ok)
    # Into both regions at once: which of them a query reads it in depends on the query.
    slot = (position % ring).to(tl.int64)
    tl.store(near_k + b * snkb + g * snkh + slot * snkt + d, k, mask=ok)
    tl.store(near_v + b * snvb + g * snvh + slot * snvt + d, v, mask=ok)
    first = first_strided(g, shift, STEP, SINK, STRIDE)
    slot = permanent_index(position, first, SIZE, SINK, STRIDE).to(tl.int64)
    # The slots behind the far region's end are nobody's: a block that is never far has none.
    ok = ok & is_permanent(position, first, SIZE, SINK, STRIDE) & (slot < far_slots)
    tl.store(far_k + b * sfkb + g * sfkh + slot * sfkt + d, k, mask=ok)
    tl.store(far_v + b * sfvb + g * sfvh + slot * sfvt + d, v, mask=ok)


def store(k: Tensor, v: Tensor, kept: Retained, view: HeadView, lengths: Tensor) -> None:
    """Writes a token of each row into both regions of a cache whose tensors never move.

    Args:
        k: [B, K, 1, D].
        v: [B, K, 1, D].
        kept: Written to: `far` [B, K, F, D], `near` [B, K, R, D].
        view: Which blocks are permanent.
        lengths: [B] tokens of each row, the new one included.
    """
    rows, heads, _, dim = k.shape
    arguments = pattern_args(view, 0.0)
    # Where a token goes does not depend on the window.
    named = {name: arguments[name] for name in ("shift", "STEP", "SIZE", "SINK", "STRIDE")}
    launch(
        _store_kernel,
        [{"num_warps": 1}],
        lambda meta: (rows * heads,),
        (k, v, *kept, lengths),
        (
            *strides_of(k, v, dims=2),
            *strides_of(*kept),
            kept.far_k.shape[2],
            kept.near_k.shape[2],
        ),
        named | {"HKV": heads, "D": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim))},
    )
