"""Attention over retained keys in portable PyTorch: no Q x K array, gradients included.

The keys of a query block are divided into three parts. Each part is a plain dense attention call
over many blocks at once; the results are merged by their logsumexps (the flash-attention identity):

    diagonal   the block itself, token-causal: all blocks in one call
    window     the local blocks before it: one call over overlapping views of k, nothing is copied
    far        the permanent blocks before the window, a prefix of one list: one call for each
               length of that prefix

The backward pass calls flash backward on the same parts with the *merged* output and logsumexp,
which makes each part's share of the gradients exact; the shares add up.

Shapes: B rows, H query heads, K KV heads, G = H / K, N query blocks, R query rows of a block, T
tokens, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from longreach.kernels.backend import Retained
from longreach.kernels.cpu.parts import BlockSpan, CallParts, WindowRun, cut_windows
from longreach.kernels.view import HeadView

# PyTorch's own CPU flash attention, called below the public function because that one does not
# return the logsumexp.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Of the backward pass: each window's dK is a separate array before they are added up.
_WINDOWS_PER_CALL = 32


def attend(
    q_BHTD: Tensor, kept: Retained, view: HeadView, scale: float, span: BlockSpan
) -> tuple[Tensor, Tensor]:
    """Returns attention over retained keys, without gradients.

    Args:
        q_BHTD: Queries at positions `span.q_start` on.
        kept: Keys and values: see `CallParts`.
        view: Which blocks each KV head sees.
        scale: Factor of the scores.
        span: Positions; `near_start` is a multiple of the block size.

    Returns:
        Output [B, H, T, D] and logsumexp [B, H, T] (float32, or float64 for float64).
    """
    parts = CallParts(span, view, kept.near_k.shape[1])
    q = parts.fold(q_BHTD)
    flat_q = q.flatten(0, 1)
    near_k = parts.blocks(kept.near_k)
    near_v = parts.blocks(kept.near_v)

    mask = parts.diagonal_mask(q, q_BHTD.shape[1] // parts.num_kv_heads)
    key = parts.diagonal(near_k)
    value = parts.diagonal(near_v)
    out, lse = _flash(flat_q, key, value, attn_mask=mask, scale=scale)
    # Merged in the logsumexp's dtype: low precision would lose a part at each of the merges.
    out = out.to(lse.dtype).contiguous()
    lse = lse.contiguous()

    for run in parts.windows(parts.count):
        blocks = slice(run.first, run.stop)
        key = cut_windows(near_k, run, parts.size)
        value = cut_windows(near_v, run, parts.size)
        part = _flash(flat_q[:, blocks], key, value, scale=scale)
        merge_into(out[:, blocks], lse[:, blocks], *part)

    out = out.view_as(q)
    lse = lse.view(q.shape[:-1])
    for far in parts.far():
        seen = (slice(None), far.heads, slice(far.first, far.stop))
        key = kept.far_k[:, far.heads, : far.tokens]
        value = kept.far_v[:, far.heads, : far.tokens]
        part = _flash(q[seen].flatten(2, 3), key, value, scale=scale)
        # Flattening two neighboring dimensions of a slice is a view: `out` itself is written to.
        merge_into(out[seen].flatten(2, 3), lse[seen].flatten(2, 3), *part)
    merged = parts.unfold(out).to(q.dtype).contiguous()
    return merged, parts.unfold(lse[..., None])[..., 0].contiguous()


def flash(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Returns dense attention of q [B, K, R, D] and its logsumexp [B, K, R].

    Both are contiguous and in the logsumexp's dtype.
    """
    out, lse = _flash(q, k, v, scale=scale)
    return out.to(lse.dtype).contiguous(), lse.contiguous()


