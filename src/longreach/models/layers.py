"""What each layer of a model keeps of what it reads, told before anything is read."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from longreach.errors import ModelError
from longreach.models.decoder import check_readable
from longreach.models.steps import empty_cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LayerKind(StrEnum):
    """What a layer keeps: keys and values of all positions, or of the last ones."""

    FULL = "full"
    SLIDING = "sliding"


def layer_kinds(model: PreTrainedModel) -> list[LayerKind]:
    """Returns the kind of each layer.

    Raises:
        ModelError: A layer keeps something else, or no layer keeps all positions.
    """
    check_readable(model)
    layers = empty_cache(model).layers
    kinds = []
    for number, layer in enumerate(layers):
        # Subclasses may keep something else as well.
        if type(layer) is DynamicLayer:
            kinds.append(LayerKind.FULL)
        elif type(layer) is DynamicSlidingWindowLayer:
            kinds.append(LayerKind.SLIDING)
        else:
            raise ModelError(
                f"Layer {number} of {type(model).__name__} keeps no plain keys and values"
                f" ({type(layer).__name__}): use a compressor of another kind, such as mean-pool."
            )
    if LayerKind.FULL not in kinds:
        raise ModelError(
            f"No layer of {type(model).__name__} keeps keys and values of its whole input, so there"
            " is nothing to choose from: use a compressor of another kind, such as mean-pool."
        )
    return kinds
