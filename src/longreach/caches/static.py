"""The cache of a hybrid model with every tensor allocated once.

It is for CUDA graphs and compiled decode steps.

A step of one token has fixed shapes and reads no Python number that changes: lengths live on the
device, and a token goes into its ring slot and into its permanent slot (or, where it has none, into
a block that nobody reads) by arithmetic. Everything else (prompts, chunks, further turns) is read
by a `RetainedLayer` and copied over.

Shapes: B rows, K KV heads, T new tokens, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, StaticLayer

from longreach.caches.retained import RetainedLayer
from longreach.errors import UsageError
from longreach.kernels.api import Retained, decode_attention, store_token
from longreach.kernels.cpu import decode as cpu_decode
from longreach.kernels.view import HeadView
from longreach.pattern import AttentionPattern, LayerPlan
from longreach.wording import counted


class StaticRetainedLayer(CacheLayerMixin):
    """One sparse layer's cache for at most `max_length` slots."""

    is_sliding = False
    is_croppable = False

    def __init__(self, pattern: AttentionPattern, layer: int, max_length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pattern, self.layer, self.max_length = pattern, layer, max_length
        # Whether a step on a CPU looks if a slot is left.
        self.counts_slots = True
        self.keys: Any = None
        self.values: Any = None
        self.far_keys: Any = None
        self.far_values: Any = None
        self.lengths: Any = None  # [B] on the device: real tokens of each row
        self.slots: Any = None  # [] on the device: slots read, padding included
        self.reader: RetainedLayer | None = None  # holds what was read while prompts are read

    @classmethod
    def taking(cls, layer: RetainedLayer, max_length: int) -> StaticRetainedLayer:
        """Returns a static layer that resumes after what a dynamic one has read.

        The dynamic one is not to be used any more.
        Its steps read no number back, on no device: the caller counts the slots.
        """
        static = cls(layer.pattern, layer.layer, max_length)
        static.counts_slots = False
        if layer.is_initialized:
            # A static layer cannot be cropped, so nothing has to be kept for that.
            layer.record_past = False
            static.lazy_initialization(layer.keys, layer.values)
            static.lengths.copy_(torch.tensor(layer.lengths))
            static.slots.add_(layer.slots)
            static.reader = layer
        return static

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Takes all memory, in the shape, dtype and place of the first keys and values."""
        p, (rows, heads) = self.pattern, key_states.shape[:2]
        self.dtype, self.device = key_states.dtype, key_states.device
        # As if no slot held padding: the most permanent blocks that can ever leave the window.
        last = max(0, self.max_length - 1) // p.block_size
        blocks = max(p.far_count(last, head, heads, self.layer) for head in range(heads))
        # The last block is the one that nobody reads.
        far_slots = (blocks + 1) * p.block_size
        key_dim = key_states.shape[3]
        value_dim = value_states.shape[3]
        self.keys = key_states.new_zeros(rows, heads, p.window_tokens, key_dim)
        self.values = value_states.new_zeros(rows, heads, p.window_tokens, value_dim)
        self.far_keys = key_states.new_zeros(rows, heads, far_slots, key_dim)
        self.far_values = value_states.new_zeros(rows, heads, far_slots, value_dim)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.slots = torch.zeros((), dtype=torch.long, device=self.device)
        self.is_initialized = True

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float | None = None,
        *,
        counts: Sequence[int] | None = None,
        sure: int | None = None,
        impl: str = "auto",
    ) -> Tensor:
        """Reads new tokens as `RetainedLayer.attend` does.

        A single token a row, none of them padding, is the step of fixed shapes.
        """
        if not self.is_initialized:
            self.lazy_initialization(k, v)
        if k.shape[0] != self.keys.shape[0]:
            raise UsageError(
                f"The cache holds {counted(self.keys.shape[0], 'row')} and got {k.shape[0]}; make a"
                " new cache."
            )
        step = k.shape[2] == 1 and counts is None
        # On a GPU, reading the count back would wait for the device, which a CUDA graph cannot
        # record.
        if not step or (self.counts_slots and self.device.type == "cpu"):
            self._require_slots(k.shape[2])
        if not step:
            reader = self.reader or self._thaw()
            out = reader.attend(q, k, v, scale, counts=counts, sure=sure, impl=impl)
            self.lengths.copy_(torch.tensor(reader.lengths, device=self.device))
            self.slots.add_(k.shape[2])
            return out
        self.freeze()
        k, v = k.detach(), v.detach()
        self.lengths.add_(1)
        self.slots.add_(1)
        kept = Retained(self.far_keys, self.far_values, self.keys, self.values)
        store_token(k, v, kept, self.pattern, self.lengths, self.layer, impl)
        return decode_attention(
            q.detach(), kept, self.pattern, self.lengths, self.layer, scale, impl
        )

    def _require_slots(self, tokens: int) -> None:
        have = int(self.slots)
        if have + tokens > self.max_length:
            raise UsageError(
                f"{counted(tokens, 'token')} after {have} do not fit a static cache of"
                f" {self.max_length}; make one for at least {have + tokens}, or use the dynamic"
                " one."
            )

    def freeze(self) -> None:
        """Copies what was read into the tensors of the steps, unless that is done."""
        reader = self.reader
        if reader is None:
            return
        size = self.pattern.block_size
        # The last block is the one that nobody reads.
        far_slots = self.far_keys.shape[2] - size
        for target, source in ((self.keys, reader.keys), (self.values, reader.values)):
            target[:, :, : source.shape[2]] = source
        for target, source in (
            (self.far_keys, reader.far_keys),
            (self.far_values, reader.far_values),
        ):
            kept = min(far_slots, source.shape[2])
            target[:, :, :kept] = source[:, :, :kept]
        view = HeadView(self.pattern, self.layer, 0, self.keys.shape[1])
        for b, length in enumerate(reader.lengths):  # permanent blocks that are still in the window
            positions = torch.arange(
                self.pattern.local_start(length // size) * size, length, device=self.device
            )
            slots, row = positions % max(1, reader.keys.shape[2]), slice(b, b + 1)
            kept = Retained(self.far_keys, self.far_values, self.keys, self.values)
            cpu_decode.store(
                reader.keys[row, :, slots],
                reader.values[row, :, slots],
                kept.select_rows(row),
                view,
                positions[None],
            )
        self.reader = None

    def _thaw(self) -> RetainedLayer:
        """A reader that holds what the steps have written."""
        p, reader = self.pattern, RetainedLayer(self.pattern, self.layer)
        reader.lazy_initialization(self.keys, self.values)
        reader.lengths = self.lengths.tolist()
        reader.committed, reader.slots = list(reader.lengths), int(self.slots)
        if reader.slots:
            # A ring of exactly the window holds the newest positions and no others.
            reader.held = [max(0, length - p.window_tokens) for length in reader.lengths]
            # The reader resizes and frees its tensors; those of the steps have to stay where they
            # are.
            reader.keys, reader.values = self.keys.clone(), self.values.clone()
            reader.far_keys, reader.far_values = self.far_keys.clone(), self.far_values.clone()
        self.reader = reader
        return reader

    # What transformers asks of a cache layer.

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Refused: see `RetainedLayer.update`."""
        return RetainedLayer(self.pattern, self.layer).update(key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As transformers' static layers: the mask is as long as the cache."""
        return self.max_length, 0

    def get_seq_length(self) -> int | Tensor:  # type: ignore[override]  # as StaticLayer does
        """Slots read so far, a tensor once there are any."""
        return self.slots if self.is_initialized else 0

    def get_max_length(self) -> int:
        """Slots there are."""
        return self.max_length

    get_max_cache_shape = get_max_length  # its name before transformers 5.18

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: drafted tokens need the dynamic cache."""
        raise UsageError(
            "A static cache cannot be cropped; use the dynamic one for assisted decoding."
        )

    def reset(self) -> None:
        """Empties the cache; its memory stays where it is."""
        self.reader = None
        if self.is_initialized:
            # The contents may stay: nobody reads beyond the lengths.
            self.lengths.zero_()
            self.slots.zero_()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was."""
        if self.reader is not None:
            self.reader.reorder_cache(beam_idx)
        if self.is_initialized:
            for tensor in (self.keys, self.values, self.far_keys, self.far_values, self.lengths):
                # In place, because recorded graphs read these addresses.
                tensor.copy_(tensor.index_select(0, beam_idx.to(tensor.device)))

    def offload(self) -> None:
        """Stays where it is: it is small, and read in every step."""

    def prefetch(self) -> None:
        """Nothing to fetch: see `offload`."""


class StaticRetainedCache(Cache):
    """The static cache of a hybrid model; full layers are transformers' own.

    Args:
        pattern: Which blocks the sparse layers see.
        plan: Which layers are full.
        max_length: Slots of each row, padding included.
    """

    def __init__(self, pattern: AttentionPattern, plan: LayerPlan, max_length: int) -> None:
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise UsageError(
                f"max_length is {max_length!r}; give the slots of the cache, at least 1."
            )
        layers: list[Any] = [
            (
                StaticLayer(max_length)
                if plan.is_full(layer)
                else StaticRetainedLayer(pattern, layer, max_length)
            )
            for layer in range(plan.num_layers)
        ]
        super().__init__(layers=layers)

    @property
    def max_cache_len(self) -> int:
        """What PEFT asks of a cache that is no DynamicCache."""
        return int(self.get_max_length())
