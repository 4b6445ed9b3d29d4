"""How a sparse attention call falls apart into dense ones: the plan behind `cpu`.

Shapes: B rows, H query heads, K KV heads, G = H / K, N query blocks, R query rows of a block, T
tokens, D head dim.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from longreach.kernels.view import HeadView


class Keys(NamedTuple):
    """Keys or values in two regions, as a cache holds them.

    Attributes:
        far_BKTD: The permanent blocks in order, at least those that lie before the last query's
            window.
        near_BKTD: Consecutive positions up to the last query, from the first query's window at the
            latest.
    """

    far_BKTD: Tensor
    near_BKTD: Tensor


class Span(NamedTuple):
    """Where the queries and the near region lie, in positions counted from the row's first real
    token."""

    q_start: int
    q_len: int
    near_start: int


class Parts:
    """The plan of one call: query blocks and the key ranges that they see. Holds no tensors of its
    own size."""

    def __init__(self, span: Span, view: HeadView, num_kv_heads: int) -> None:
        p = view.pattern
        self.view, self.span, self.size, self.local = view, span, p.block_size, p.local_blocks
        self.first = span.q_start // self.size
        self.last = (span.q_start + span.q_len - 1) // self.size
        self.count = self.last - self.first + 1
        # Queries inside one block (decoding) are taken as they are; otherwise blocks are filled up
        # with zero queries.
        single, inside = self.count == 1, span.q_start - self.first * self.size
        self.rows = span.q_len if single else self.size
        self.lead = 0 if single else inside
        self.width = inside + span.q_len if single else self.size
        self.num_kv_heads = num_kv_heads

    def fold(self, x_BHTD: Tensor) -> Tensor:
        """[B, H, T, D] -> [B, K, N, G * R, D]: the query heads of one KV head become rows."""
        b, h, t, d = x_BHTD.shape
        k, n, r = self.num_kv_heads, self.count, self.rows
        x = (
            x_BHTD
            if t == n * r
            else functional.pad(x_BHTD, (0, 0, self.lead, n * r - t - self.lead))
        )
        return x.reshape(b, k, h // k, n, r, d).transpose(2, 3).reshape(b, k, n, h // k * r, d)

    def unfold(self, x_BKNRD: Tensor) -> Tensor:
        """The inverse of `fold`."""
        b, k, n, gr, d = x_BKNRD.shape
        x = x_BKNRD.view(b, k, n, gr // self.rows, self.rows, d).transpose(2, 3)
        return x.reshape(b, k * (gr // self.rows), n * self.rows, d)[
            :, :, self.lead : self.lead + self.span.q_len
        ]

    def blocks(self, near_BKTD: Tensor) -> Tensor:
        """The near region up to the end of the last query block: [B * K, T, D]; copied only where
        it is shorter."""
        want = self.last * self.size + self.width - self.span.near_start
        x = near_BKTD[:, :, :want].flatten(0, 1)
        return functional.pad(x, (0, 0, 0, want - x.shape[1])) if x.shape[1] < want else x

    def diagonal(self, near_KTD: Tensor) -> Tensor:
        """The queries' own blocks [B * K, N, size, D] (fewer keys where there is but one block), a
        view."""
        start = self.first * self.size - self.span.near_start
        return near_KTD[:, start:].unflatten(1, (self.count, self.width))

    def diagonal_mask(self, like: Tensor, groups: int) -> Tensor:
        """What to add to the scores of the diagonal part: [G * R, keys]."""
        offset = self.span.q_start - self.first * self.size - self.lead
        q = torch.arange(self.rows)[:, None] + offset
        hidden = torch.arange(self.width)[None, :] > q
        return (
            torch.zeros(hidden.shape, dtype=like.dtype)
            .masked_fill(hidden, float("-inf"))
            .repeat(groups, 1)
        )

    def windows(self, limit: int) -> Iterator[tuple[int, int, int, int]]:
        """Runs of query blocks with equally long windows: (first, stop, near block where the first
        starts, blocks)."""
        i, stop = self.first, self.last + 1
        before = self.span.near_start // self.size
        while i < stop:
            start = self.view.pattern.local_start(i)
            full = i - start == self.local - 1
            end = min(stop, i + limit) if full else i + 1
            if i > start:
                yield i - self.first, end - self.first, start - before, i - start
            i = end

    def far(self) -> Iterator[tuple[slice, int, int, int]]:
        """Runs of query blocks with equally many far blocks: (KV heads, first, stop, far
        tokens)."""
        for head, head_stop in self.view.alike(self.num_kv_heads):
            i = self.first
            while i <= self.last:
                count, start = self.view.far_count(i, head), i
                while i <= self.last and self.view.far_count(i, head) == count:
                    i += 1
                if count:
                    yield (
                        slice(head, head_stop),
                        start - self.first,
                        i - self.first,
                        count * self.size,
                    )


def window(near_KTD: Tensor, start: int, runs: int, blocks: int, size: int) -> Tensor:
    """`runs` overlapping windows, each one block further: [B * K, runs, blocks * size, D], a
    view."""
    tokens = near_KTD[:, start * size : (start + runs - 1 + blocks) * size]
    return tokens.unfold(1, blocks * size, size).transpose(-1, -2)
