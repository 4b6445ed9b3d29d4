"""The one formula of which key block a query block sees, and its inverse.

KV head g of layer l keeps key block j for query block i iff

    j <= i  and  (i - j < local_blocks  or  j < sink_blocks
                  or  stride > 0 and (j + shift) % stride == 0)
    shift = g * max(1, stride // num_kv_heads) + l

and inside block i attention is token-causal. Masks, caches, plans and kernels ask the functions
below; only the Triton kernels repeat them in their own language (`kernels/triton/blocks.py`), and
a test compares the two.

The functions take whole numbers or tensors of them, and give a bool or a tensor of bools. They
never import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from longreach.pattern.attention import AttentionPattern


# Whole numbers, or tensors of them; a bool is a whole number.
N = TypeVar("N", int, "Tensor")


def step_of_heads(pattern: AttentionPattern, num_kv_heads: int) -> int:
    """Returns by how many blocks the strided blocks of a KV head differ from the next one's."""
    # Spread over the stride, so that the heads together see as much as they can. At least 1, or
    # all heads would see the same blocks.
    return max(1, pattern.stride // num_kv_heads)


def shift_of(pattern: AttentionPattern, head: N, num_kv_heads: int, layer: int) -> N:
    """Returns the shift of the strided blocks of a KV head in a layer, in blocks."""
    return head * step_of_heads(pattern, num_kv_heads) + layer


def is_in_window(pattern: AttentionPattern, i: N, j: N) -> N:
    """Returns whether key block `j` has not left the local window of query block `i`."""
    return i - j < pattern.local_blocks


def is_permanent(pattern: AttentionPattern, j: N, shift: N) -> N:
    """Returns whether key block `j` stays visible for ever: a sink, or on the stride."""
    permanent = j < pattern.sink_blocks
    if pattern.stride:
        permanent = permanent | ((j + shift) % pattern.stride == 0)
    return permanent


def is_kept(pattern: AttentionPattern, i: N, j: N, shift: N) -> N:
    """Returns whether key block `j` is visible to query block `i`, given that j <= i."""
    return is_in_window(pattern, i, j) | is_permanent(pattern, j, shift)


def sees_block(pattern: AttentionPattern, i: N, j: N, shift: N) -> N:
    """Returns whether query block `i` sees key block `j`, for j >= 0."""
    return (j <= i) & is_kept(pattern, i, j, shift)


def sees_key(pattern: AttentionPattern, q: N, k: N, shift: N) -> N:
    """Returns whether the query at position `q` sees the key at position `k`, for k >= 0."""
    # `k <= q` says more than that the key's block is not after the query's.
    return (k <= q) & is_kept(pattern, q // pattern.block_size, k // pattern.block_size, shift)


def window_start(pattern: AttentionPattern, i: int) -> int:
    """Returns the first block of the local window of query block `i`, which ends with block `i`."""
    return max(0, i - pattern.local_blocks + 1)


class PermanentBlocks(NamedTuple):
    """The permanent blocks of one KV head, ascending; the list does not depend on the query.

    Attributes:
        sink: Blocks 0 to sink - 1 are permanent.
        first: The first block on the stride after them (0 without a stride).
        stride: After it every stride-th block is permanent; 0 for none.
    """

    sink: int
    first: int
    stride: int

    @classmethod
    def of(cls, pattern: AttentionPattern, shift: int) -> PermanentBlocks:
        """Returns those of a KV head whose strided blocks are shifted by `shift` blocks."""
        sink = pattern.sink_blocks
        stride = pattern.stride
        if stride == 0:
            return cls(sink, 0, 0)
        # How far the first block after the sinks lies behind the last one on the stride.
        behind = (sink + shift) % stride
        return cls(sink, sink + (-behind) % stride, stride)

    def block(self, f: int) -> int:
        """Returns the number of the `f`-th permanent block (from 0)."""
        return f if f < self.sink else self.first + (f - self.sink) * self.stride

    def count(self, blocks: int) -> int:
        """Returns how many of the first `blocks` blocks are permanent."""
        strided = 0
        if self.stride:
            # Rounded up, because the block `first` itself counts.
            strided = max(0, -(-(blocks - self.first) // self.stride))
        return min(self.sink, max(0, blocks)) + strided