def merge_into(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Adds a part of the keys to the attention over all others, in place."""
    # The part's weight in the softmax over both: exp(part_lse) / (exp(part_lse) + exp(lse)).
    out.lerp_(part.to(out.dtype), torch.sigmoid(part_lse - lse)[..., None])
    torch.logaddexp(lse, part_lse, out=lse)


def merge_parts(
    q: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], masks: Sequence[Tensor], scale: float
) -> Tensor:
    """Returns attention over several sets of keys and values as if they were one.

    Args:
        q: [B, K, R, D].
        pairs: Keys and values [B, K, S, D] of each set.
        masks: [B, K, R, S] of each set, True where seen.
        scale: Factor of the scores.

    Returns:
        [B, K, R, D]; zeros in rows that see nothing.
    """
    out: Tensor | None = None
    for (key, value), mask in zip(pairs, masks, strict=True):
        if not mask.any():
            continue
        # Zeros instead of what unseen slots hold: it may be anything, and 0 * NaN is NaN.
        empty = ~mask.any(2)[..., None]
        key = key.masked_fill(empty, 0)
        value = value.masked_fill(empty, 0)
        bias = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, float("-inf"))
        part, part_lse = _flash(q, key, value, attn_mask=bias, scale=scale)
        # A row that sees nothing of this set comes out as anything: it must weigh nothing.
        nothing = ~mask.any(-1)
        part_lse = part_lse.masked_fill(nothing, float("-inf"))
        part = part.to(part_lse.dtype).masked_fill(nothing[..., None], 0)
        if out is None:
            out = part.contiguous()
            lse = part_lse.contiguous()
        else:
            # A row may have seen nothing in any set so far, where `merge_into` would give NaN.
            new = torch.logaddexp(lse, part_lse)
            weight = torch.where(new == float("-inf"), 0.0, torch.exp(part_lse - new))
            out.lerp_(part, weight[..., None])
            lse = new
    return torch.zeros_like(q) if out is None else out.to(q.dtype)


class _FlashRows(NamedTuple):
    """What flash backward needs of some query rows, in the order of its arguments."""

    grad: Tensor
    q: Tensor
    out: Tensor
    lse: Tensor

    def select(self, *index: slice) -> _FlashRows:
        """Returns some of them, as views."""
        return _FlashRows(*(tensor[index] for tensor in self))

    def flatten(self, first: int, last: int) -> _FlashRows:
        """Returns them with dimensions `first` to `last` as one."""
        return _FlashRows(*(tensor.flatten(first, last) for tensor in self))

    def backward(
        self, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients of the queries, the keys and the values of one part."""
        dq, dk, dv = _flash_backward(
            self.grad,
            self.q,
            key,
            value,
            self.out,
            self.lse,
            0.0,  # no dropout
            False,  # not causal: the mask says what is hidden
            attn_mask=mask,
            scale=scale,
        )
        return dq, dk, dv


def attend_backward(
    grad_BHTD: Tensor,
    q_BHTD: Tensor,
    kept: Retained,
    out_BHTD: Tensor,
    lse_BHT: Tensor,
    view: HeadView,
    scale: float,
    span: BlockSpan,
) -> tuple[Tensor, Retained]:
    """Returns the gradients of `attend`.

    Args:
        grad_BHTD: Gradient of the output.
        q_BHTD: Queries, and all below as `attend` got it.
        kept: Keys and values.
        out_BHTD: The output of `attend`.
        lse_BHT: Its logsumexp.
        view: Which blocks each KV head sees.
        scale: Factor of the scores.
        span: Positions.

    Returns:
        dQ [B, H, T, D], and dK and dV in both regions; float32 (float64 for float64).
    """
    parts = CallParts(span, view, kept.near_k.shape[1])
    rows = _FlashRows(
        parts.fold(grad_BHTD),
        parts.fold(q_BHTD),
        parts.fold(out_BHTD),
        parts.fold(lse_BHT[..., None])[..., 0],
    )
    near_k = parts.blocks(kept.near_k)
    near_v = parts.blocks(kept.near_v)
    dtype = rows.lse.dtype
    dq = torch.zeros(rows.q.shape, dtype=dtype)
    near_dk = torch.zeros(near_k.shape, dtype=dtype)
    near_dv = torch.zeros(near_v.shape, dtype=dtype)
    far_dk = torch.zeros(kept.far_k.shape, dtype=dtype)
    far_dv = torch.zeros(kept.far_v.shape, dtype=dtype)

    flat = rows.flatten(0, 1)
    # A view: what is added to it is added to `dq`.
    flat_dq = dq.flatten(0, 1)
    mask = parts.diagonal_mask(rows.q, q_BHTD.shape[1] // parts.num_kv_heads)
    dq_part, dk_part, dv_part = flat.backward(
        parts.diagonal(near_k), parts.diagonal(near_v), scale, mask
    )
    flat_dq += dq_part
    parts.diagonal(near_dk).add_(dk_part)
    parts.diagonal(near_dv).add_(dv_part)

    for run in parts.windows(_WINDOWS_PER_CALL):
        blocks = slice(run.first, run.stop)
        key = cut_windows(near_k, run, parts.size)
        value = cut_windows(near_v, run, parts.size)
        dq_part, dk_part, dv_part = flat.select(slice(None), blocks).backward(key, value, scale)
        flat_dq[:, blocks] += dq_part
        _add_windows(near_dk, dk_part, run, parts.size)
        _add_windows(near_dv, dv_part, run, parts.size)

    for far in parts.far():
        seen = (slice(None), far.heads, slice(far.first, far.stop))
        tokens = slice(0, far.tokens)
        key = kept.far_k[:, far.heads, tokens]
        value = kept.far_v[:, far.heads, tokens]
        dq_part, dk_part, dv_part = rows.select(*seen).flatten(2, 3).backward(key, value, scale)
        dq[seen].flatten(2, 3).add_(dq_part)
        far_dk[:, far.heads, tokens] += dk_part
        far_dv[:, far.heads, tokens] += dv_part

    shape = kept.near_k.shape
    near_dk = _lengthen(near_dk, shape)
    near_dv = _lengthen(near_dv, shape)
    return parts.unfold(dq), Retained(far_dk, far_dv, near_dk, near_dv)


def _add_windows(total: Tensor, share: Tensor, run: WindowRun, size: int) -> None:
    """Adds the gradients of overlapping windows to those of the region they are windows of.

    Args:
        total: [B * K, T, D], added to.
        share: [B * K, query blocks of the run, run.blocks * size, D].
        run: Which windows these are.
        size: Tokens of a block.
    """
    by_block = share.unflatten(2, (run.blocks, size))
    length = (run.stop - run.first) * size
    # The w-th blocks of all windows lie side by side: one addition for each w.
    for w in range(run.blocks):
        first = (run.start + w) * size
        total[:, first : first + length] += by_block[:, :, w].flatten(1, 2)


def _lengthen(near_KTD: Tensor, shape: torch.Size) -> Tensor:
    """Returns the near region's gradients in its own shape: zeros for keys that nobody saw."""
    b, k, length, _ = shape
    return functional.pad(near_KTD, (0, 0, 0, length - near_KTD.shape[1])).unflatten(0, (b, k))
