"""The KV cache of a full layer in memory that is taken once: nothing is copied from step to step.

transformers' DynamicLayer joins old and new keys into a new tensor for every token, which at long
lengths takes longer than the attention; its StaticLayer hands out all slots, filled or not, and
leaves it to a mask to hide the rest. A `ReservedLayer` writes into one allocation and hands out the
filled part of it, which needs no mask. Once `fix_steps` is called, steps of one token have fixed
shapes and read their place on the device, so that they can be recorded in a CUDA graph: then all
slots are handed out, and the attention has to be told the lengths.

Shapes: B rows, K KV heads, T new tokens, D head dim.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, StaticLayer

from longreach.caches.retained import RetainedLayer
from longreach.caches.static import StaticRetainedLayer
from longreach.errors import UsageError
from longreach.kernels.api import Retained, store_token
from longreach.pattern import AttentionPattern
from longreach.wording import counted

BLOCK = 64  # slots come in whole blocks of the pattern that hides nothing


class ReservedLayer(DynamicLayer):
    """One full layer's cache for at most `max_length` slots.

    `keys` and `values` are views of what is filled.

    Args:
        max_length: Slots, padding included.
        filled: A layer to take over; it is not used any more afterwards.
    """

    keys: Any
    values: Any

    def __init__(self, max_length: int, filled: DynamicLayer | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.max_length = max_length
        self.slots: tuple[Tensor, Tensor] | None = None
        # [B] on the device, the newest token included; set while steps are fixed.
        self.lengths: Tensor | None = None
        if filled is not None and filled.keys is not None and filled.values is not None:
            self.update(filled.keys, filled.values)

    @property
    def pattern(self) -> AttentionPattern:
        """The pattern that hides nothing of the slots: what kernels for compact caches are told."""
        return AttentionPattern(BLOCK, sink_blocks=0, local_blocks=-(-self.max_length // BLOCK))

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Takes all memory, in the shape, dtype and place of the first keys and values."""
        self.dtype, self.device = key_states.dtype, key_states.device
        # Kernels read whole blocks, so there may be a few slots beyond `max_length`, which stay
        # unused.
        slots = self.pattern.window_tokens
        self.slots = _pair(
            x.new_zeros(*x.shape[:2], slots, x.shape[3]) for x in (key_states, value_states)
        )
        self._show(0)
        self.is_initialized = True

    def _show(self, filled: int) -> None:
        assert self.slots is not None
        self.keys, self.values = (x[:, :, :filled] for x in self.slots)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Stores [B, K, T, D] and returns all that is filled; while steps are fixed, all slots.

        Raises:
            UsageError: More than `max_length` slots are needed.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.slots is not None
        if self.lengths is not None and key_states.shape[2] == 1:
            # To the kernel this is a sparse layer whose window holds everything, without a far
            # region.
            none = self.slots[0][:, :, :0]
            store_token(
                key_states,
                value_states,
                Retained(none, none, *self.slots),
                self.pattern,
                self.lengths,
            )
            return self.slots
        self._leave_inference_mode()
        have, new = self.keys.shape[2], key_states.shape[2]
        if have + new > self.max_length:
            raise UsageError(
                f"{counted(new, 'token')} after {have} do not fit a cache of {self.max_length};"
                f" make one for at least {have + new}."
            )
        for target, source in zip(self.slots, (key_states, value_states), strict=True):
            # The slots outlive the step, so no graph of gradients may hang on them.
            target[:, :, have : have + new] = source.detach()
        self._show(have + new)
        return self.keys, self.values

    def _leave_inference_mode(self) -> None:
        """What was taken in inference mode cannot be written to outside: copies can."""
        assert self.slots is not None
        if self.slots[0].is_inference() and not torch.is_inference_mode_enabled():
            filled = self.keys.shape[2]
            self.slots = _pair(x.clone() for x in self.slots)
            self._show(filled)

    def fix_steps(self, lengths: Tensor, order: Tensor | None = None) -> None:
        """From here on steps have fixed shapes.

        Args:
            lengths: [B] real tokens of each row, on the device; the caller adds one before each
                step.
            order: [B, filled] indices that bring each row's real tokens to its front; None where
                they are there.
        """
        self._leave_inference_mode()
        if order is not None:
            for part in (self.keys, self.values):
                # Kernels count real tokens from slot 0. `gather` copies first, so no slot is read
                # after it was overwritten.
                part.copy_(part.gather(2, order[:, None, :, None].expand_as(part)))
        self.lengths = lengths

    def end_steps(self, filled: int) -> None:
        """Back to reading any number of tokens, after `filled` ones in every row."""
        self.lengths = None
        self._show(filled)

    def reset(self) -> None:
        """Forgets everything; the memory stays where it is."""
        self.lengths = None
        if self.is_initialized:
            self._show(0)

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last `-tokens_to_remove` tokens."""
        if tokens_to_remove > 0:
            raise UsageError(
                f"crop got {tokens_to_remove}; give minus the number of tokens to remove."
            )
        if self.is_initialized:
            self._show(max(0, self.keys.shape[2] + int(tokens_to_remove)))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows, in this order."""
        if self.slots is not None:
            filled = self.keys.shape[2]
            self.slots = _pair(x[indices] for x in self.slots)
            self._show(filled)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times."""
        if self.slots is not None:
            self.batch_select_indices(
                torch.arange(self.keys.shape[0], device=self.device).repeat_interleave(repeats)
            )

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was."""
        if self.slots is not None:
            self.batch_select_indices(beam_idx.to(self.device))


