"""A case of `bench attention`: what is measured, and the least work that it takes.

Shapes: B rows, Hq query heads, Hkv KV heads, T tokens, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from longreach.bench.cases import check_attention
from longreach.pattern import AttentionPattern
from longreach.planning.plan import Shape

# Times the forward pass, in FLOPs: five products of the same size for two.
_BACKWARD = 2.5
TRAIN = "forward+backward"


class Work(NamedTuple):
    """The least that a call has to do: floating-point operations, and bytes read or written."""

    flops: int
    moved_bytes: int


@dataclass(frozen=True)
class AttentionCase:
    """What `bench attention` measures.

    Attributes:
        shape: Heads and head dim are taken from it.
        pattern: Which blocks are visible.
        length: Tokens.
        what: "forward", "train" (forward and backward) or "decode" (one query a row over a compact
            cache).
        impls: Implementations of `sparse_attention`; None for what this device can.
        layer: Index of the layer, which shifts strided blocks.
        rows: Rows of the batch.
        repeats: Rounds.
        dtype: Of all tensors.
        device: Where they lie.
    """

    shape: Shape
    pattern: AttentionPattern
    length: int
    what: str = "forward"
    impls: Sequence[str] | None = None
    layer: int = 0
    rows: int = 1
    repeats: int = 5
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    def __post_init__(self) -> None:
        check_attention(
            self.what,
            self.impls,
            length=self.length,
            rows=self.rows,
            repeats=self.repeats,
            layer=self.layer,
        )

    @property
    def queries(self) -> int:
        """Returns the number of queries of each row."""
        return 1 if self.what == "decode" else self.length

    @property
    def causal_pairs(self) -> int:
        """Returns how many query-key pairs of one KV head dense attention visits."""
        if self.what == "decode":
            # The newest token sees every key, its own included.
            return self.length
        return self.length * (self.length + 1) // 2

    @property
    def visited_pairs(self) -> list[int]:
        """Returns how many query-key pairs the pattern visits, for each KV head."""
        heads = self.shape.kv_heads
        return self.pattern.visited(self.length, heads, self.layer, q_len=self.queries)

    @property
    def density(self) -> float:
        """Returns the visited over the causal pairs."""
        # A mean over KV heads, because with a stride each of them sees other blocks.
        return sum(self.visited_pairs) / (self.causal_pairs * self.shape.kv_heads)


def count_work(case: AttentionCase, part: str, *, dense: bool) -> Work:
    """Returns the FLOPs, and the bytes read or written at least: see `DEFINITIONS`.

    Args:
        case: The case.
        part: "forward", "backward", "forward+backward" or "decode".
        dense: Whether all causal pairs are visited.
    """
    s = case.shape
    if dense:
        forward = 4 * s.head_dim * s.heads * case.causal_pairs * case.rows
    else:
        numbers = (case.length, s.heads, s.kv_heads, s.head_dim, case.layer)
        forward = case.pattern.attention_flops(*numbers, q_len=case.queries) * case.rows
    # One vector of one head, in all rows.
    vector_bytes = case.rows * s.head_dim * case.dtype.itemsize
    if part == "decode":
        keys = case.length * s.kv_heads if dense else sum(case.visited_pairs)
        # Of each query head the query and the output; of each key that is seen, the key and its
        # value.
        return Work(forward, vector_bytes * (2 * s.heads + 2 * keys))
    passes = {"backward": _BACKWARD, TRAIN: 1 + _BACKWARD}.get(part, 1)
    # Of each pair of query and KV tensors: q and the output, k and v, and their gradients.
    tensors = {"forward": 2, "backward": 4, TRAIN: 6}[part]
    moved = vector_bytes * case.length * tensors * (s.heads + s.kv_heads)
    return Work(round(forward * passes), moved)
