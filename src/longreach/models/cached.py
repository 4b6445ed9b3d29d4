"""The KV cache among the arguments and the outputs of models, by the name that it has there.

Up to 5.23 that is `past_key_values`, from 5.24 on `cache`. A stock model takes a name it does not
know without a word and forgets the cache, so what is read is counted afterwards: see
`require_filled`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import transformers
from transformers import LlamaModel

from longreach.errors import ModelError
from longreach.tested import tested_versions

if TYPE_CHECKING:
    from transformers import Cache
    from transformers.cache_utils import CacheLayerMixin
    from transformers.utils.generic import ModelOutput

_Key = TypeVar("_Key")
# The newest first.
_NAMES = ("cache", "past_key_values")


def _find_name() -> str:
    taken = inspect.signature(LlamaModel.forward).parameters
    return next((name for name in _NAMES if name in taken), _NAMES[0])


CACHE = _find_name()
"""What stock models and `generate` call the cache in the installed transformers."""
KEEPS_CACHE = CACHE != "past_key_values"
"""Whether layers that are checkpointed keep the cache while there are no gradients.

They do since it has its new name.
"""


def cache_in(output: ModelOutput) -> Cache:
    """Returns the cache in a model's output."""
    cache: Cache = getattr(output, CACHE)
    return cache


def take_cache(arguments: dict[str, object]) -> Cache | None:
    """Takes the cache out of keyword arguments, whatever its name; returns None without one."""
    found: list[Any] = [arguments.pop(name, None) for name in _NAMES]
    return next((cache for cache in found if cache is not None), None)


class CacheAliases(dict[str, object]):
    """Keyword arguments in which the cache is found, and replaced, under each of its names.

    PEFT looks for one name among what `prepare_inputs_for_generation` returns, and not always for
    the one in use.
    """

    def __getitem__(self, key: str) -> object:
        return super().__getitem__(_known(key))

    def __setitem__(self, key: str, value: object) -> None:
        super().__setitem__(_known(key), value)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(_known(key))

    def get(self, key: str, default: object = None) -> object:
        """As in a dict."""
        return super().get(_known(key), default)

    def pop(self, key: str, *default: object) -> object:
        """As in a dict."""
        return super().pop(_known(key), *default)


def _known(key: _Key) -> _Key | str:
    return CACHE if key in _NAMES else key


def require_filled(cache: Cache, tokens: int, layers: int) -> None:
    """Raises ModelError where a model has not put all it read into the cache that it was given.

    Args:
        cache: What the model was called with.
        tokens: Read so far, padding included.
        layers: Of the model, how many keep keys and values, from the first on.
    """
    # Layers of linear attention, which count nothing, are in no family that is known here.
    counting = cast("list[CacheLayerMixin]", cache.layers[:layers])
    for index, layer in enumerate(counting):
        held = layer.get_seq_length()
        # A layer of fixed steps counts on the device; asking it would make a GPU wait.
        if isinstance(held, int) and held != tokens:
            raise ModelError(
                f"Layer {index} of the model has put {held} of {tokens} tokens into the cache that"
                f" it was given, so its answers would be wrong. {versions_to_use()}"
            )


def versions_to_use() -> str:
    """Returns what is installed and what was tested, as the end of an error's message."""
    known = tested_versions()
    return (
        f"This is transformers {transformers.__version__} with torch {torch.__version__}; install"
        " versions that Longreach was tested with: pip install"
        f" transformers=={known['transformers']} torch=={known['torch']}"
    )
