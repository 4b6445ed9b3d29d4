"""The public calls: check the arguments, choose an implementation, run it.

Shapes: B rows, Hq query heads, Hkv KV heads (Hq a multiple), Tq <= Tk tokens, D head dim.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from longreach.errors import UsageError
from longreach.kernels.names import IMPLEMENTATIONS
from longreach.kernels.view import HeadView
from longreach.pattern import AttentionPattern
from longreach.wording import counted


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: AttentionPattern,
    layer: int = 0,
    scale: float | None = None,
    impl: str = "auto",
    *,
    starts: Tensor | None = None,
    heads: tuple[int, int] | None = None,
) -> Tensor:
    """Causal attention restricted to the blocks of a pattern, with gradients for q, k and v.

    Queries are the last Tq of Tk positions, so a prompt may come in chunks. Keys are in position
    order, all of them present; for a cache that holds only retained keys see `retained_attention`.

    Args:
        q: [B, Hq, Tq, D].
        k: [B, Hkv, Tk, D], after rotary embedding.
        v: [B, Hkv, Tk, D].
        pattern: Which blocks are visible.
        layer: Index of the layer, which shifts the strided blocks.
        scale: Factor of the scores; 1 / sqrt(D) where None.
        impl: `reference` (dense mask), `cpu` (portable PyTorch), `flex` (FlexAttention), `triton`,
            or `auto`: triton for CUDA tensors, cpu for CPU tensors, the reference elsewhere. A
            named one never falls back to another.
        starts: [B] integers, the index in k of each row's first real token (left padding); None for
            0 everywhere. Blocks are counted from there, earlier keys are unseen, and the output of
            earlier queries is zero. Padding on the right needs nothing: no real query sees it, and
            its own outputs are to be ignored.
        heads: (index of this tensor's first KV head in the model, KV heads of the model) on a rank
            that holds only some heads; None for (0, Hkv).

    Returns:
        [B, Hq, Tq, D] in q's dtype.

    Raises:
        UsageError: Shapes, dtypes or devices do not fit, or the implementation cannot run here.

    Paper: LongGen, "A Little Goes a Long Way: Efficient Long Context Training and Inference with
    Partial Contexts".
    """
    _check_tensors(q, k, v)
    _check_starts(starts, q, k.shape[2])
    view = _view(pattern, layer, heads, k.shape[1])
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    impl = _choose(impl, q.device)
    if 0 in q.shape:
        return q * 1
    if impl == "reference":
        from longreach.kernels import reference

        return reference.attend(q, k, v, view, scale, starts)
    if impl == "flex":
        from longreach.kernels import flex

        return flex.attend(q, k, v, view, scale, starts)
    if impl == "triton":
        from longreach.kernels.triton import op as triton_op

        return triton_op.attend(q, k, v, starts, view, scale)
    from longreach.kernels.cpu import prefill as cpu

    return cpu.attention(q, k, v, starts, view.pack(), scale)[0]


class Retained(NamedTuple):
    """What a cache holds of a sparse layer.

    Attributes:
        far_k: Keys [B, Hkv, F, D] of the permanent blocks outside the window, in order and without
            gaps (`AttentionPattern.far_blocks`). Heads may differ in how many there are; the rest
            of F holds anything.
        far_v: Values, likewise.
        near_k: Keys [B, Hkv, R, D] of the window: see `chunk_attention` and `decode_attention`.
        near_v: Values, likewise.
    """

    far_k: Tensor
    far_v: Tensor
    near_k: Tensor
    near_v: Tensor


def chunk_attention(
    q: Tensor,
    kept: Retained,
    pattern: AttentionPattern,
    length: int,
    layer: int = 0,
    scale: float | None = None,
    impl: str = "auto",
    *,
    heads: tuple[int, int] | None = None,
) -> Tensor:
    """A chunk of a prompt against what a cache retains; equal to `sparse_attention` with all keys.
    No gradients.

    Args:
        q: [B, Hq, Tq, D], positions length - Tq to length - 1 in every row.
        kept: `far` up to the window of the *last* query, so append the chunk's permanent blocks
            first; `near` the consecutive positions up to length - 1, from a block boundary no later
            than the first query's window.
        pattern: Which blocks are visible.
        length: Tokens so far, the chunk included.
        layer: Index of the layer.
        scale: Factor of the scores; 1 / sqrt(D) where None.
        impl: `cpu`, `triton` or `auto`.
        heads: As in `sparse_attention`.

    Returns:
        [B, Hq, Tq, D].

    Raises:
        UsageError: Tensors do not fit each other, or the cache holds too little.
    """
    view = _check_retained(q, kept, pattern, layer, heads)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    impl = _choose_retained(impl, q.device)
    near_start = length - kept.near_k.shape[2]
    first = (length - q.shape[2]) // pattern.block_size
    window = pattern.local_start(first) * pattern.block_size
    if q.shape[2] > length or near_start % pattern.block_size or not 0 <= near_start <= window:
        raise UsageError(
            f"near holds {kept.near_k.shape[2]} of {counted(length, 'position')}; give those from a"
            f" block boundary up to {window} on, the window of the first of"
            f" {counted(q.shape[2], 'query')}."
        )
    _check_far(kept, view, length)
    if impl == "triton":
        from longreach.kernels.triton import op as triton_op

        return triton_op.chunk(q, kept[:2], kept[2:], view, scale, length)
    from longreach.kernels.cpu import parts
    from longreach.kernels.cpu import prefill as cpu

    span = parts.Span(length - q.shape[2], q.shape[2], near_start)
    return cpu.attend(q, parts.Keys(*kept[0::2]), parts.Keys(*kept[1::2]), span, view, scale)[0]


def decode_attention(
    q: Tensor,
    kept: Retained,
    pattern: AttentionPattern,
    lengths: Tensor,
    layer: int = 0,
    scale: float | None = None,
    impl: str = "auto",
    *,
    heads: tuple[int, int] | None = None,
) -> Tensor:
    """The last few positions of ragged rows against what a cache retains. No gradients.

    All shapes are fixed and `lengths` is read on the device, so a step can be recorded in a CUDA
    graph.

    Args:
        q: [B, Hq, Tq, D], the last Tq positions of each row.
        kept: `far` up to the window of the last query (checked by `cpu` only: others read nothing
            back); `near` a ring, position p in slot p % R, with R at least the window plus Tq - 1
            tokens. Rows count positions from their own first real token.
        pattern: Which blocks are visible.
        lengths: [B] integers on q's device: tokens of each row so far, the queries included.
        layer: Index of the layer.
        scale: Factor of the scores; 1 / sqrt(D) where None.
        impl: `cpu`, `triton` or `auto`.
        heads: As in `sparse_attention`.

    Returns:
        [B, Hq, Tq, D]; zeros where a row has fewer than Tq tokens.

    Raises:
        UsageError: Tensors do not fit each other, or the ring is too short.
    """
    view = _check_retained(q, kept, pattern, layer, heads)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    impl = _choose_retained(impl, q.device)
    need = pattern.window_tokens + q.shape[2] - 1
    if kept.near_k.shape[2] < need:
        raise UsageError(
            f"The ring holds {counted(kept.near_k.shape[2], 'position')};"
            f" {counted(q.shape[2], 'query')} need {need}."
        )
    if lengths.shape != q.shape[:1] or lengths.is_floating_point() or lengths.device != q.device:
        raise UsageError(
            f"lengths has shape {tuple(lengths.shape)}; give {q.shape[0]} whole numbers on"
            f" {q.device}."
        )
    if impl == "cpu" and not torch.compiler.is_compiling() and lengths.numel():
        _check_far(kept, view, int(lengths.max()))
    if impl == "triton":
        from longreach.kernels.triton import op as triton_op

        return triton_op.decode(q, kept[:2], kept[2:], view, scale, lengths)
    from longreach.kernels.cpu import decode as cpu_decode

    return cpu_decode.decode(q, kept[:2], kept[2:], view, scale, lengths)


def store_token(
    k: Tensor,
    v: Tensor,
    kept: Retained,
    pattern: AttentionPattern,
    lengths: Tensor,
    layer: int = 0,
    impl: str = "auto",
    *,
    heads: tuple[int, int] | None = None,
) -> None:
    """Writes the newest token of each row into a cache whose tensors never move, where
    `decode_attention` reads it.

    All shapes are fixed and `lengths` is read on the device, so a step can be recorded in a CUDA
    graph.

    Args:
        k: [B, Hkv, 1, D], after rotary embedding.
        v: [B, Hkv, 1, D].
        kept: Written to. `far` has room for all permanent blocks that will ever be far, and one
            block more, for which there is no promise; or no slots where none will. `near` is a
            ring.
        pattern: Which blocks are permanent.
        lengths: [B] integers on k's device: tokens of each row, the new one included.
        layer: Index of the layer.
        impl: `cpu`, `triton` or `auto`.
        heads: As in `sparse_attention`.

    Raises:
        UsageError: Tensors do not fit each other.
    """
    view = _check_retained(k, kept, pattern, layer, heads)
    _check_tensors(k, k, v)
    if k.shape[2] != 1 or k.shape[:2] != kept.near_k.shape[:2] or lengths.shape != k.shape[:1]:
        raise UsageError(
            f"k is {tuple(k.shape)}, near {tuple(kept.near_k.shape)} and lengths"
            f" {tuple(lengths.shape)}; give one token and one length for each row, and the heads of"
            " the cache."
        )
    if _choose_retained(impl, k.device) == "triton":
        from longreach.kernels.triton import op as triton_op

        triton_op.store(k, v, kept[:2], kept[2:], view, lengths)
    else:
        from longreach.kernels.cpu import decode as cpu_decode

        cpu_decode.store(k, v, kept[:2], kept[2:], view, lengths[:, None] - 1)


def _choose_retained(impl: str, device: torch.device) -> str:
    impl = _choose(impl, device)
    if impl not in ("cpu", "triton"):
        raise UsageError(
            f"impl is {impl!r}; a compact cache on {device} can be read by 'cpu' (on a CPU) and"
            " 'triton'."
        )
    return impl


def _check_far(kept: Retained, view: HeadView, length: int) -> None:
    size = view.pattern.block_size
    blocks = max(view.far_count((length - 1) // size, head) for head in range(kept.far_k.shape[1]))
    if kept.far_k.shape[2] < blocks * size:
        raise UsageError(
            f"far holds {counted(kept.far_k.shape[2], 'position')}; after"
            f" {counted(length, 'token')} give {blocks * size}, {counted(blocks, 'block')}."
        )


def _check_retained(
    q: Tensor, kept: Retained, pattern: AttentionPattern, layer: int, heads: tuple[int, int] | None
) -> HeadView:
    far_k, far_v, near_k, near_v = kept
    _check_tensors(q[:, :, :0], far_k, far_v)
    _check_tensors(q[:, :, :0], near_k, near_v)
    if far_k.shape[:2] != near_k.shape[:2]:
        raise UsageError(
            f"far is {tuple(far_k.shape)} and near {tuple(near_k.shape)}; rows and heads must be"
            " the same."
        )
    return _view(pattern, layer, heads, near_k.shape[1])


def _choose(impl: str, device: torch.device) -> str:
    if impl not in IMPLEMENTATIONS:
        raise UsageError(
            f"There is no implementation {impl!r}; choose one of {', '.join(IMPLEMENTATIONS)}."
        )
    if impl == "auto":
        return {"cuda": "triton", "cpu": "cpu"}.get(device.type, "reference")
    if impl == "cpu" and device.type != "cpu":
        raise UsageError(
            f"impl='cpu' got tensors on {device}; move them to the CPU, or use impl='auto'."
        )
    return impl


def _view(
    pattern: AttentionPattern, layer: int, heads: tuple[int, int] | None, num_kv_heads: int
) -> HeadView:
    if layer < 0:
        raise UsageError(f"layer is {layer}; give the index of the layer, from 0.")
    first, total = heads or (0, num_kv_heads)
    if not 0 <= first <= total - num_kv_heads:
        raise UsageError(
            f"heads is ({first}, {total}), but the tensor has {counted(num_kv_heads, 'KV head')};"
            " give (first, total) with 0 <= first <= total - heads of the tensor."
        )
    return HeadView(pattern, layer, first, total)


def _check_starts(starts: Tensor | None, q: Tensor, kv_len: int) -> None:
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
        low, high = int(starts.min()), int(starts.max())
        if low < 0 or high > kv_len:
            raise UsageError(f"starts holds {low} to {high}; give 0 to {kv_len}, the slots of k.")


def _check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
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
