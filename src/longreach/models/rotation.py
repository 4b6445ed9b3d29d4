"""Keys moved to other positions: the rotary embedding of a model, applied once more.

Which channels a model rotates, and in which pairs, differs from family to family. Here that is not
looked up by name but found out: the model reads a few tokens at two places, and the way that turns
the keys of the one into those of the other, in all layers, is taken.

Paper: RoFormer, arXiv 2104.09864.

Shapes: K KV heads, n entries, D head dim, R rotated channels.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longreach.models.cached import CACHE
from longreach.models.decoder import adapters_off, decoder_of
from longreach.models.sharing import exclusive
from longreach.models.steps import empty_cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A few tokens, and how far they are moved to find out.
_TOKENS = 6
_BY = 37
# Keys in bfloat16 differ by less; those that were rotated another way differ by about 1.
_MOST_ERROR = 0.1

_Rotate = Callable[[Tensor, Tensor], Tensor]
# The way of each model, and the frequencies [R / 2] of each layer; None where no way fits.
_Found = tuple[_Rotate, list[Tensor]] | None
_known: weakref.WeakKeyDictionary[Any, _Found] = weakref.WeakKeyDictionary()


def rotate_halves(keys: Tensor, angles: Tensor) -> Tensor:
    """Rotates channel i with channel i + R / 2: Llama and most others."""
    half = angles.shape[-1]
    first, second, rest = keys.split([half, half, keys.shape[-1] - 2 * half], -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)


def rotate_pairs(keys: Tensor, angles: Tensor) -> Tensor:
    """Rotates channel 2 i with channel 2 i + 1: GLM, Cohere."""
    half = angles.shape[-1]
    rotated, rest = keys.split([2 * half, keys.shape[-1] - 2 * half], -1)
    first, second = rotated[..., 0::2], rotated[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], -1)
    return torch.cat([turned.flatten(-2), rest], -1)


def can_move(model: PreTrainedModel) -> bool:
    """Returns whether keys of a model can be moved to other positions."""
    return _find(model) is not None


def move_keys(model: PreTrainedModel, layer: int, keys: Tensor, by: int) -> Tensor:
    """Returns keys [K, n, D] as they are `by` positions further on.

    Args:
        model: The model, which `can_move`.
        layer: The number of their layer.
        keys: The keys, rotated.
        by: How far they are moved; negative for back.
    """
    found = _find(model)
    assert found is not None, "ask can_move first"
    rotate, frequencies = found
    return _turn(rotate, keys, frequencies[layer], by)


def _turn(rotate: _Rotate, keys: Tensor, frequencies: Tensor, by: int) -> Tensor:
    # In float64: far away, an angle in float32 is off by more than a thousandth.
    angles = (frequencies.double() * by).float().to(keys.device)
    return rotate(keys.float(), angles).to(keys.dtype)


def _find(model: PreTrainedModel) -> _Found:
    with exclusive(model):
        if model not in _known:
            _known[model] = _try_all(model)
        return _known[model]


@torch.no_grad()
def _try_all(model: PreTrainedModel) -> _Found:
    """Returns what moves the keys of every layer, found out by trying."""
    candidates = _frequencies(model)
    here = _read(model, 0)
    there = _read(model, _BY)
    for rotate in (rotate_halves, rotate_pairs):
        chosen: list[Tensor] = []
        for keys, moved in zip(here, there, strict=True):
            # Layers of some families rotate at a frequency of their own.
            for frequencies in candidates:
                turned = _turn(rotate, keys, frequencies, _BY)
                error = (turned - moved).norm() / moved.norm()
                if 2 * len(frequencies) <= keys.shape[-1] and error < _MOST_ERROR:
                    chosen.append(frequencies)
                    break
        if len(chosen) == len(here):
            return rotate, chosen
    return None


def _frequencies(model: PreTrainedModel) -> list[Tensor]:
    """Returns the frequencies of all rotary embeddings in a model."""
    found = []
    for name, buffer in decoder_of(model).named_buffers():
        # Beside those in use, modules keep the ones that they began with.
        if name.endswith("inv_freq") and "original" not in name:
            found.append(buffer.detach().clone())
    return found


def _read(model: PreTrainedModel, position: int) -> list[Tensor]:
    """Returns the keys [K, n, D] of each layer after a few tokens at a position."""
    cache = empty_cache(model)
    ids = torch.arange(1, _TOKENS + 1, device=model.device)[None]
    places = torch.arange(position, position + _TOKENS, device=model.device)[None]
    with adapters_off(model):
        decoder_of(model)(input_ids=ids, position_ids=places, use_cache=True, **{CACHE: cache})
    return [layer.keys[0].float() for layer in cache.layers]  # type: ignore[union-attr, index]
