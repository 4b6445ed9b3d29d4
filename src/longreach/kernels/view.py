"""One layer's share of a pattern, as the kernels receive it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from longreach.pattern import AttentionPattern
from longreach.pattern.visibility import sees_key


class HeadView(NamedTuple):
    """A pattern as the KV heads of one tensor see it.

    A rank of a tensor- or sequence-parallel (Ulysses) group holds only some heads; `first_head` and
    `total_heads` say which, so that every head keeps the offset it has on a single device.

    Attributes:
        pattern: The pattern.
        layer: Index of the layer.
        first_head: Index, in the whole model, of the tensor's KV head 0.
        total_heads: KV heads of the whole model.
    """

    pattern: AttentionPattern
    layer: int
    first_head: int
    total_heads: int

    def pack(self) -> list[int]:
        """Returns seven integers, which a custom op's schema can carry."""
        p = self.pattern
        return [
            p.block_size,
            p.sink_blocks,
            p.local_blocks,
            p.stride,
            self.layer,
            self.first_head,
            self.total_heads,
        ]

    @classmethod
    def unpack(cls, numbers: Sequence[int]) -> HeadView:
        """Returns the view that was packed: the inverse of `pack`."""
        return cls(AttentionPattern(*numbers[:4]), *numbers[4:])

    def offset(self, head: int) -> int:
        """Returns the shift of the strided blocks of the tensor's KV head `head`, in blocks."""
        return self.pattern.offset(self.first_head + head, self.total_heads, self.layer)

    def shifts(self, num_kv_heads: int, device: torch.device) -> Tensor:
        """Returns `offset` of the tensor's KV heads: [num_kv_heads]."""
        return torch.tensor([self.offset(head) for head in range(num_kv_heads)], device=device)

    def first_strided(self, head: int) -> int:
        """Returns the first block on the stride after the sinks (0 without a stride)."""
        return self.pattern.permanent(self.first_head + head, self.total_heads, self.layer).first

    def far_count(self, i: int, head: int) -> int:
        """Returns how many permanent blocks are before the window of query block `i`."""
        return self.pattern.far_count(i, self.first_head + head, self.total_heads, self.layer)

    def far_blocks(self, i: int, head: int) -> list[int]:
        """Returns the numbers of these blocks, ascending."""
        return self.pattern.far_blocks(i, self.first_head + head, self.total_heads, self.layer)

    def alike(self, num_kv_heads: int) -> list[tuple[int, int]]:
        """Returns ranges of KV heads with the same blocks: all heads, or each with a stride."""
        # Only strided blocks depend on the head.
        if not self.pattern.stride:
            return [(0, num_kv_heads)]
        return [(head, head + 1) for head in range(num_kv_heads)]

    def mask(self, q_pos: Tensor, k_pos: Tensor, num_kv_heads: int) -> Tensor:
        """Returns the dense mask of two vectors of positions, negative ones being padding.

        Its shape is [num_kv_heads, len(q_pos), len(k_pos)], on the positions' device.
        """
        q = q_pos[None, :, None]
        k = k_pos[None, None, :]
        shifts = self.shifts(num_kv_heads, q_pos.device)
        seen = sees_key(self.pattern, q, k, shifts[:, None, None]) & (k >= 0)
        return seen.expand(num_kv_heads, len(q_pos), len(k_pos))
