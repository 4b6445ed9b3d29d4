"""Decoding from a compact cache in portable PyTorch, and the definition of that cache's layout.

A cache keeps two regions for each row and KV head:

    far    the permanent blocks that lie outside the window of the newest token, in order, without gaps
    near   a ring of R slots: position p lies in slot p % R

For the last Tq positions R must be at least the window plus Tq - 1 tokens. Slots beyond what a row's length implies
may hold anything.

Shapes: B rows, H query heads, K KV heads, G = H / K, T queries, F far slots, R ring slots, D head dim.
"""

import torch
from torch import Tensor

from longreach.kernels.cpu import merge_parts
from longreach.kernels.view import HeadView


def ring_positions(lengths: Tensor, capacity: int) -> Tensor:
    """The position in each slot of a ring after `lengths` tokens: [B, capacity]; negative where there is none yet."""
    last = lengths[:, None] - 1
    return last - (last - torch.arange(capacity, device=lengths.device)) % capacity


def far_positions(lengths: Tensor, view: HeadView, num_kv_heads: int, capacity: int) -> Tensor:
    """The position in each far slot after `lengths` tokens: [B, K, capacity]; negative where there is none."""
    size = view.pattern.block_size
    rows = []
    for length in lengths.tolist():
        heads = []
        for head in range(num_kv_heads):
            blocks = torch.tensor(view.far_blocks(max(0, length - 1) // size, head), dtype=torch.long)
            positions = (blocks[:, None] * size + torch.arange(size)).flatten()[:capacity]
            heads.append(torch.nn.functional.pad(positions, (0, capacity - len(positions)), value=-1))
        rows.append(torch.stack(heads))
    return torch.stack(rows)


def decode(
    q: Tensor,
    far: tuple[Tensor, Tensor],
    near: tuple[Tensor, Tensor],
    view: HeadView,
    scale: float,
    lengths: Tensor,
) -> Tensor:
    """Attention of the last T positions of each row over a compact cache: [B, H, T, D]; no gradients."""
    b, h, t, d = q.shape
    kv_heads, size = near[0].shape[1], view.pattern.block_size
    q_pos = (lengths[:, None] - t + torch.arange(t))[:, None, :, None]  # [B, 1, T, 1]
    far_pos = far_positions(lengths, view, kv_heads, far[0].shape[2])[:, :, None, :]
    ring_pos = ring_positions(lengths, near[0].shape[2])[:, None, None, :]

    def local(k_pos: Tensor) -> Tensor:
        return q_pos // size - k_pos // size < view.pattern.local_blocks

    # A permanent block that leaves the window between two of the queries is in both regions, each query in one.
    seen = [(far_pos >= 0) & ~local(far_pos), (ring_pos >= 0) & (ring_pos <= q_pos) & local(ring_pos)]
    folded = q.reshape(b, kv_heads, h // kv_heads * t, d)
    masks = [mask.expand(b, kv_heads, t, mask.shape[-1]).repeat(1, 1, h // kv_heads, 1) for mask in seen]
    return merge_parts(folded, [far, near], masks, scale).reshape(b, h, t, d)
