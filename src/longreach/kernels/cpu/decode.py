"""Decoding from a compact cache in portable PyTorch, and the definition of that cache's layout.

A cache keeps two regions for each row and KV head:

    far    the permanent blocks that lie outside the window of the newest token, in order and
           without gaps
    near   a ring of R slots: position p lies in slot p % R

For the last Tq positions R must be at least the window plus Tq - 1 tokens. Slots beyond what a
row's length implies may hold anything. A cache whose tensors never move writes tokens of permanent
blocks to both regions at once (`store`): its far region has one block more than it will ever need,
where tokens of all other blocks go, and which nobody reads.

Shapes: B rows, H query heads, K KV heads, G = H / K, T queries, F far slots, R ring slots, D head
dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from longreach.kernels.backend import Retained
from longreach.kernels.checks import check_far
from longreach.kernels.cpu.prefill import flash, merge_into, merge_parts
from longreach.kernels.view import HeadView
from longreach.pattern.visibility import is_in_window, is_permanent


def ring_positions(lengths: Tensor, capacity: int) -> Tensor:
    """Returns the position in each slot of a ring after `lengths` tokens: [B, capacity].

    It is negative where there is none yet.
    """
    last = lengths[:, None] - 1
    # The newest position that belongs into each slot, which is never after `last`.
    return last - (last - torch.arange(capacity, device=lengths.device)) % capacity


def far_positions(lengths: Tensor, view: HeadView, num_kv_heads: int, capacity: int) -> Tensor:
    """Returns the position in each far slot after `lengths` tokens: [B, K, capacity].

    It is negative where there is none.
    """
    size = view.pattern.block_size
    inside = torch.arange(size)
    rows = []
    for length in lengths.tolist():
        last_block = max(0, length - 1) // size
        heads = []
        for head in range(num_kv_heads):
            blocks = torch.tensor(view.far_blocks(last_block, head), dtype=torch.long)
            positions = (blocks[:, None] * size + inside).flatten()[:capacity]
            heads.append(functional.pad(positions, (0, capacity - len(positions)), value=-1))
        rows.append(torch.stack(heads))
    return torch.stack(rows)


def store(k: Tensor, v: Tensor, kept: Retained, view: HeadView, positions: Tensor) -> None:
    """Writes tokens into a cache whose tensors never move, by arithmetic of fixed shapes.

    Args:
        k: [B, K, T, D].
        v: [B, K, T, D].
        kept: Written to. `far` has slots for all permanent blocks and for one more; none where no
            block is ever far. `near` is a ring of at least T slots.
        view: Which blocks are permanent.
        positions: [B, T] of the tokens.
    """
    p = view.pattern
    size = p.block_size
    kv_heads = k.shape[1]
    slots = (positions % kept.near_k.shape[2])[:, None, :, None].expand_as(k)
    kept.near_k.scatter_(2, slots, k)
    kept.near_v.scatter_(2, slots, v)
    if kept.far_k.shape[2] == 0:
        return
    block = positions[:, None] // size  # [B, 1, T]
    # The rank of a permanent block among all permanent ones is its slot in the far region.
    rank = block
    if p.stride:
        firsts = [view.first_strided(head) for head in range(kv_heads)]
        behind = block - torch.tensor(firsts, device=k.device)[:, None]
        rank = torch.where(block < p.sink_blocks, block, p.sink_blocks + behind // p.stride)
    # Tokens of blocks that are never far are written too, so that shapes stay fixed.
    unread = kept.far_k.shape[2] // size - 1
    stays = is_permanent(p, block, view.shifts(kv_heads, k.device)[:, None])
    rank = torch.where(stays & (rank < unread), rank, unread)
    slots = (rank * size + positions[:, None] % size)[..., None].expand_as(k)
    kept.far_k.scatter_(2, slots, k)
    kept.far_v.scatter_(2, slots, v)


# Reads lengths: torch.compile would make a program for each.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend(q: Tensor, kept: Retained, view: HeadView, scale: float, lengths: Tensor) -> Tensor:
    """Returns the attention of each row's last T positions over a compact cache, no gradients.

    Args:
        q: [B, H, T, D].
        kept: The cache.
        view: Which blocks each KV head sees.
        scale: Factor of the scores.
        lengths: [B] tokens of each row so far, the queries included.

    Returns:
        [B, H, T, D]; zeros where a row has fewer than T tokens.

    Raises:
        UsageError: The far region is too short for the longest row.
    """
    rows = lengths.tolist()
    if rows:
        check_far(kept, view, max(rows))
    if q.shape[2] > 1:
        return _attend_several(q, kept, view, scale, lengths)
    # Rows of one length see the same slices of both regions.
    if len(set(rows)) == 1:
        return _attend_one(q, kept, view, scale, rows[0])
    out = []
    for b, length in enumerate(rows):
        one = slice(b, b + 1)
        out.append(_attend_one(q[one], kept.select_rows(one), view, scale, length))
    return torch.cat(out)


def _attend_one(q: Tensor, kept: Retained, view: HeadView, scale: float, length: int) -> Tensor:
    """Returns the attention of one query in rows of one length: [B, H, 1, D].

    What it sees are a few slices of the two regions: no masks, no copies.
    """
    # An empty row has no token that could ask.
    if length < 1:
        return torch.zeros_like(q)
    b, h, _, d = q.shape
    kv_heads, ring = kept.near_k.shape[1:3]
    size = view.pattern.block_size
    folded = q.reshape(b, kv_heads, h // kv_heads, d)

    block = (length - 1) // size
    low = view.pattern.local_start(block) * size % ring
    high = (length - 1) % ring + 1
    # A window that runs over the end of the ring comes in two slices; their order is the same to
    # attention.
    spans = [slice(low, high)] if low < high else [slice(0, high), slice(low, ring)]
    first = spans[0]
    out, lse = flash(folded, kept.near_k[:, :, first], kept.near_v[:, :, first], scale)
    for span in spans[1:]:
        part = flash(folded, kept.near_k[:, :, span], kept.near_v[:, :, span], scale)
        merge_into(out, lse, *part)

    counts = [view.far_count(block, head) * size for head in range(kv_heads)]
    shared = min(counts)  # heads differ by a block at most
    if shared:
        part = flash(folded, kept.far_k[:, :, :shared], kept.far_v[:, :, :shared], scale)
        merge_into(out, lse, *part)
    for head, count in enumerate(counts):
        if count > shared:
            one = slice(head, head + 1)
            rest = slice(shared, count)
            part = flash(folded[:, one], kept.far_k[:, one, rest], kept.far_v[:, one, rest], scale)
            merge_into(out[:, one], lse[:, one], *part)
    return out.reshape(b, h, 1, d).to(q.dtype)


def _attend_several(
    q: Tensor, kept: Retained, view: HeadView, scale: float, lengths: Tensor
) -> Tensor:
    """Returns the attention of several queries in rows of any lengths, with masks: [B, H, T, D]."""
    b, h, t, d = q.shape
    kv_heads = kept.near_k.shape[1]
    groups = h // kv_heads
    p = view.pattern
    q_pos = (lengths[:, None] - t + torch.arange(t))[:, None, :, None]  # [B, 1, T, 1]
    far_pos = far_positions(lengths, view, kv_heads, kept.far_k.shape[2])[:, :, None, :]
    ring_pos = ring_positions(lengths, kept.near_k.shape[2])[:, None, None, :]

    # A permanent block that leaves the window between two of the queries is in both regions, and
    # each query sees it in one.
    q_block = q_pos // p.block_size
    sees_far = (far_pos >= 0) & ~is_in_window(p, q_block, far_pos // p.block_size)
    sees_near = is_in_window(p, q_block, ring_pos // p.block_size)
    sees_near = sees_near & (ring_pos >= 0) & (ring_pos <= q_pos)
    masks = []
    for mask in (sees_far, sees_near):
        by_head = mask.expand(b, kv_heads, t, mask.shape[-1])
        masks.append(by_head.repeat(1, 1, groups, 1))
    pairs = [(kept.far_k, kept.far_v), (kept.near_k, kept.near_v)]
    folded = q.reshape(b, kv_heads, groups * t, d)
    return merge_parts(folded, pairs, masks, scale).reshape(b, h, t, d)
