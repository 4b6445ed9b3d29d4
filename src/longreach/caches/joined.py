"""The caches of several rows as one, for steps that read one token in each of them.

Every row keeps its own cache, of its own length: nothing is padded, and rows come and go without a
copy. Full layers hand out each row's keys and values; sparse layers attend row by row.

Shapes: B rows, H query heads, K KV heads, S_b slots of row b, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from longreach.caches.retained import RetainedLayer
from longreach.caches.static import StaticRetainedLayer
from longreach.pattern import AttentionPattern

SparseLayer = RetainedLayer | StaticRetainedLayer


class JoinedLayer(CacheLayerMixin):
    """One full layer of several rows' caches.

    Args:
        rows: That layer of each row's cache, which holds one row.
    """

    def __init__(self, rows: Sequence[CacheLayerMixin]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[Any] = list(rows)
        self.is_sliding = bool(getattr(rows[0], "is_sliding", False))
        # There is no memory to take: the rows' layers hold it.
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Does nothing: each row's layer takes its own memory."""

    def update(  # type: ignore[override]  # what attends to rows takes lists
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Stores [B, K, 1, D] and returns the keys and the values [1, K, S_b, D] of each row."""
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for b, layer in enumerate(self.rows):
            # Rows differ in length, so their keys cannot be stacked without padding.
            held = layer.update(key_states[b : b + 1], value_states[b : b + 1])
            keys.append(held[0])
            values.append(held[1])
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns the length and the offset of a mask for the longest row; no mask is needed."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Returns the tokens of the longest row; 0 where only the device knows them."""
        # Static layers count on the device; reading a count back would make every step wait for
        # it.
        lengths = [layer.get_seq_length() for layer in self.rows]
        return max((length for length in lengths if isinstance(length, int)), default=0)

    def get_max_length(self) -> int:
        """Returns -1: the rows have limits of their own."""
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.18


class JoinedRetainedLayer(JoinedLayer):
    """One sparse layer of several rows' caches."""

    @property
    def pattern(self) -> AttentionPattern:
        """The pattern that the rows' layers were made for."""
        pattern: AttentionPattern = self.rows[0].pattern
        return pattern

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, *, impl: str = "auto"
    ) -> Tensor:
        """Reads one token a row: q [B, H, 1, D], k and v [B, K, 1, D]; gives [B, H, 1, D]."""
        # One call a row: the rows' regions differ in size, and no kernel takes them together.
        parts: list[Tensor] = []
        for b, layer in enumerate(self.rows):
            row = slice(b, b + 1)
            parts.append(layer.attend(q[row], k[row], v[row], scale, impl=impl))
        return torch.cat(parts)


class JoinedCache(Cache):
    """The caches of several rows, which stay their owners' and grow as the rows do.

    Args:
        rows: One cache a row, of the same model.
    """

    def __init__(self, rows: Sequence[Cache]) -> None:
        layers: list[Any] = []
        # All rows are of one model, so the layers of the first tell the kinds of all.
        for index, first in enumerate(rows[0].layers):
            kind = JoinedRetainedLayer if isinstance(first, SparseLayer) else JoinedLayer
            below = [cast("CacheLayerMixin", cache.layers[index]) for cache in rows]
            layers.append(kind(below))
        super().__init__(layers=layers)
