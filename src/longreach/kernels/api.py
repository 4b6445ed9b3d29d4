"""The public calls: check the arguments, choose an implementation, run it.

Shapes: B rows, Hq query heads, Hkv KV heads (Hq a multiple), Tq <= Tk tokens, D head dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from longreach.errors import UsageError
from longreach.kernels.backend import AttentionRequest, Backend, Retained, Work
from longreach.kernels.checks import (
    check_far,
    check_lengths,
    check_retained,
    check_starts,
    check_tensors,
    make_view,
)
from longreach.kernels.registry import choose_name, load_backend
from longreach.pattern import AttentionPattern
from longreach.wording import counted

__all__ = [
    "Retained",
    "chunk_attention",
    "decode_attention",
    "sparse_attention",
    "store_token",
]


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
    """Returns causal attention restricted to a pattern's blocks, with gradients for q, k and v.

    Queries are the last Tq of Tk positions, so a prompt may come in chunks. Keys are in position
    order, all of them present; for a cache that holds only retained keys see `chunk_attention` and
    `decode_attention`.

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
    check_tensors(q, k, v)
    check_starts(starts, q, k.shape[2])
    view = make_view(pattern, layer, heads, k.shape[1])
    # What has no backward pass is refused now, not when the loss is already computed.
    gradients = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    backend = _choose(impl, "prefill", q, k.shape[1], gradients=gradients)
    # Kernels do not take empty grids. The product keeps the gradient's path.
    if 0 in q.shape:
        return q * 1
    return backend.prefill(q, k, v, view, _scale_of(q, scale), starts)


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
    """Returns the attention of a chunk of a prompt over what a cache retains. No gradients.

    The result is that of `sparse_attention` with all keys.

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
    check_retained(q, kept)
    view = make_view(pattern, layer, heads, kept.near_k.shape[1])
    backend = _choose(impl, "chunk", q, kept.near_k.shape[1])
    # The window of the first query reaches back furthest.
    near_start = length - kept.near_k.shape[2]
    first = (length - q.shape[2]) // pattern.block_size
    window = pattern.local_start(first) * pattern.block_size
    if q.shape[2] > length or near_start % pattern.block_size or not 0 <= near_start <= window:
        raise UsageError(
            f"near holds {kept.near_k.shape[2]} of {counted(length, 'position')}; give those from a"
            f" block boundary up to {window} on, the window of the first of"
            f" {counted(q.shape[2], 'query')}."
        )
    check_far(kept, view, length)
    return backend.chunk(q, kept, view, _scale_of(q, scale), length)


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
    """Returns the attention of each row's last positions over what a cache retains. No gradients.

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
    check_retained(q, kept)
    view = make_view(pattern, layer, heads, kept.near_k.shape[1])
    # The first of several queries reads positions that the last one's window has left.
    need = pattern.window_tokens + q.shape[2] - 1
    backend = _choose(impl, "decode", q, kept.near_k.shape[1])
    if kept.near_k.shape[2] < need:
        raise UsageError(
            f"The ring holds {counted(kept.near_k.shape[2], 'position')};"
            f" {counted(q.shape[2], 'query')} need {need}."
        )
    check_lengths(lengths, q)
    return backend.decode(q, kept, view, _scale_of(q, scale), lengths)


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
    """Writes the newest token of each row into a cache whose tensors never move.

    `decode_attention` reads it there. All shapes are fixed and `lengths` is read on the device, so
    a step can be recorded in a CUDA graph.

    Args:
        k: [B, Hkv, 1, D], after rotary embedding.
        v: [B, Hkv, 1, D].
        kept: Written to. `far` has slots for all permanent blocks that will ever be far, and for
            one block more, whose contents nobody reads; or no slots where none will. `near` is a
            ring.
        pattern: Which blocks are permanent.
        lengths: [B] integers on k's device: tokens of each row, the new one included.
        layer: Index of the layer.
        impl: `cpu`, `triton` or `auto`.
        heads: As in `sparse_attention`.

    Raises:
        UsageError: Tensors do not fit each other.
    """
    check_retained(k, kept)
    view = make_view(pattern, layer, heads, kept.near_k.shape[1])
    # Storing has no queries; the keys stand in their place.
    check_tensors(k, k, v)
    if k.shape[2] != 1 or k.shape[:2] != kept.near_k.shape[:2] or lengths.shape != k.shape[:1]:
        raise UsageError(
            f"k is {tuple(k.shape)}, near {tuple(kept.near_k.shape)} and lengths"
            f" {tuple(lengths.shape)}; give one token and one length for each row, and the heads of"
            " the cache."
        )
    backend = _choose(impl, "store", k, k.shape[1])
    backend.store(k, v, kept, view, lengths)


def _scale_of(q: Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)


def _choose(
    impl: str, work: Work, q: Tensor, num_kv_heads: int, *, gradients: bool = False
) -> Backend:
    """Returns the implementation that was asked for, or that "auto" stands for here.

    Raises:
        UsageError: There is none of that name, or it cannot do this; another is never taken.
    """
    backend = load_backend(choose_name(impl, q.device.type))
    request = AttentionRequest(
        work=work,
        device=q.device,
        dtype=q.dtype,
        head_dim=q.shape[3],
        # Decoding takes these as the rows of one product, of which a kernel may take only so
        # many.
        rows_per_kv_head=q.shape[1] // num_kv_heads * q.shape[2],
        gradients=gradients,
    )
    reason = backend.explain_refusal(request)
    if reason is not None:
        raise UsageError(reason)
    return backend
