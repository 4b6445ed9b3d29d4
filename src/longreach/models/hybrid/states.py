"""A model's layers run one by one, from any layer and any position on, each full or sparse.

What lies below the lowest layer that changes is not computed again: `Pass` keeps what went into
each layer, and its keys and values. Nor is what lies before the first position whose window hides
anything. The layers are those of two hybrids of the model that share its weights, one with every
layer full and one with every layer sparse, so that what is measured is what `convert` makes.

Shapes: B texts, T tokens each, d hidden size, H KV heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer

from longreach.models.cached import CACHE
from longreach.models.decoder import window_of
from longreach.models.hybrid.convert import convert
from longreach.pattern import AttentionPattern


@dataclass
class Pass:
    """What a choice of full layers made of some texts.

    Attributes:
        full: The full layers.
        start: The position from which `inputs` and `output` begin.
        inputs: What went into each layer, [B, T - start, d].
        keys: Of each layer, [B, H, T, D].
        values: As `keys`.
        output: What came out of the last layer, [B, T - start, d].
    """

    full: frozenset[int]
    start: int
    inputs: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    output: Tensor


class _Store:
    """Stands for a cache in one call of a layer: the earlier keys and values, then the new ones."""

    # What sparse layers take for a cache that keeps all keys.
    layers = ()
    layer_class_to_replicate = DynamicLayer

    def __init__(self, keys: Tensor | None, values: Tensor | None) -> None:
        self.keys = keys
        self.values = values

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Adds the new keys and values, and returns all of them."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys = keys
        self.values = values
        return keys, values


class LayerRunner:
    """Reads texts with any of a model's layers full and the others sparse.

    Args:
        model: A causal language model of a family that has hybrids; it stays as it is.
        pattern: Of the sparse layers.
        ids: The texts, [B, T].

    Raises:
        UsageError: The family has no hybrid form.
    """

    def __init__(self, model: PreTrainedModel, pattern: AttentionPattern, ids: Tensor) -> None:
        window = window_of(model)
        count = model.config.get_text_config().num_hidden_layers
        every = range(count)
        # SDPA takes a mask of bools, and none where texts are read from their beginning.
        self._full: Any = convert(model, pattern, every, window, attn_implementation="sdpa").eval()
        self._sparse: Any = convert(model, pattern, [], window, attn_implementation="sdpa").eval()
        self.pattern = pattern
        self.num_layers = count
        self.ids = ids
        length = ids.shape[1]
        # The first position that does not see everything before it.
        hidden = (pattern.sink_blocks + pattern.local_blocks) * pattern.block_size
        self.start = min(hidden, length)
        self._embedded: Tensor = self._full.get_input_embeddings()(ids)
        positions = torch.arange(length, device=ids.device)[None]
        self._rotary = self._full.model.rotary_emb(self._embedded, positions)

    @torch.no_grad()
    def read(self, full: Collection[int], base: Pass | None = None) -> Pass:
        """Returns what a choice of full layers makes of the texts.

        Args:
            full: The full layers.
            base: Another choice, whose states are taken over below the first layer that differs.
        """
        chosen = frozenset(full)
        if base is None:
            base = self._read_all(chosen)
        differing = chosen ^ base.full
        first = min(differing, default=self.num_layers)
        inputs = base.inputs[:first]
        keys = base.keys[:first]
        values = base.values[:first]
        states = base.output
        if first < self.num_layers:
            states = base.inputs[first]
        for layer in range(first, self.num_layers):
            inputs.append(states)
            store = _Store(
                base.keys[layer][:, :, : self.start], base.values[layer][:, :, : self.start]
            )
            states = self._run(layer, layer in chosen, states, self.start, store)
            assert store.keys is not None and store.values is not None
            keys.append(store.keys)
            values.append(store.values)
        return Pass(chosen, self.start, inputs, keys, values, states)

    @torch.no_grad()
    def read_end(self, full: Collection[int], base: Pass, start: int) -> Tensor:
        """Returns what comes out of the last layer from a position on, [B, T - start, d].

        The texts before it are not read again: their keys and values stay those of `base`. This
        takes a small part of the time, and tells whether it matters that the *end* of the texts is
        read with these layers.

        Args:
            full: The full layers for the end.
            base: The choice that has read the beginning.
            start: The first position of the end, at least `self.start`.
        """
        return self._read_end(frozenset(full), base, start, {})

    @torch.no_grad()
    def read_end_without_head(self, layer: int, head: int, base: Pass, start: int) -> Tensor:
        """Returns the same with every layer as in `base`, and one KV head of a layer sparse."""
        length = self.ids.shape[1]
        kv_heads = base.keys[layer].shape[1]
        seen = self._causal(start)[0].expand(kv_heads, -1, -1).clone()
        seen[head] = self.pattern.mask(length - start, length, kv_heads, layer)[head]
        groups = self._full.config.num_attention_heads // kv_heads
        # Each KV head serves a number of query heads, which follow one another.
        mask = seen.repeat_interleave(groups, dim=0)[None]
        return self._read_end(base.full, base, start, {layer: mask})

    def _read_end(
        self, chosen: frozenset[int], base: Pass, start: int, masks: Mapping[int, Tensor]
    ) -> Tensor:
        first = min([*(chosen ^ base.full), *masks], default=self.num_layers)
        offset = start - base.start
        if first == self.num_layers:
            return base.output[:, offset:]
        states = base.inputs[first][:, offset:]
        for layer in range(first, self.num_layers):
            store = _Store(base.keys[layer][:, :, :start], base.values[layer][:, :, :start])
            states = self._run(layer, layer in chosen, states, start, store, masks.get(layer))
        return states

    def _read_all(self, chosen: frozenset[int]) -> Pass:
        """Returns the states of all positions, of which the first are the same for every choice."""
        inputs = []
        keys = []
        values = []
        states = self._embedded
        for layer in range(self.num_layers):
            inputs.append(states[:, self.start :].clone())
            store = _Store(None, None)
            states = self._run(layer, layer in chosen, states, 0, store)
            assert store.keys is not None and store.values is not None
            keys.append(store.keys)
            values.append(store.values)
        return Pass(chosen, self.start, inputs, keys, values, states[:, self.start :].clone())

    def _run(
        self,
        layer: int,
        full: bool,
        states: Tensor,
        start: int,
        store: _Store,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Returns what one layer makes of the positions from `start` on."""
        hybrid = self._full if full else self._sparse
        if full and start and mask is None:
            mask = self._causal(start)
        cosines, sines = self._rotary
        rotary = (cosines[:, start:], sines[:, start:])
        out: Tensor = hybrid.model.layers[layer](
            states, attention_mask=mask, position_embeddings=rotary, **{CACHE: store}
        )
        return out

    def _causal(self, start: int) -> Tensor:
        """Returns what positions from `start` on see in full layers, [1, 1, T - start, T]."""
        positions = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (positions <= positions[start:, None])[None, None]

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """Returns the logits of some states of the last layer, [..., V] in float32."""
        hybrid = self._full
        logits: Tensor = hybrid.lm_head(hybrid.model.norm(states)).float()
        return logits
