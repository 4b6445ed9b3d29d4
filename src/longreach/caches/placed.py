"""KV caches that begin with entries of which some were dropped.

Full layers count what they hold, so a sliding layer behind such entries has to count as they do.

Shapes: K KV heads, n entries, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from longreach.errors import ModelError


class Entries(NamedTuple):
    """Entries of one layer: keys and values [K, n, D], and their positions [K, n], ascending."""

    keys: Tensor
    values: Tensor
    positions: Tensor


class ShiftedWindowLayer(DynamicSlidingWindowLayer):
    """A sliding layer that has seen more positions than it counts.

    Masks and lengths follow what full layers hold; the window is that of the positions seen.

    Args:
        sliding_window: Of the model's config.
        seen: Positions before what is read next.
        counted: How many of them full layers hold.
    """

    def __init__(self, sliding_window: int, seen: int, counted: int) -> None:
        super().__init__(sliding_window)
        self.cumulative_length = seen
        self._dropped = seen - counted

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Takes the last entries [1, K, n, D] of the positions seen."""
        self.lazy_initialization(keys, values)
        self.keys = keys
        self.values = values

    def get_seq_length(self) -> int:
        """Returns the tokens read, dropped ones omitted."""
        return self.cumulative_length - self._dropped

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns the length of a mask, and where it begins, counted as full layers count."""
        length, offset = super().get_mask_sizes(query_length)
        return length, offset - self._dropped


def fill_cache(cache: Cache, layers: Sequence[Entries], end: int) -> int:
    """Fills an empty cache of one row; returns how many entries its full layers hold.

    Args:
        cache: As the model makes it, with full and sliding layers.
        layers: The entries of each layer. Those of a sliding layer have no gaps, and reach as far
            back as its window does.
        end: The position of what is read next.

    Raises:
        ModelError: Full layers are given unlike numbers of entries, or none.
    """
    full = []
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            full.append(number)
    counts = {layers[number].keys.shape[1] for number in full}
    # One mask serves all full layers.
    if len(counts) != 1:
        raise ModelError("The full layers of a memory have to keep equally many entries, and some.")
    (held,) = counts
    for number, layer in enumerate(cache.layers):
        keys, values, positions = layers[number]
        if number in full:
            layer.update(keys[None], values[None])  # type: ignore[union-attr]
            continue
        assert isinstance(layer, DynamicSlidingWindowLayer)
        seen = positions[0] > end - layer.sliding_window
        window = ShiftedWindowLayer(layer.sliding_window, end, held)
        window.fill(keys[None, :, seen], values[None, :, seen])
        cache.layers[number] = window
    return held
