"""KV caches of prompt prefixes that were read before, kept in memory up to a number of bytes."""

import copy
from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock

import torch
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from longreach.caches.placed import ShiftedWindowLayer

# Layers that join old and new keys into new tensors.
_GROWING = (DynamicLayer, DynamicSlidingWindowLayer, ShiftedWindowLayer)


class PrefixCache:
    """Least-recently-used map from a prefix's key to the KV cache after reading it.

    Keys and values are shared between the map and all who take them out: see `share`. Threads may
    share it.

    Args:
        max_bytes: The keys and values kept together; 0 keeps nothing. A single cache larger than
            this is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Cache, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> Cache | None:
        """Returns a cache that the caller may extend, or None."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            cache = self._entries[key][0]
        # An entry is never written to, so this needs no lock.
        return share(cache)

    def put(self, key: Hashable, cache: Cache) -> None:
        """Keeps what the cache holds now; the least recently used go where memory is needed."""
        size = cache_bytes(cache)
        # It would push out all others and still not fit.
        if size > self.max_bytes:
            return
        # The caller keeps reading into its own cache.
        kept = share(cache)
        with self._lock:
            if key in self._entries:
                self.bytes -= self._entries.pop(key)[1]
            while self.bytes + size > self.max_bytes:
                self.bytes -= self._entries.popitem(last=False)[1][1]
            self._entries[key] = kept, size
            self.bytes += size

    def __len__(self) -> int:
        return len(self._entries)


def share(cache: Cache) -> Cache:
    """Returns a cache that holds the same; what is read into one of them the other does not see.

    transformers' dynamic layers join old and new keys into new tensors, so both can hold the same
    ones. Layers of all other kinds may write in place, and are copied.
    """
    twin = copy.copy(cache)
    twin.layers = []
    for layer in cache.layers:
        grows_anew = type(layer) in _GROWING
        twin.layers.append(copy.copy(layer) if grows_anew else copy.deepcopy(layer))
    return twin


def cache_bytes(cache: Cache) -> int:
    """Returns the bytes that a cache really holds for keys and values.

    These are the bytes of their storages, whatever views lie on them.
    """
    storages: dict[int, int] = {}
    for layer in getattr(cache, "layers", []):
        for value in vars(layer).values():
            for tensor in value if isinstance(value, tuple) else [value]:
                # Lengths and other counters are integers.
                if torch.is_tensor(tensor) and tensor.is_floating_point():
                    storage = tensor.untyped_storage()
                    # Views of one storage, such as a reserved layer's slots and its filled part,
                    # count once.
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
