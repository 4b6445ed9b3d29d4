"""Keys and values of segments as the beginning of a KV cache, without a forward pass.

Shapes: K KV heads, n entries, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from longreach.caches.placed import Entries, fill_cache
from longreach.compressors.memory import KeysValues
from longreach.errors import FingerprintMismatch, ModelError
from longreach.models.layers import LayerKind, layer_kinds
from longreach.models.rotation import can_move, move_keys
from longreach.models.steps import empty_cache
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


class Placed(NamedTuple):
    """Memories in a KV cache.

    Attributes:
        cache: The cache; what is read after them extends it.
        entries: Entries that each head of a full layer holds.
        position: The position of what is read next: behind all segments.
    """

    cache: Cache
    entries: int
    position: int


class _Stretch(NamedTuple):
    """Where a memory stands.

    Attributes:
        memory: The memory.
        skip: How many of its first entries each head of a full layer omits.
        shift: Positions that all others are moved by.
    """

    memory: KeysValues
    skip: int
    shift: int


@torch.no_grad()
def place_all(model: PreTrainedModel, memories: Sequence[KeysValues]) -> Placed:
    """Places memories one after the other; the first one has the head of the prompt and the sink.

    Args:
        model: The model that made them.
        memories: One or more.

    Raises:
        FingerprintMismatch: Their shapes are those of another model.
        ModelError: Keys of this model cannot be moved, and there is more than one memory.
    """
    if len(memories) > 1 and not can_move(model):
        raise ModelError(
            f"Keys of {type(model).__name__} cannot be moved to other positions, so that only one"
            " segment can be read as memory: name the document, or raise segment_tokens."
        )
    kinds = layer_kinds(model)
    for memory in memories:
        _check_shapes(model, len(kinds), memory)
    stretches, end = _line_up(memories, kinds)
    layers = []
    for number, kind in enumerate(kinds):
        layers.append(_gather(model, number, kind, stretches))
    cache = empty_cache(model)
    return Placed(cache, fill_cache(cache, layers, end), end)


def _line_up(
    memories: Sequence[KeysValues], kinds: Sequence[LayerKind]
) -> tuple[list[_Stretch], int]:
    """Returns where each memory stands, and the position behind all of them."""
    stretches = [_Stretch(memories[0], 0, 0)]
    end = memories[0].length
    for memory in memories[1:]:
        # The tokens of its segment follow those of the one before; all have the same head, and a
        # second sink is of no use.
        first = max(memory.head, memory.sink)
        skip = 0
        for number, kind in enumerate(kinds):
            if kind is LayerKind.FULL:
                # All heads omit the same number: as many as the head that has most of them.
                before = memory.layers[number].places < first
                skip = max(skip, int(before.sum(1).max()))
        stretches.append(_Stretch(memory, skip, end - memory.head))
        end += memory.length - memory.head
    return stretches, end


def _gather(
    model: PreTrainedModel, number: int, kind: LayerKind, stretches: Sequence[_Stretch]
) -> Entries:
    """Returns the entries of a layer of all memories, moved to where they stand."""
    parts = []
    for memory, skip, shift in stretches:
        layer = memory.layers[number]
        keys = layer.read_keys(model.device, model.dtype)
        values = layer.read_values(model.device, model.dtype)
        places = layer.places.to(model.device, torch.long)
        if shift:
            # A window has no gaps: only the head is omitted there.
            if kind is LayerKind.SLIDING:
                skip = int((places[0] < memory.head).sum())
            keys = move_keys(model, number, keys[:, skip:], shift)
            values = values[:, skip:]
            places = places[:, skip:] + shift
        parts.append(Entries(keys, values, places))
    joined = [torch.cat(tensors, 1) for tensors in zip(*parts, strict=True)]
    return Entries(*joined)


def _check_shapes(model: PreTrainedModel, count: int, memory: KeysValues) -> None:
    """Raises FingerprintMismatch where a memory has not the layers of the model."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for number in range(count):
        layer = memory.layers.get(number)
        if layer is None or (layer.keys.shape[0], layer.keys.shape[2]) != (heads, size):
            raise FingerprintMismatch(
                "A memory was made for a model of another shape than"
                f" {counted(count, 'layer')} with {heads} KV heads of {size} channels:"
                " read it with the model that made it, or ingest the documents again."
            )
