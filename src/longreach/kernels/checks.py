"""What every call of sparse attention refuses, whatever the implementation.

Shapes: B rows, Hq query heads, Hkv KV heads (Hq a multiple), Tq <= Tk tokens, D head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longreach.errors import UsageError
from longreach.kernels.backend import Retained
from longreach.kernels.view import HeadView
from longreach.pattern import AttentionPattern
from longreach.wording import counted


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raises UsageError unless q, k and v are tensors of one attention call."""
    # What is wrong with one tensor comes first: shapes that cannot be compared make no sense below.
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 4:
            raise UsageError(
                f"{name} has shape {tuple(tensor.shape)}; give four dimensions [rows, heads,"
                " tokens, dim]."
            )
        if not tensor.is_floating_point():
            raise UsageError(f"{name} is {tensor.dtype}; give float32, bfloat16 or float16.")
        if tensor.dtype != q.dtype or tensor.device != q.device:
            raise UsageError(
                f"q is {q.dtype} on {q.device} and {name} {tensor.dtype} on {tensor.device}; give"
                " all three alike."
            )
    if k.shape != v.shape:
        raise UsageError(
            f"k is {tuple(k.shape)} and v {tuple(v.shape)}; give keys and values of one shape."
        )
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise UsageError(
            f"q is {tuple(q.shape)} and k {tuple(k.shape)}; rows and head dim must be the same."
        )
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise UsageError(
            f"{counted(q.shape[1], 'query head')} on {counted(k.shape[1], 'KV head')}; give a"
            " multiple of the KV heads."
        )
    if q.shape[2] > k.shape[2]:
        raise UsageError(
            f"{counted(q.shape[2], 'query')} on {k.shape[2]} keys; queries are the last positions"
            " of the keys."
        )


def check_starts(starts: Tensor | None, q: Tensor, kv_len: int) -> None:
    """Raises UsageError unless `starts` names a slot of k for each row of q."""
    if starts is None:
        return
    if starts.shape != q.shape[:1] or starts.is_floating_point() or starts.device != q.device:
        raise UsageError(
            f"starts is {starts.dtype} of shape {tuple(starts.shape)} on {starts.device}; give one"
            f" whole number for each of the {counted(q.shape[0], 'row')}, on {q.device}."
        )
    # Reading the values would make a GPU wait; there, a kernel simply finds no query in a row that
    # starts beyond.
    if starts.device.type == "cpu" and not torch.compiler.is_compiling() and starts.numel():
        low = int(starts.min())
        high = int(starts.max())
        if low < 0 or high > kv_len:
            raise UsageError(f"starts holds {low} to {high}; give 0 to {kv_len}, the slots of k.")


def check_retained(q: Tensor, kept: Retained) -> None:
    """Raises UsageError unless the two regions fit each other and the queries."""
    # Queries are not among the keys of a cache: their number does not matter here.
    none = q[:, :, :0]
    check_tensors(none, kept.far_k, kept.far_v)
    check_tensors(none, kept.near_k, kept.near_v)
    if kept.far_k.shape[:2] != kept.near_k.shape[:2]:
        raise UsageError(
            f"far is {tuple(kept.far_k.shape)} and near {tuple(kept.near_k.shape)}; rows and heads"
            " must be the same."
        )


def check_far(kept: Retained, view: HeadView, length: int) -> None:
    """Raises UsageError where the far region is too short for a row of `length` tokens."""
    size = view.pattern.block_size
    # The newest token decides, as the windows of earlier ones have fewer blocks before them.
    last = (length - 1) // size
    blocks = max(view.far_count(last, head) for head in range(kept.far_k.shape[1]))
    if kept.far_k.shape[2] < blocks * size:
        raise UsageError(
            f"far holds {counted(kept.far_k.shape[2], 'position')}; after"
            f" {counted(length, 'token')} give {blocks * size}, {counted(blocks, 'block')}."
        )


def check_lengths(lengths: Tensor, q: Tensor) -> None:
    """Raises UsageError unless `lengths` holds a whole number for each row of q."""
    if lengths.shape != q.shape[:1] or lengths.is_floating_point() or lengths.device != q.device:
        raise UsageError(
            f"lengths has shape {tuple(lengths.shape)}; give {q.shape[0]} whole numbers on"
            f" {q.device}."
        )


def make_view(
    pattern: AttentionPattern, layer: int, heads: tuple[int, int] | None, num_kv_heads: int
) -> HeadView:
    """Returns a pattern as the KV heads of one tensor see it.

    Args:
        pattern: The pattern.
        layer: Index of the layer.
        heads: (index of the tensor's first KV head in the model, KV heads of the model); None for
            (0, num_kv_heads).
        num_kv_heads: KV heads of the tensor.

    Raises:
        UsageError: There is no such layer, or there are no such heads.
    """
    if layer < 0:
        raise UsageError(f"layer is {layer}; give the index of the layer, from 0.")
    # Heads of a rank keep the offsets that they have in the whole model.
    first, total = heads or (0, num_kv_heads)
    if not 0 <= first <= total - num_kv_heads:
        raise UsageError(
            f"heads is ({first}, {total}), but the tensor has {counted(num_kv_heads, 'KV head')};"
            " give (first, total) with 0 <= first <= total - heads of the tensor."
        )
    return HeadView(pattern, layer, first, total)
