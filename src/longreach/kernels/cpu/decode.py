"""Decoding from a compact cache in portable PyTorch, and the definition of that cache's layout.

A cache keeps two regions for each row and KV head:

    far    the permanent blocks that lie outside the window of the newest token, in order, without
    gaps near   a ring of R slots: position p lies in slot p % R

For the last Tq positions R must be at least the window plus Tq - 1 tokens. Slots beyond what a
row's length implies may hold anything. A cache whose tensors never move writes tokens of permanent
blocks to both regions at once (`store`): its far region has one block more than it will ever need,
where tokens of all other blocks go, and which nobody reads.

Shapes: B rows, H query heads, K KV heads, G = H / K, T queries, F far slots, R ring slots, D head
dim.
"""

import torch
from torch import Tensor

from longreach.kernels.cpu.prefill import flash, merge_into, merge_parts
from longreach.kernels.view import HeadView
from longreach.pattern.visibility import is_in_window, is_permanent


def ring_positions(lengths: Tensor, capacity: int) -> Tensor:
    """The position in each slot of a ring after `lengths` tokens: [B, capacity]; negative where
    there is none yet."""
    last = lengths[:, None] - 1
    return last - (last - torch.arange(capacity, device=lengths.device)) % capacity


def far_positions(lengths: Tensor, view: HeadView, num_kv_heads: int, capacity: int) -> Tensor:
    """The position in each far slot after `lengths` tokens: [B, K, capacity]; negative where there
    is none."""
    size = view.pattern.block_size
    rows = []
    for length in lengths.tolist():
        heads = []
        for head in range(num_kv_heads):
            blocks = torch.tensor(
                view.far_blocks(max(0, length - 1) // size, head), dtype=torch.long
            )
            positions = (blocks[:, None] * size + torch.arange(size)).flatten()[:capacity]
            heads.append(
                torch.nn.functional.pad(positions, (0, capacity - len(positions)), value=-1)
            )
        rows.append(torch.stack(heads))
    return torch.stack(rows)


def store(
    k: Tensor,
    v: Tensor,
    far: tuple[Tensor, Tensor],
    near: tuple[Tensor, Tensor],
    view: HeadView,
    positions: Tensor,
) -> None:
    """Writes tokens into a cache whose tensors never move, by arithmetic of fixed shapes.

    Args:
        k: [B, K, T, D].
        v: [B, K, T, D].
        far: Room [B, K, F, D] for all permanent blocks and one more; F = 0 where none is ever far.
        near: Ring [B, K, R, D], R >= T.
        view: Which blocks are permanent.
        positions: [B, T] of the tokens.
    """
    p, size, kv_heads = view.pattern, view.pattern.block_size, k.shape[1]
    slots = (positions % near[0].shape[2])[:, None, :, None].expand_as(k)
    near[0].scatter_(2, slots, k)
    near[1].scatter_(2, slots, v)
    if far[0].shape[2] == 0:
        return
    block = positions[:, None] // size  # [B, 1, T]
    rank = block
    if p.stride:
        firsts = [view.first_strided(head) for head in range(kv_heads)]
        behind = block - torch.tensor(firsts, device=k.device)[:, None]
        rank = torch.where(block < p.sink_blocks, block, p.sink_blocks + behind // p.stride)
    unread = far[0].shape[2] // size - 1
    stays = is_permanent(p, block, view.shifts(kv_heads, k.device)[:, None])
    rank = torch.where(stays & (rank < unread), rank, unread)
    slots = (rank * size + positions[:, None] % size)[..., None].expand_as(k)
    far[0].scatter_(2, slots, k)
    far[1].scatter_(2, slots, v)


# Reads lengths: torch.compile would make a program for each.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def decode(
    q: Tensor,
    far: tuple[Tensor, Tensor],
    near: tuple[Tensor, Tensor],
    view: HeadView,
    scale: float,
    lengths: Tensor,
) -> Tensor:
    """Attention of the last T positions of each row over a compact cache: [B, H, T, D]; no
    gradients."""
    if q.shape[2] > 1:
        return _decode_several(q, far, near, view, scale, lengths)
    rows = lengths.tolist()
    if len(set(rows)) == 1:
        return _decode_one(q, far, near, view, scale, rows[0])
    out = []
    for b, length in enumerate(rows):
        one = slice(b, b + 1)
        out.append(
            _decode_one(
                q[one],
                (far[0][one], far[1][one]),
                (near[0][one], near[1][one]),
                view,
                scale,
                length,
            )
        )
    return torch.cat(out)


def _decode_one(
    q: Tensor,
    far: tuple[Tensor, Tensor],
    near: tuple[Tensor, Tensor],
    view: HeadView,
    scale: float,
    length: int,
) -> Tensor:
    """One query in rows of one length. What it sees are a few slices of the two regions: no masks,
    no copies."""
    if length < 1:
        return torch.zeros_like(q)
    b, h, _, d = q.shape
    (kv_heads, ring), size = near[0].shape[1:3], view.pattern.block_size
    folded = q.reshape(b, kv_heads, h // kv_heads, d)
    block = (length - 1) // size
    low, high = view.pattern.local_start(block) * size % ring, (length - 1) % ring + 1
    window = [slice(low, high)] if low < high else [slice(0, high), slice(low, ring)]
    out, lse = flash(folded, near[0][:, :, window[0]], near[1][:, :, window[0]], scale)
    for span in window[1:]:
        merge_into(out, lse, *flash(folded, near[0][:, :, span], near[1][:, :, span], scale))
    counts = [view.far_count(block, head) * size for head in range(kv_heads)]
    shared = min(counts)  # heads differ by a block at most
    if shared:
        merge_into(out, lse, *flash(folded, far[0][:, :, :shared], far[1][:, :, :shared], scale))
    for head, count in enumerate(counts):
        if count > shared:
            one = slice(head, head + 1)
            part, part_lse = flash(
                folded[:, one], far[0][:, one, shared:count], far[1][:, one, shared:count], scale
            )
            merge_into(out[:, one], lse[:, one], part, part_lse)
    return out.reshape(b, h, 1, d).to(q.dtype)


def _decode_several(
    q: Tensor,
    far: tuple[Tensor, Tensor],
    near: tuple[Tensor, Tensor],
    view: HeadView,
    scale: float,
    lengths: Tensor,
) -> Tensor:
    b, h, t, d = q.shape
    kv_heads, size = near[0].shape[1], view.pattern.block_size
    q_pos = (lengths[:, None] - t + torch.arange(t))[:, None, :, None]  # [B, 1, T, 1]
    far_pos = far_positions(lengths, view, kv_heads, far[0].shape[2])[:, :, None, :]
    ring_pos = ring_positions(lengths, near[0].shape[2])[:, None, None, :]

    def local(k_pos: Tensor) -> Tensor:
        return is_in_window(view.pattern, q_pos // size, k_pos // size)

    # A permanent block that leaves the window between two of the queries is in both regions, each
    # query in one.
    seen = [
        (far_pos >= 0) & ~local(far_pos),
        (ring_pos >= 0) & (ring_pos <= q_pos) & local(ring_pos),
    ]
    folded = q.reshape(b, kv_heads, h // kv_heads * t, d)
    masks = [
        mask.expand(b, kv_heads, t, mask.shape[-1]).repeat(1, 1, h // kv_heads, 1) for mask in seen
    ]
    return merge_parts(folded, [far, near], masks, scale).reshape(b, h, t, d)
