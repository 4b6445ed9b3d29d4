"""Attention over all keys on a CPU as a torch op: padded rows in groups, permanent blocks gathered.

Shapes: B rows, H query heads, K KV heads, P permanent blocks, Tq queries, Tk keys, D head dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from longreach.kernels.backend import Retained
from longreach.kernels.cpu.parts import BlockSpan
from longreach.kernels.cpu.prefill import attend, attend_backward
from longreach.kernels.ops import define_attention_op
from longreach.kernels.view import HeadView


def _far_indices(view: HeadView, last_block: int, num_kv_heads: int) -> Tensor | None:
    """Returns the block numbers of the permanent blocks before the last query's window [K, P].

    None where there are none. Heads differ in length; the short ones repeat block 0 at the end,
    which `Parts.far` never reads.
    """
    lists = [view.far_blocks(last_block, head) for head in range(num_kv_heads)]
    longest = max(map(len, lists))
    if longest == 0:
        return None
    return torch.tensor([blocks + [0] * (longest - len(blocks)) for blocks in lists])


def _gather(x_BKTD: Tensor, indices: Tensor | None, size: int) -> Tensor:
    """Returns the blocks with these numbers, [B, K, P * size, D]."""
    if indices is None:
        return x_BKTD[:, :, :0]
    # A last block that is not full is never far.
    whole = x_BKTD.shape[2] // size
    blocks = x_BKTD[:, :, : whole * size].unflatten(2, (whole, size))
    chosen = [blocks[:, head, row] for head, row in enumerate(indices)]
    return torch.stack(chosen, 1).flatten(2, 3)


def _scatter(total_BKTD: Tensor, share: Tensor, indices: Tensor | None, size: int) -> None:
    """Adds to the blocks with these numbers: the inverse of `_gather`."""
    if indices is None:
        return
    whole = total_BKTD.shape[2] // size
    blocks = total_BKTD[:, :, : whole * size].unflatten(2, (whole, size))
    for head, row in enumerate(indices):
        # Short lists repeat block 0, so its shares have to be added and not assigned.
        blocks[:, head].index_add_(1, row, share[:, head].unflatten(1, (-1, size)))


class _Group(NamedTuple):
    """Rows that begin at the same slot.

    Attributes:
        rows: Their indices; a slice where these are all rows.
        start: Their first real slot.
        span: Positions of their real queries, and of all their keys.
        far: Numbers of the far blocks [K, P], or None.
    """

    rows: list[int] | slice
    start: int
    span: BlockSpan
    far: Tensor | None

    def queries_of(self, x: Tensor) -> Tensor:
        """Returns the real queries of these rows in a tensor [B, H, Tq, ...]."""
        return x[self.rows, :, -self.span.q_len :]

    def keep(self, k: Tensor, v: Tensor, size: int) -> Retained:
        """Returns the keys and values of these rows in two regions."""
        keys = k[self.rows, :, self.start :]
        values = v[self.rows, :, self.start :]
        return Retained(
            _gather(keys, self.far, size), _gather(values, self.far, size), keys, values
        )


def _group_rows(q: Tensor, k: Tensor, view: HeadView, starts: Tensor | None) -> Iterator[_Group]:
    """Yields the rows that begin at the same slot together, where they have real queries."""
    # One call for all rows with the same start: most batches have one start, or few.
    by_start: dict[int, list[int]] = {}
    first = [0] * q.shape[0] if starts is None else starts.tolist()
    for row, start in enumerate(first):
        by_start.setdefault(start, []).append(row)
    for start, rows in by_start.items():
        # This is negative where the row's padding reaches into the queries.
        q_start = k.shape[2] - q.shape[2] - start
        span = BlockSpan(max(0, q_start), q.shape[2] + min(0, q_start), 0)
        if span.q_len > 0:
            last_block = (k.shape[2] - start - 1) // view.pattern.block_size
            far = _far_indices(view, last_block, k.shape[1])
            # A slice is a view, a list of rows a copy.
            chosen = slice(None) if len(by_start) == 1 else rows
            yield _Group(chosen, start, span, far)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    numbers: Sequence[int],
    scale: float,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns the output and the logsumexp of the op: see `define_attention_op`."""
    view = HeadView.unpack(numbers)
    size = view.pattern.block_size
    groups = list(_group_rows(q, k, view, starts))
    if len(groups) == 1:
        only = groups[0]
        if isinstance(only.rows, slice) and only.span.q_len == q.shape[2]:
            return attend(q, only.keep(k, v, size), view, scale, only.span)
    # Padding queries stay zero.
    out = torch.zeros(q.shape, dtype=q.dtype)
    lse = torch.zeros(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))
    for group in groups:
        part = attend(group.queries_of(q), group.keep(k, v, size), view, scale, group.span)
        out[group.rows, :, -group.span.q_len :] = part[0]
        lse[group.rows, :, -group.span.q_len :] = part[1]
    return out, lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    numbers: Sequence[int],
    scale: float,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of q, k and v of the op: see `define_attention_op`."""
    view = HeadView.unpack(numbers)
    size = view.pattern.block_size
    dq = torch.zeros(q.shape, dtype=q.dtype)
    dk = torch.zeros(k.shape, dtype=k.dtype)
    dv = torch.zeros(v.shape, dtype=v.dtype)
    for group in _group_rows(q, k, view, starts):
        dq_part, kept = attend_backward(
            group.queries_of(grad),
            group.queries_of(q),
            group.keep(k, v, size),
            group.queries_of(out),
            group.queries_of(lse),
            view,
            scale,
            group.span,
        )
        # Far blocks are copies of keys that lie in the near region too: their gradients add up.
        _scatter(kept.near_k, kept.far_k, group.far, size)
        _scatter(kept.near_v, kept.far_v, group.far, size)
        dq[group.rows, :, -group.span.q_len :] = dq_part.to(q.dtype)
        dk[group.rows, :, group.start :] = kept.near_k.to(k.dtype)
        dv[group.rows, :, group.start :] = kept.near_v.to(v.dtype)
    return dq, dk, dv


attention = define_attention_op("cpu", forward, backward)
