"""KVZip: keys and values of a segment, of which those are kept that repeating it needs most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longreach.caches.prefix import share
from longreach.compressors.base import Compressor
from longreach.compressors.jobs import Job, SegmentMemory
from longreach.compressors.kvzip.options import BFLOAT16, KVZIP
from longreach.compressors.kvzip.selection import keep_best, keep_last, pack
from longreach.compressors.memory import KeysValues, LayerEntries
from longreach.engine.prompt import PromptBuilder
from longreach.errors import ModelError, UsageError
from longreach.jsontext import JsonObject
from longreach.models.cached import CACHE
from longreach.models.decoder import decoder_of, only_adapter, window_of
from longreach.models.layers import LayerKind, layer_kinds
from longreach.models.scoring import Scores, scoring
from longreach.models.steps import empty_cache, require_read
from longreach.models.switching import forget_growth, switch_of

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

# What the model is told before each chunk of the segment that it repeats.
_REPEAT = "\n\nRepeat the previous context:\n\n"
_CHUNK_TOKENS = 512
# Without its first entries, which most queries pay what they do not need, a model loses the thread.
_SINK = 8
_MOST_TOKENS = 4096
# Positions of the segment that one forward reads at most.
_READ_TOKENS = 4096


class KVZip(Compressor):
    """Of every KV head of every full layer, the T / ratio entries that repeating T needs most.

    The model reads [head of the prompt ; segment] once, then repeats the segment chunk by chunk. An
    entry scores the largest attention probability that any query of any head of its group pays to
    it meanwhile; the first entries are always kept. Layers with a sliding window keep that. Needs
    no training; segments are independent of each other.

    Paper: KVzip, arXiv 2505.23416.

    Args:
        model: A causal language model with full attention in some layers.
        tokenizer: Its tokenizer.
        ratio: Tokens for each entry that is kept.
        segment_tokens: Tokens read together; None for what fits half the model's window, at most
            4,096.
        passage_tokens: Tokens of a passage, the unit of retrieval.
        store: "bfloat16", "int8" (with a scale for each head and channel) or "float32".

    Raises:
        UsageError: A setting is out of range, or a segment does not fit the model's window.
        ModelError: The model keeps no keys and values of its whole input.
    """

    method = KVZIP.name

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        ratio: int = 8,
        segment_tokens: int | None = None,
        *,
        passage_tokens: int = 240,
        store: str = BFLOAT16,
    ) -> None:
        KVZIP.check({"ratio": ratio, "passage_tokens": passage_tokens, "store": store})
        self._kinds = layer_kinds(model)
        builder = PromptBuilder(model, tokenizer)
        self._head = builder.head
        self._repeat = builder.plain(_REPEAT)
        window = _window(model)
        if segment_tokens is None:
            segment_tokens = _default_segment(window, len(self._head))
        super().__init__(model, tokenizer, segment_tokens=segment_tokens)
        read = len(self._head) + segment_tokens + len(self._repeat)
        read += min(_CHUNK_TOKENS, segment_tokens)
        if window is not None and read > window:
            raise UsageError(
                f"Reading and repeating segments of {segment_tokens} tokens takes {read}"
                f" positions, and the model's window has {window}: lower segment_tokens."
            )
        self.ratio = ratio
        self.passage_tokens = min(passage_tokens, segment_tokens)
        self.store = store

    def describe(self) -> JsonObject:
        """See `Compressor.describe`."""
        return {
            "method": self.method,
            "ratio": self.ratio,
            "segment_tokens": self.segment_tokens,
            "passage_tokens": self.passage_tokens,
            "store": self.store,
        }

    def vectors_in(self, tokens: int) -> int:
        """Returns the number of entries that each KV head keeps of a segment."""
        total = len(self._head) + tokens
        return min(total, max(_SINK, math.ceil(total / self.ratio)))

    def passages(self, segment: range) -> list[range]:
        """See `Compressor.passages`."""
        found = []
        for start in range(segment.start, segment.stop, self.passage_tokens):
            found.append(range(start, min(start + self.passage_tokens, segment.stop)))
        return found

    def stream(
        self, jobs: Iterable[Job], *, batch_size: int | None = None
    ) -> Iterator[SegmentMemory]:
        """See `Compressor.stream`; segments are read one by one, whatever the batch size."""
        for segment in self.unfinished(jobs):
            yield SegmentMemory(segment.key, segment.number, self.read(segment.ids))

    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> KeysValues:
        """Returns the memory of one segment.

        Args:
            ids: Its tokens.
        """
        with only_adapter(self.model, self.adapter):
            forget_growth(self.model)
            cache = self._prefill([*self._head, *ids])
        length = len(self._head) + len(ids)
        scores = self._score(cache, ids, length)
        layers: dict[int, LayerEntries] = {}
        for number, kind in enumerate(self._kinds):
            keys, values = _entries_in(cache, number)
            if kind is LayerKind.FULL:
                best = scores.best[number]
                count = self.vectors_in(len(ids))
                kept = keep_best(keys, values, best, count, _SINK)
            else:
                kept = keep_last(keys, values, length)
            layers[number] = pack(kept, self.store, length)
        return KeysValues(layers, length, head=len(self._head), sink=_SINK)

    def _prefill(self, ids: Sequence[int]) -> Cache:
        """Returns the cache of all tokens, read from position 0 on."""
        cache = empty_cache(self.model)
        for start in range(0, len(ids), _READ_TOKENS):
            self._forward(ids[start : start + _READ_TOKENS], start, cache)
        require_read(self.model, cache, len(ids))
        return cache

    def _forward(self, ids: Sequence[int], position: int, cache: Cache) -> None:
        embeds = self.embed(ids)
        positions = torch.arange(position, position + len(ids), device=embeds.device)
        decoder_of(self.model)(
            inputs_embeds=embeds[None],
            position_ids=positions[None],
            use_cache=True,
            **{CACHE: cache},
        )

    def _score(self, cache: Cache, ids: Sequence[int], length: int) -> Scores:
        """Returns how much attention each entry gets while the segment is repeated."""
        full = [n for n, kind in enumerate(self._kinds) if kind is LayerKind.FULL]
        scores = Scores(length, full)
        for start in range(0, len(ids), _CHUNK_TOKENS):
            chunk = [*self._repeat, *ids[start : start + _CHUNK_TOKENS]]
            # Locked chunk by chunk, so that other threads get their turn in between.
            with only_adapter(self.model, self.adapter), scoring(self.model, scores):
                self._forward(chunk, length, share(cache))
        if set(scores.best) != set(full):
            raise ModelError(
                f"The attention of {type(self.model).__name__} cannot be observed, which"
                f" '{self.method}' needs: use another compressor, such as mean-pool."
            )
        return scores


def _entries_in(cache: Cache, number: int) -> tuple[Tensor, Tensor]:
    """Returns the keys and values [K, T, D] of a layer.

    Raises:
        ModelError: It has none.
    """
    layer = cache.layers[number]
    keys = getattr(layer, "keys", None)
    values = getattr(layer, "values", None)
    # Some models let layers use the keys and values of others.
    if not isinstance(keys, Tensor) or not isinstance(values, Tensor):
        raise ModelError(
            f"Layer {number} of the model has no keys and values of its own, which kvzip keeps: use"
            " another compressor, such as mean-pool."
        )
    return keys[0], values[0]


def _window(model: PreTrainedModel) -> int | None:
    """Returns the positions in which keys are rotated alike; None where there is no limit."""
    limits = []
    window = window_of(model)
    if window is not None:
        limits.append(window)
    # Keys of two rotations cannot stand in one cache.
    switch = switch_of(model)
    if switch is not None:
        limits.append(switch.length)
    return min(limits, default=None)


def _default_segment(window: int | None, head: int) -> int:
    if window is None:
        return _MOST_TOKENS
    # The other half is for what is read after it.
    return max(1, min(_MOST_TOKENS, window // 2 - head))
