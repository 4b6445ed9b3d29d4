"""Which entries of a layer are kept, and in what form.

Shapes: K KV heads, T entries, n kept ones, D head dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from longreach.compressors.kvzip.options import INT8
from longreach.compressors.memory import LayerEntries

_LEVELS = 127


class Kept(NamedTuple):
    """Kept entries: keys and values [K, n, D] and places [K, n], ascending."""

    keys: Tensor
    values: Tensor
    places: Tensor


def keep_best(keys: Tensor, values: Tensor, scores: Tensor, count: int, sink: int) -> Kept:
    """Returns the entries with the highest scores.

    Args:
        keys: [K, T, D].
        values: [K, T, D].
        scores: [K, T].
        count: n, how many each head keeps.
        sink: The first entries, which are kept whatever they score.
    """
    scores = scores.clone()
    scores[:, :sink] = float("inf")
    # Stable, so that of equal scores the earlier entry is kept on every machine.
    order = scores.sort(dim=1, descending=True, stable=True).indices
    places = order[:, :count].sort(dim=1).values
    chosen = places[..., None]
    return Kept(
        keys.gather(1, chosen.expand(-1, -1, keys.shape[-1])),
        values.gather(1, chosen.expand(-1, -1, values.shape[-1])),
        places,
    )


def keep_last(keys: Tensor, values: Tensor, length: int) -> Kept:
    """Returns all entries [K, m, D] of a sliding layer, the last ones of `length` positions."""
    heads, held = keys.shape[:2]
    places = torch.arange(length - held, length, device=keys.device)
    return Kept(keys, values, places.expand(heads, -1))


def pack(kept: Kept, store: str, length: int) -> LayerEntries:
    """Returns entries as they are stored.

    Args:
        kept: The entries.
        store: One of the choices of the option `store`.
        length: Positions that places may name.
    """
    # Half the bytes, where the numbers are small enough.
    small = torch.int16 if length <= torch.iinfo(torch.int16).max else torch.int32
    places = kept.places.to(small)
    if store != INT8:
        dtype: torch.dtype = getattr(torch, store)
        return LayerEntries(kept.keys.to(dtype), kept.values.to(dtype), places)
    keys, key_scale = quantize(kept.keys)
    values, value_scale = quantize(kept.values)
    return LayerEntries(keys, values, places, key_scale, value_scale)


def quantize(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Returns entries [K, n, D] as int8, and what each head and channel is multiplied by.

    The scales are [K, 1, D] in float32.
    """
    entries = entries.float()
    scale = entries.abs().amax(1, keepdim=True) / _LEVELS
    # A channel of zeros stays zeros.
    scale = torch.where(scale > 0, scale, 1.0)
    return (entries / scale).round().to(torch.int8), scale
