"""How a sparse attention call is divided into dense ones: the plan behind `cpu`.

Shapes: B rows, H query heads, K KV heads, G = H / K, N query blocks, R query rows of a block, T
tokens, D head dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from longreach.kernels.view import HeadView


class BlockSpan(NamedTuple):
    """Where queries and near keys lie, in positions counted from the row's first real token.

    Attributes:
        q_start: Position of the first query.
        q_len: Number of queries.
        near_start: Position of the first key of the near region, which reaches to the last query.
    """

    q_start: int
    q_len: int
    near_start: int


class FarRun(NamedTuple):
    """Query blocks `first` to `stop` - 1 of some KV heads, which see equally many far tokens."""

    heads: slice
    first: int
    stop: int
    tokens: int


class WindowRun(NamedTuple):
    """Query blocks `first` to `stop` - 1, whose windows are equally long.

    Attributes:
        first: The first query block, counted from the call's first.
        stop: The one after the last.
        start: The near block where the window of the first query block starts.
        blocks: Blocks of each window, the query's own not included.
    """

    first: int
    stop: int
    start: int
    blocks: int


class CallParts:
    """The plan of one call: query blocks, and the ranges of keys that they see.

    Keys come in two regions, as a cache holds them (`Retained`). The far one has at least the
    permanent blocks before the last query's window; the near one begins no later than the first
    query's window. It holds no tensors.
    """

    def __init__(self, span: BlockSpan, view: HeadView, num_kv_heads: int) -> None:
        self.view = view
        self.span = span
        self.size = view.pattern.block_size
        self.local = view.pattern.local_blocks
        self.num_kv_heads = num_kv_heads
        self.first = span.q_start // self.size
        self.last = (span.q_start + span.q_len - 1) // self.size
        self.count = self.last - self.first + 1
        inside = span.q_start - self.first * self.size
        if self.count == 1:
            # Queries inside one block (decoding) are taken as they are.
            self.rows = span.q_len
            self.lead = 0
            # Keys of the block behind the last query may not exist.
            self.width = inside + span.q_len
        else:
            # Otherwise blocks are filled up with zero queries.
            self.rows = self.size
            self.lead = inside
            self.width = self.size

    def fold(self, x_BHTD: Tensor) -> Tensor:
        """Returns [B, K, N, G * R, D]: the query heads of one KV head become rows."""
        b, h, t, d = x_BHTD.shape
        k = self.num_kv_heads
        n = self.count
        r = self.rows
        x = x_BHTD
        # Zero queries cost a part of one block; their outputs are cut off again.
        if t < n * r:
            x = functional.pad(x, (0, 0, self.lead, n * r - t - self.lead))
        return x.reshape(b, k, h // k, n, r, d).transpose(2, 3).reshape(b, k, n, h // k * r, d)

    def unfold(self, x_BKNRD: Tensor) -> Tensor:
        """Returns [B, H, T, D]: the inverse of `fold`."""
        b, k, n, gr, d = x_BKNRD.shape
        x = x_BKNRD.view(b, k, n, gr // self.rows, self.rows, d).transpose(2, 3)
        x = x.reshape(b, k * (gr // self.rows), n * self.rows, d)
        return x[:, :, self.lead : self.lead + self.span.q_len]

    def blocks(self, near_BKTD: Tensor) -> Tensor:
        """Returns the near region up to the end of the last query block: [B * K, T, D].

        It is copied only where it is shorter.
        """
        want = self.last * self.size + self.width - self.span.near_start
        x = near_BKTD[:, :, :want].flatten(0, 1)
        if x.shape[1] == want:
            return x
        return functional.pad(x, (0, 0, 0, want - x.shape[1]))

    def diagonal(self, near_KTD: Tensor) -> Tensor:
        """Returns the queries' own blocks as a view: [B * K, N, size, D].

        There are fewer keys where there is but one block.
        """
        start = self.first * self.size - self.span.near_start
        return near_KTD[:, start:].unflatten(1, (self.count, self.width))

    def diagonal_mask(self, like: Tensor, groups: int) -> Tensor:
        """Returns what to add to the scores of the diagonal part: [G * R, keys]."""
        # In blocks that were filled up, row 0 is the first token of the block.
        offset = self.span.q_start - self.first * self.size - self.lead
        q = torch.arange(self.rows)[:, None] + offset
        hidden = torch.arange(self.width)[None, :] > q
        bias = torch.zeros(hidden.shape, dtype=like.dtype)
        # The rows are the query heads of a KV head, one after another, each with the same
        # queries.
        return bias.masked_fill(hidden, float("-inf")).repeat(groups, 1)

    def windows(self, limit: int) -> Iterator[WindowRun]:
        """Yields runs of at most `limit` query blocks with equally long windows.

        A window of the query's own block alone has none: the diagonal part covers it.
        """
        i = self.first
        stop = self.last + 1
        before = self.span.near_start // self.size
        while i < stop:
            start = self.view.pattern.local_start(i)
            end = i + 1
            # Only full windows are of one length: those of a text's first blocks still grow.
            if i - start == self.local - 1:
                end = min(stop, i + limit)
            if i > start:
                yield WindowRun(i - self.first, end - self.first, start - before, i - start)
            i = end

    def far(self) -> Iterator[FarRun]:
        """Yields runs of query blocks that see equally many far blocks, and at least one."""
        for head, head_stop in self.view.alike(self.num_kv_heads):
            i = self.first
            while i <= self.last:
                start = i
                count = self.view.far_count(start, head)
                # The count changes only when a permanent block leaves the window, so runs are
                # long.
                while i <= self.last and self.view.far_count(i, head) == count:
                    i += 1
                if count:
                    heads = slice(head, head_stop)
                    yield FarRun(heads, start - self.first, i - self.first, count * self.size)


def cut_windows(near_KTD: Tensor, run: WindowRun, size: int) -> Tensor:
    """Returns the windows of a run's query blocks, each one block further than the one before.

    Args:
        near_KTD: The near region, [B * K, T, D].
        run: Query blocks with equally long windows.
        size: Tokens of a block.

    Returns:
        [B * K, query blocks of the run, run.blocks * size, D], overlapping in memory: a view.
    """
    count = run.stop - run.first
    tokens = near_KTD[:, run.start * size : (run.start + count - 1 + run.blocks) * size]
    # `unfold` puts the tokens of a window last, behind the head dim.
    return tokens.unfold(1, run.blocks * size, size).transpose(-1, -2)
