"""KV caches of prompt prefixes that were read before, kept in memory up to a number of bytes."""

import copy
from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Any

import torch


class PrefixCache:
    """Least-recently-used map from a prefix's key to the KV cache after reading it. Safe to share
    between threads.

    Args:
        max_bytes: the keys and values kept together; 0 keeps nothing. A single cache larger than
            this is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> Any | None:
        """A copy that the caller may extend, or None."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            cache = self._entries[key][0]
        return copy.deepcopy(cache)

    def put(self, key: Hashable, cache: Any) -> None:
        """Keeps a copy; the least recently used go when room is needed."""
        size = cache_bytes(cache)
        if size > self.max_bytes:
            return
        kept = copy.deepcopy(cache)
        with self._lock:
            if key in self._entries:
                self.bytes -= self._entries.pop(key)[1]
            while self.bytes + size > self.max_bytes:
                self.bytes -= self._entries.popitem(last=False)[1][1]
            self._entries[key] = kept, size
            self.bytes += size

    def __len__(self) -> int:
        return len(self._entries)


def cache_bytes(cache: Any) -> int:
    """Bytes that a transformers Cache really holds for keys and values: their storages, whatever
    views lie on them."""
    values = [value for layer in getattr(cache, "layers", []) for value in vars(layer).values()]
    tensors = [
        x
        for value in values
        for x in (value if isinstance(value, tuple) else [value])
        if torch.is_tensor(x)
    ]
    storages = [x.untyped_storage() for x in tensors if x.is_floating_point()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
