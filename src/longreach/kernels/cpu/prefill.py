"""Portable PyTorch on a CPU: no Q x K array, gradients included.

The keys of a query block fall into three parts, and each part is a plain dense attention call over
many blocks at once, whose results are merged by their logsumexps (the flash-attention identity):

    diagonal   the block itself, token-causal: all blocks in one call
    window     the local blocks before it: one call over overlapping views of k, nothing is copied
    far        the permanent blocks before the window, a prefix of one list: one call for each
    length of that prefix

The backward pass calls flash backward on the same parts with the *merged* output and logsumexp,
which makes each part's share of the gradients exact; the shares add up.

Shapes: B rows, H query heads, K KV heads, G = H / K, N query blocks, R query rows of a block, T
tokens, D head dim.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from longreach.kernels.cpu.parts import Keys, Parts, Span, window
from longreach.kernels.ops import define_attention_op
from longreach.kernels.view import HeadView

# PyTorch's own CPU flash attention, called below the public function because that one does not
# return the logsumexp.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Of the backward pass: each window's dK is a separate array before they are added up.
_WINDOWS_PER_CALL = 32


def attend(
    q_BHTD: Tensor, k: Keys, v: Keys, span: Span, view: HeadView, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention over retained keys; no gradients.

    Args:
        q_BHTD: Queries at positions `span.q_start` on.
        k: Keys.
        v: Values, laid out as the keys.
        span: Positions; `near_start` is a multiple of the block size.
        view: Which blocks each KV head sees.
        scale: Factor of the scores.

    Returns:
        Output [B, H, T, D] and logsumexp [B, H, T] (float32, or float64 for float64).
    """
    parts = Parts(span, view, k.near_BKTD.shape[1])
    q = parts.fold(q_BHTD)
    groups = q_BHTD.shape[1] // parts.num_kv_heads
    near_k, near_v = parts.blocks(k.near_BKTD), parts.blocks(v.near_BKTD)
    flat_q = q.flatten(0, 1)
    mask = parts.diagonal_mask(q, groups)
    out, lse = _flash(
        flat_q, parts.diagonal(near_k), parts.diagonal(near_v), attn_mask=mask, scale=scale
    )
    out, lse = out.to(lse.dtype).contiguous(), lse.contiguous()
    for a, b, start, blocks in parts.windows(parts.count):
        key, value = (window(x, start, b - a, blocks, parts.size) for x in (near_k, near_v))
        merge_into(out[:, a:b], lse[:, a:b], *_flash(flat_q[:, a:b], key, value, scale=scale))
    out, lse = out.view_as(q), lse.view(q.shape[:-1])
    for heads, a, b, tokens in parts.far():
        part = _flash(
            q[:, heads, a:b].flatten(2, 3),
            k.far_BKTD[:, heads, :tokens],
            v.far_BKTD[:, heads, :tokens],
            scale=scale,
        )
        merge_into(out[:, heads, a:b].flatten(2, 3), lse[:, heads, a:b].flatten(2, 3), *part)
    return (
        parts.unfold(out).to(q.dtype).contiguous(),
        parts.unfold(lse[..., None])[..., 0].contiguous(),
    )


def flash(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Dense attention of [B, K, R, D] and its logsumexp [B, K, R], both in the logsumexp's dtype
    and contiguous."""
    out, lse = _flash(q, k, v, scale=scale)
    return out.to(lse.dtype).contiguous(), lse.contiguous()


def merge_into(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Adds a part of the keys to the attention over all others, in place."""
    out.lerp_(part.to(out.dtype), torch.sigmoid(part_lse - lse)[..., None])
    torch.logaddexp(lse, part_lse, out=lse)


def merge_parts(
    q: Tensor, pairs: list[tuple[Tensor, Tensor]], masks: list[Tensor], scale: float
) -> Tensor:
    """Attention over several sets of keys and values as if they were one; rows that see nothing
    give zeros.

    Args:
        q: [B, K, R, D].
        pairs: Keys and values [B, K, S, D] of each set.
        masks: [B, K, R, S] of each set, True where seen.
        scale: Factor of the scores.
    """
    out: Tensor | None = None
    for (key, value), mask in zip(pairs, masks, strict=True):
        if not mask.any():
            continue
        # Zeros instead of what unseen slots hold: it may be anything, and 0 * NaN is NaN.
        empty = ~mask.any(2)[..., None]
        key, value = key.masked_fill(empty, 0), value.masked_fill(empty, 0)
        bias = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, float("-inf"))
        part, part_lse = _flash(q, key, value, attn_mask=bias, scale=scale)
        nothing = ~mask.any(-1)
        part_lse = part_lse.masked_fill(nothing, float("-inf"))
        part = part.to(part_lse.dtype).masked_fill(nothing[..., None], 0)
        if out is None:
            out, lse = part.contiguous(), part_lse.contiguous()
        else:
            new = torch.logaddexp(lse, part_lse)
            weight = torch.where(new == float("-inf"), 0.0, torch.exp(part_lse - new))
            out.lerp_(part, weight[..., None])
            lse = new
    return torch.zeros_like(q) if out is None else out.to(q.dtype)