def _pair(tensors: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    first, second = tensors
    return first, second


def _refuse(layer: object) -> None:
    """Raises UsageError for a layer that cannot be taken over."""
    if isinstance(layer, StaticLayer | StaticRetainedLayer | ReservedLayer):
        raise UsageError(
            f"A {type(layer).__name__} cannot be taken over; give the dynamic cache that the model"
            " makes."
        )
    if isinstance(layer, RetainedLayer) and any(length != layer.slots for length in layer.lengths):
        raise UsageError("The cache was read with padding; read the rows again, or one by one.")


class ReservedCache(Cache):
    """A cache for at most `max_length` slots whose full layers are `ReservedLayer`s.

    Args:
        cache: What is taken over, empty or not: its plain full layers, and the sparse layers of a
            hybrid model. Layers of other kinds stay as they are. It is not to be used any more
            afterwards.
        max_length: Slots of each row, padding included.
        fixed: Make sparse layers static as well, so that `fix_steps` can follow.

    Raises:
        UsageError: A layer has fixed slots already, or was read with padding, which nobody could
            tell from text later.
    """

    def __init__(self, cache: Cache, max_length: int, *, fixed: bool = False) -> None:
        # Before anything is taken, so that a cache that is refused stays whole.
        for candidate in cache.layers:
            _refuse(candidate)
        layers: list[Any] = []
        # One by one, so that no more than one layer is there twice.
        while cache.layers:
            layer: Any = cache.layers.pop(0)
            # A subclass may keep something else than all keys, so only the plain layer is
            # replaced.
            if type(layer) is DynamicLayer:
                layer = ReservedLayer(max_length, layer)
            elif fixed and isinstance(layer, RetainedLayer):
                layer = StaticRetainedLayer.taking(layer, max_length)
            layers.append(layer)
        super().__init__(layers=layers)

    @property
    def can_fix(self) -> bool:
        """Whether all layers can take steps of fixed shapes."""
        return all(isinstance(layer, ReservedLayer | StaticRetainedLayer) for layer in self.layers)

    def fix_steps(self, lengths: Tensor, order: Tensor | None = None) -> None:
        """See `ReservedLayer.fix_steps`; sparse layers give up what they read with."""
        for layer in self.layers:
            if isinstance(layer, ReservedLayer):
                layer.fix_steps(lengths, order)
            elif isinstance(layer, StaticRetainedLayer):
                layer.freeze()

    def end_steps(self, filled: int) -> None:
        """See `ReservedLayer.end_steps`."""
        for layer in self.layers:
            if isinstance(layer, ReservedLayer):
                # Sparse layers need no call: they thaw by themselves when more than one token is
                # read.
                layer.end_steps(filled)

    def _full(self, layer_idx: int) -> CacheLayerMixin:
        """Returns the layer asked about, or the first full one in the place of a static one.

        A static sparse layer cannot tell what full layers will hand out.
        """
        asked = cast("CacheLayerMixin", self.layers[layer_idx])
        if not isinstance(asked, StaticRetainedLayer):
            return asked
        return next((layer for layer in self.layers if isinstance(layer, ReservedLayer)), asked)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Slots read so far, padding included."""
        return self._full(layer_idx).get_seq_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Length and offset of the mask of full layers."""
        return self._full(layer_idx).get_mask_sizes(query_length)
