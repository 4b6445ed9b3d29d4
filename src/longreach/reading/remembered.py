"""The memories of a corpus as a reader takes them: placed once, and kept while they are hot."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from longreach.compressors.memory import KeysValues, Memory, Placement
from longreach.compressors.placing import place_all

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

    from longreach.caches.prefix import PrefixCache
    from longreach.corpus.store import Corpus
    from longreach.reading.choice import Key


class Before(NamedTuple):
    """What stands before a prompt in the KV cache.

    Attributes:
        cache: The KV cache.
        name: Names what it holds.
        entries: Entries that each head of a full layer holds.
        position: The position of what is read next.
        hot: Whether it was there already.
    """

    cache: Cache
    name: Hashable
    entries: int
    position: int
    hot: bool


class Taken(NamedTuple):
    """The memories of a prompt: those read as embeddings, or what stands in the KV cache."""

    embedded: list[Memory]
    before: Before | None


class Remembered:
    """Takes memories out of a corpus.

    Args:
        corpus: The corpus.
        model: The model that reads.
        hot: Where KV caches are kept.
    """

    def __init__(self, corpus: Corpus, model: PreTrainedModel, hot: PrefixCache) -> None:
        self._corpus = corpus
        self._model = model
        self._hot = hot
        # Entries and position of the memories that were placed into a KV cache, by their names.
        self._placed: dict[Hashable, tuple[int, int]] = {}

    def take(self, keys: Sequence[Key]) -> Taken:
        """Returns the memories of passages, in document order."""
        before = self._find_hot(keys)
        if before is not None:
            return Taken([], before)
        memories = self._read(keys)
        if memories and memories[0].placement is Placement.CACHE:
            return Taken([], self._place(keys, memories))
        return Taken(memories, None)

    def _name(self, keys: Sequence[Key]) -> Hashable:
        # A revision names a text as one compressor reads it, and so the content of its memory.
        return "memory", self._corpus.settings.fingerprint, *keys

    def _find_hot(self, keys: Sequence[Key]) -> Before | None:
        """Returns the memory of passages where it lies in the KV cache of an earlier question."""
        name = self._name(keys)
        known = self._placed.get(name)
        if known is None:
            return None
        cache = self._hot.get(name)
        if cache is None:
            # It has left since; another thread may have noticed too.
            self._placed.pop(name, None)
            return None
        entries, position = known
        return Before(cache, name, entries, position, hot=True)

    def _place(self, keys: Sequence[Key], memories: Sequence[Memory]) -> Before:
        """Returns memories as the beginning of a KV cache."""
        parts = [memory for memory in memories if isinstance(memory, KeysValues)]
        assert len(parts) == len(memories), "a corpus holds memories of one kind"
        cache, entries, position = place_all(self._model, parts)
        name = self._name(keys)
        self._hot.put(name, cache)
        self._placed[name] = entries, position
        return Before(cache, name, entries, position, hot=False)

    def _read(self, keys: Sequence[Key]) -> list[Memory]:
        """Returns memories, with one read of the corpus for each document."""
        memories: list[Memory] = []
        for revision in sorted({revision for revision, _ in keys}):
            indices = sorted(index for owner, index in keys if owner == revision)
            memories += self._corpus.memories(revision, indices)
        return memories