def attend_backward(
    grad_BHTD: Tensor,
    q_BHTD: Tensor,
    k: Keys,
    v: Keys,
    out_BHTD: Tensor,
    lse_BHT: Tensor,
    span: Span,
    view: HeadView,
    scale: float,
) -> tuple[Tensor, Keys, Keys]:
    """Gradients of `attend`: dQ [B, H, T, D], dK and dV in both regions; float32 (float64 for
    float64)."""
    parts = Parts(span, view, k.near_BKTD.shape[1])
    q, grad, out = parts.fold(q_BHTD), parts.fold(grad_BHTD), parts.fold(out_BHTD)
    lse = parts.fold(lse_BHT[..., None])[..., 0]
    near_k, near_v = parts.blocks(k.near_BKTD), parts.blocks(v.near_BKTD)
    dq = torch.zeros(q.shape, dtype=lse.dtype)
    near = [torch.zeros(x.shape, dtype=lse.dtype) for x in (near_k, near_v)]
    far = [torch.zeros(x.shape, dtype=lse.dtype) for x in (k.far_BKTD, v.far_BKTD)]

    def backward(
        rows: tuple[Tensor, ...], key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> list[Tensor]:
        grad_, q_, out_, lse_ = rows
        return list(
            _flash_backward(
                grad_, q_, key, value, out_, lse_, 0.0, False, attn_mask=mask, scale=scale
            )
        )

    flat = tuple(x.flatten(0, 1) for x in (grad, q, out, lse))
    flat_dq = dq.flatten(0, 1)
    mask = parts.diagonal_mask(q, q_BHTD.shape[1] // parts.num_kv_heads)
    results = backward(flat, parts.diagonal(near_k), parts.diagonal(near_v), mask)
    flat_dq += results[0]
    for total, share in zip(near, results[1:], strict=True):
        parts.diagonal(total).add_(share)
    for a, b, start, blocks in parts.windows(_WINDOWS_PER_CALL):
        key, value = (window(x, start, b - a, blocks, parts.size) for x in (near_k, near_v))
        results = backward(tuple(x[:, a:b] for x in flat), key, value)
        flat_dq[:, a:b] += results[0]
        for total, share in zip(near, results[1:], strict=True):
            by_window = share.unflatten(2, (blocks, parts.size))
            for w in range(blocks):
                first = (start + w) * parts.size
                total[:, first : first + (b - a) * parts.size] += by_window[:, :, w].flatten(1, 2)
    for heads, a, b, tokens in parts.far():
        rows = tuple(x[:, heads, a:b].flatten(2, 3) for x in (grad, q, out, lse))
        results = backward(rows, k.far_BKTD[:, heads, :tokens], v.far_BKTD[:, heads, :tokens])
        dq[:, heads, a:b].flatten(2, 3).add_(results[0])
        for total, share in zip(far, results[1:], strict=True):
            total[:, heads, :tokens] += share
    length = k.near_BKTD.shape[2]
    shape = k.near_BKTD.shape[:2]
    near_dk, near_dv = (
        functional.pad(x, (0, 0, 0, length - x.shape[1])).unflatten(0, shape) for x in near
    )
    return parts.unfold(dq), Keys(far[0], near_dk), Keys(far[1], near_dv)


def _far_indices(view: HeadView, last_block: int, num_kv_heads: int) -> Tensor | None:
    """Block numbers of the permanent blocks before the last query's window [K, P], or None where
    there are none.

    Heads differ in length; the short ones repeat block 0 at the end, which `Parts.far` never reads.
    """
    lists = [view.far_blocks(last_block, head) for head in range(num_kv_heads)]
    longest = max(map(len, lists))
    return torch.tensor([row + [0] * (longest - len(row)) for row in lists]) if longest else None


def _gather(x_BKTD: Tensor, indices: Tensor | None, size: int) -> Tensor:
    if indices is None:
        return x_BKTD[:, :, :0]
    whole = x_BKTD.shape[2] // size
    blocks = x_BKTD[:, :, : whole * size].unflatten(2, (whole, size))
    return torch.stack([blocks[:, head, row] for head, row in enumerate(indices)], 1).flatten(2, 3)


def _scatter(total_BKTD: Tensor, share: Tensor, indices: Tensor | None, size: int) -> None:
    if indices is None:
        return
    whole = total_BKTD.shape[2] // size
    blocks = total_BKTD[:, :, : whole * size].unflatten(2, (whole, size))
    for head, row in enumerate(indices):
        blocks[:, head].index_add_(1, row, share[:, head].unflatten(1, (-1, size)))


def _rows(
    q: Tensor, k: Tensor, starts: Tensor | None
) -> Iterator[tuple[list[int] | slice, int, Span]]:
    """Rows that begin at the same slot, together: (rows, first real slot, span with real queries
    only)."""
    by_start: dict[int, list[int]] = {}
    for row, start in enumerate([0] * q.shape[0] if starts is None else starts.tolist()):
        by_start.setdefault(start, []).append(row)
    for start, rows in by_start.items():
        q_start = k.shape[2] - q.shape[2] - start
        span = Span(max(0, q_start), q.shape[2] + min(0, q_start), 0)
        if span.q_len > 0:
            yield (slice(None) if len(by_start) == 1 else rows), start, span


def forward(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None, numbers: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    """The op's forward: see `define_attention_op`."""
    view = HeadView.unpack(numbers)
    size = view.pattern.block_size

    def run(rows: list[int] | slice, start: int, span: Span) -> tuple[Tensor, Tensor]:
        keys, values = k[rows, :, start:], v[rows, :, start:]
        far = _far_indices(view, (keys.shape[2] - 1) // size, k.shape[1])
        queries = q[rows, :, -span.q_len :]
        pair = (Keys(_gather(x, far, size), x) for x in (keys, values))
        return attend(queries, next(pair), next(pair), span, view, scale)

    parts = list(_rows(q, k, starts))
    if len(parts) == 1 and isinstance(parts[0][0], slice) and parts[0][2].q_len == q.shape[2]:
        return run(*parts[0])
    out = torch.zeros(q.shape, dtype=q.dtype)
    lse = torch.zeros(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))
    for rows, start, span in parts:
        out[rows, :, -span.q_len :], lse[rows, :, -span.q_len :] = run(rows, start, span)
    return out, lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    starts: Tensor | None,
    numbers: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The op's backward: see `define_attention_op`."""
    view = HeadView.unpack(numbers)
    size = view.pattern.block_size
    dq, dk, dv = (torch.zeros(x.shape, dtype=x.dtype) for x in (q, k, v))
    for rows, start, span in _rows(q, k, starts):
        keys, values = k[rows, :, start:], v[rows, :, start:]
        far = _far_indices(view, (keys.shape[2] - 1) // size, k.shape[1])
        queries = (x[rows, :, -span.q_len :] for x in (grad, q, out, lse))
        grad_, q_, out_, lse_ = queries
        dq_, dk_, dv_ = attend_backward(
            grad_,
            q_,
            Keys(_gather(keys, far, size), keys),
            Keys(_gather(values, far, size), values),
            out_,
            lse_,
            span,
            view,
            scale,
        )
        for share in (dk_, dv_):
            _scatter(share.near_BKTD, share.far_BKTD, far, size)
        dq[rows, :, -span.q_len :] = dq_.to(q.dtype)
        dk[rows, :, start:], dv[rows, :, start:] = (
            dk_.near_BKTD.to(k.dtype),
            dv_.near_BKTD.to(v.dtype),
        )
    return dq, dk, dv


attention = define_attention_op("cpu", forward, backward)
