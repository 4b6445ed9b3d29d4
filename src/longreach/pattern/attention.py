"""What a sparse layer sees, keeps and costs: the one source of truth for kernels, caches and plans.

Keys and queries are cut into blocks of `block_size` tokens, counted from the first real token of a
row. Which key block a query block sees is the formula of `longreach.pattern.visibility`. Blocks
that are sinks or on the stride are *permanent*: they stay visible for ever. All others are visible
for `local_blocks` blocks and then never again, so a layer needs only two regions: the permanent
blocks in order, and a window. The f-th permanent block does not depend on the query
(`permanent_block`), and a query block sees a prefix of that list (`far_count`). What a cache keeps
and what attention costs follows from these two functions.

Paper: LongGen, "A Little Goes a Long Way: Efficient Long Context Training and Inference with
Partial Contexts".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from longreach.errors import UsageError
from longreach.pattern.visibility import (
    PermanentBlocks,
    is_permanent,
    sees_block,
    sees_key,
    shift_of,
    window_start,
)

if TYPE_CHECKING:
    from torch import BoolTensor


@dataclass(frozen=True)
class AttentionPattern:
    """A static block-sparse causal attention pattern.

    Attributes:
        block_size: Tokens per block, a power of two.
        sink_blocks: First blocks that every query sees (0 for none).
        local_blocks: Blocks of the local window, the query's own block included; at least 1.
        stride: Every stride-th block is visible as well, shifted by KV head and layer; 0 for none.

    Raises:
        UsageError: A value is out of range.
    """

    block_size: int = 64
    sink_blocks: int = 1
    local_blocks: int = 16
    stride: int = 0

    def __post_init__(self) -> None:
        least = {"block_size": 1, "sink_blocks": 0, "local_blocks": 1, "stride": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise UsageError(f"{name} is {value!r}; give a whole number of at least {low}.")
        # Kernels divide and multiply by it in tiles, which are powers of two.
        if self.block_size & (self.block_size - 1):
            below = 1 << (self.block_size.bit_length() - 1)
            raise UsageError(
                f"block_size is {self.block_size}; give a power of two, such as {below} or"
                f" {2 * below}."
            )

    @classmethod
    def sink_window(cls) -> AttentionPattern:
        """Returns variant A of the paper: a sink block and a window of 31 blocks.

        A query sees 2,048 tokens at any length.
        """
        return cls(block_size=64, sink_blocks=1, local_blocks=31, stride=0)

    @classmethod
    def strided(cls) -> AttentionPattern:
        """Returns variant B of the paper: a window of 16 blocks and every 128th block.

        At a length of 131,072 a query sees 2,048 tokens.
        """
        return cls(block_size=64, sink_blocks=0, local_blocks=16, stride=128)

    @classmethod
    def preset(cls, name: str) -> AttentionPattern:
        """Returns the preset called `sink-window` or `strided`."""
        presets = {"sink-window": cls.sink_window, "strided": cls.strided}
        if name not in presets:
            raise UsageError(
                f"There is no pattern called {name!r}; choose one of {', '.join(presets)}."
            )
        return presets[name]()

    @property
    def window_tokens(self) -> int:
        """Returns the tokens of the local window: the most that a ring of its blocks holds."""
        return self.local_blocks * self.block_size

    def blocks(self, length: int) -> int:
        """Returns how many blocks `length` tokens fill or begin."""
        return -(-length // self.block_size)

    # -- blocks
    # ------------------------------------------------------------------------------------------

    def offset(self, head: int, num_kv_heads: int, layer: int = 0) -> int:
        """Returns the shift of the strided blocks of a KV head, in blocks."""
        self._check_head(head, num_kv_heads)
        return shift_of(self, head, num_kv_heads, layer)

    def keeps(self, i: int, j: int, head: int = 0, num_kv_heads: int = 1, layer: int = 0) -> bool:
        """Returns whether query block `i` sees key block `j`.

        Inside block `i` a query sees only the keys up to itself.
        """
        return j >= 0 and bool(sees_block(self, i, j, self.offset(head, num_kv_heads, layer)))

    def is_permanent(self, j: int, head: int = 0, num_kv_heads: int = 1, layer: int = 0) -> bool:
        """Returns whether key block `j` stays visible for ever: a sink, or on the stride."""
        return bool(is_permanent(self, j, self.offset(head, num_kv_heads, layer)))

    def permanent(self, head: int = 0, num_kv_heads: int = 1, layer: int = 0) -> PermanentBlocks:
        """Returns the permanent blocks of a KV head as the numbers that a kernel computes with."""
        return PermanentBlocks.of(self, self.offset(head, num_kv_heads, layer))

    def permanent_block(self, f: int, head: int = 0, num_kv_heads: int = 1, layer: int = 0) -> int:
        """Returns the block number of the `f`-th permanent block (from 0).

        Raises:
            UsageError: The pattern has no stride, and fewer sinks than that.
        """
        permanent = self.permanent(head, num_kv_heads, layer)
        if f >= permanent.sink and permanent.stride == 0:
            raise UsageError(
                f"permanent block {f} does not exist: without a stride there are {permanent.sink}"
                " (the sinks)."
            )
        return permanent.block(f)

    def permanent_count(
        self, blocks: int, head: int = 0, num_kv_heads: int = 1, layer: int = 0
    ) -> int:
        """Returns how many of the first `blocks` blocks are permanent."""
        return self.permanent(head, num_kv_heads, layer).count(blocks)

    def far_count(self, i: int, head: int = 0, num_kv_heads: int = 1, layer: int = 0) -> int:
        """Returns how many permanent blocks query block `i` sees before its local window.

        They are the first ones of all permanent blocks.
        """
        return self.permanent_count(window_start(self, i), head, num_kv_heads, layer)

    def far_blocks(self, i: int, head: int = 0, num_kv_heads: int = 1, layer: int = 0) -> list[int]:
        """Returns the numbers of the blocks that `far_count` counts, ascending."""
        permanent = self.permanent(head, num_kv_heads, layer)
        return [permanent.block(f) for f in range(permanent.count(window_start(self, i)))]

    def local_start(self, i: int) -> int:
        """Returns the first block of the local window of query block `i`, which ends with `i`."""
        return window_start(self, i)

    # -- what a cache keeps
    # ------------------------------------------------------------------------------------------

    def retained(self, length: int, num_kv_heads: int, layer: int = 0) -> list[list[int]]:
        """Returns the key positions that later queries may still see, for each KV head.

        Args:
            length: Tokens so far: queries at this position and later count.
            num_kv_heads: KV heads of the model.
            layer: Index of the layer.

        Returns:
            A list for each KV head, ascending.
        """
        self._check_lengths(length, length)
        self._check_head(0, num_kv_heads)
        kept = []
        for head in range(num_kv_heads):
            positions: list[int] = []
            for span in self._retained_spans(length, head, num_kv_heads, layer):
                positions += span
            kept.append(positions)
        return kept

    def kv_tokens(self, length: int, num_kv_heads: int, layer: int = 0) -> list[int]:
        """Returns how many positions `retained` keeps, for each KV head; O(1) per head."""
        next_block = length // self.block_size
        window = length - self.local_start(next_block) * self.block_size
        counts = []
        for head in range(num_kv_heads):
            far = self.far_count(next_block, head, num_kv_heads, layer)
            counts.append(far * self.block_size + window)
        return counts

    def kv_bytes(
        self, length: int, num_kv_heads: int, head_dim: int, itemsize: int, layer: int = 0
    ) -> int:
        """Returns the bytes of keys and values retained in one layer for one row.

        `itemsize` is the bytes of a number (2 for bf16).
        """
        return 2 * sum(self.kv_tokens(length, num_kv_heads, layer)) * head_dim * itemsize

    def _retained_spans(
        self, length: int, head: int, num_kv_heads: int, layer: int
    ) -> Iterator[range]:
        """Yields the positions that a KV head keeps: the permanent blocks, then the window."""
        size = self.block_size
        next_block = length // size
        for block in self.far_blocks(next_block, head, num_kv_heads, layer):
            yield range(block * size, (block + 1) * size)
        yield range(self.local_start(next_block) * size, length)

    # -- work
    # ------------------------------------------------------------------------------------------

    def visited(
        self, length: int, num_kv_heads: int = 1, layer: int = 0, *, q_len: int | None = None
    ) -> list[int]:
        """Returns how many query-key pairs some queries visit, for each KV head; O(1).

        Args:
            length: Tokens.
            num_kv_heads: KV heads of the model.
            layer: Index of the layer.
            q_len: Queries, the last ones; None for all tokens.
        """
        start = self._check_lengths(length if q_len is None else q_len, length)
        pairs = []
        for head in range(num_kv_heads):
            whole = self._visited_from_zero(length, head, num_kv_heads, layer)
            before = self._visited_from_zero(start, head, num_kv_heads, layer)
            pairs.append(whole - before)
        return pairs

    def density(self, length: int, num_kv_heads: int = 1, layer: int = 0) -> float:
        """Returns visited over causal query-key pairs, the mean over `num_kv_heads` KV heads.

        Heads and layers differ only in where their strided blocks start, so one head of layer 0
        (the default) is within one block per query of any other; give the real number for the exact
        mean.
        """
        visited = sum(self.visited(length, num_kv_heads, layer))
        if not visited:
            return 1.0
        return visited / (length * (length + 1) // 2 * num_kv_heads)

    def attention_flops(
        self,
        length: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        layer: int = 0,
        *,
        q_len: int | None = None,
    ) -> int:
        """Returns the floating-point operations of the forward pass of one layer and row.

        The backward pass takes 2.5 times that. These are two products of 2 * head_dim operations
        per visited pair and query head; softmax is not counted.
        """
        pairs = sum(self.visited(length, num_kv_heads, layer, q_len=q_len))
        return 4 * head_dim * pairs * num_heads // num_kv_heads

    def _visited_from_zero(self, length: int, head: int, num_kv_heads: int, layer: int) -> int:
        size = self.block_size
        full, rest = divmod(length, size)
        # Each query sees t + 1 keys, less the blocks that have left its window, plus the permanent
        # ones among these.
        hidden = size * size * _triangle(full - self.local_blocks)
        hidden += rest * size * max(0, full - self.local_blocks + 1)
        # Permanent block j is far for all queries from block j + local_blocks on; sum that over
        # both progressions.
        reach = length - self.window_tokens
        sink, first, stride = self.permanent(head, num_kv_heads, layer)
        far = _ramp(reach, size, sink) * size
        if stride:
            far += _ramp(reach - first * size, stride * size, length) * size
        return length * (length + 1) // 2 - hidden + far

    # -- dense
    # ------------------------------------------------------------------------------------------

    def mask(self, q_len: int, kv_len: int, num_kv_heads: int, layer: int = 0) -> BoolTensor:
        """Returns the pattern as a dense mask, for tests and for the reference.

        Returns:
            BoolTensor [num_kv_heads, q_len, kv_len], True where the query (one of the last q_len
            positions) sees the key.
        """
        import torch

        start = self._check_lengths(q_len, kv_len)
        q = torch.arange(start, kv_len)[None, :, None]
        k = torch.arange(kv_len)[None, None, :]
        shifts = [self.offset(head, num_kv_heads, layer) for head in range(num_kv_heads)]
        seen = sees_key(self, q, k, torch.tensor(shifts)[:, None, None])
        return cast("BoolTensor", seen.expand(num_kv_heads, q_len, kv_len).contiguous())

    def _check_head(self, head: int, num_kv_heads: int) -> None:
        if num_kv_heads < 1 or not 0 <= head < num_kv_heads:
            raise UsageError(
                f"KV head {head} of {num_kv_heads} does not exist; count heads from 0."
            )

    def _check_lengths(self, q_len: int, kv_len: int) -> int:
        if kv_len < 0:
            raise UsageError(f"The length is {kv_len}; give a number of tokens, at least 0.")
        if not 0 <= q_len <= kv_len:
            raise UsageError(
                f"q_len is {q_len}; queries are the last of {kv_len} positions, so give 0 to"
                f" {kv_len}."
            )
        return kv_len - q_len


def _triangle(n: int) -> int:
    return n * (n + 1) // 2 if n > 0 else 0


def _ramp(reach: int, step: int, terms: int) -> int:
    """The sum of max(0, reach - f * step) over f = 0 .. terms - 1."""
    if reach <= 0 or terms <= 0:
        return 0
    positive = min(terms, -(-reach // step))
    return positive * reach - step * positive * (positive - 1) // 2
