"""Rotary embeddings that change with the length: longrope (the Phi-3 kind) and dynamic NTK.

Up to a length keys are rotated one way, beyond it another way. transformers asks the longest
position of each forward: a KV cache that grows past that length holds keys of both ways, and a
short row is read as its long neighbor is. Here each row is read by itself, and once more from its
start when its rotation changes: the answer is that of a forward over all of it.

Papers: LongRoPE, arXiv 2402.13753; dynamic NTK scaling, described in arXiv 2309.00071, appendix.

Shapes: B rows, T tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longreach.errors import UsageError
from longreach.models.sharing import exclusive
from longreach.models.steps import Steps

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

_LONGROPE = "longrope"
_DYNAMIC = "dynamic"


@dataclass(frozen=True)
class Switch:
    """When a model's rotation changes.

    Attributes:
        length: Up to this number of positions it is the first one.
        each: Whether it changes with every further position, or only once.
    """

    length: int
    each: bool

    def rotation(self, length: int) -> int:
        """Returns a number that is the same for lengths that are rotated the same way."""
        if length <= self.length:
            return 0
        return length if self.each else 1


def switch_of(model: PreTrainedModel) -> Switch | None:
    """Returns when a model's rotation changes; None where it never does."""
    config = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    # Models with layers of several kinds have parameters for each kind.
    kinds = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    found = []
    for kind in kinds:
        if kind.get("rope_type") == _LONGROPE:
            found.append(Switch(int(kind["original_max_position_embeddings"]), each=False))
        elif kind.get("rope_type") == _DYNAMIC:
            found.append(Switch(int(config.max_position_embeddings), each=True))
    # The first change counts: from there on a cache would hold keys of two rotations.
    return min(found, key=lambda switch: switch.length) if found else None


def may_switch(model: PreTrainedModel, length: int) -> bool:
    """Returns whether the rotation has changed once `length` positions are read.

    Then a prefix must not be read by itself.
    """
    switch = switch_of(model)
    return switch is not None and length > switch.length


def groups_of(model: PreTrainedModel, lengths: Sequence[int]) -> list[list[int]]:
    """Returns the rows, by their index, that one forward may read together."""
    switch = switch_of(model)
    if switch is None:
        return [list(range(len(lengths)))]
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(switch.rotation(length), []).append(row)
    return list(groups.values())


def forget_growth(model: PreTrainedModel) -> None:
    """Sets the rotation of dynamic NTK back to the first one, which grows as it should.

    transformers keeps that of the longest row so far.
    """
    for found in model.modules():
        module: Any = found
        is_dynamic = getattr(module, "rope_type", None) == _DYNAMIC
        if not is_dynamic or not hasattr(module, "original_inv_freq"):
            continue
        first = module.original_inv_freq.to(module.inv_freq.device)
        module.register_buffer("inv_freq", first, persistent=False)
        module.max_seq_len_cached = module.original_max_seq_len


def steps_for(
    model: PreTrainedModel, max_length: int, *, cache: Cache | None = None, offset: int = 0
) -> Steps | SwitchingSteps:
    """Returns what reads prompts and then tokens.

    Args:
        model: A causal language model.
        max_length: Slots of each row.
        cache: What was read before; it is taken over.
        offset: See `Steps`.

    Raises:
        UsageError: The rotation changes while the cache is in use.
    """
    switch = switch_of(model)
    if switch is None or max_length + offset <= switch.length:
        grows = switch is not None and switch.each
        kind = _UngrownSteps if grows else Steps
        return kind(model, max_length, cache=cache, offset=offset)
    if cache is not None and getattr(cache, "layers", None) and cache.get_seq_length():
        raise UsageError(
            f"The model's rotary embedding changes beyond {switch.length} positions, so what was"
            " read before cannot be used: read the prompt as a whole."
        )
    return SwitchingSteps(model, max_length, switch)


class _UngrownSteps(Steps):
    """Steps under the first rotation of dynamic NTK, which longer rows of others may have grown.

    transformers sets that back for shorter texts, and not for one that ends right at the length.
    """

    @torch.no_grad()
    def read(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Reads as `Steps.read` does."""
        with exclusive(self.model):
            forget_growth(self.model)
            return super().read(
                input_ids, inputs_embeds=inputs_embeds, attention_mask=attention_mask
            )

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Takes a step as `Steps.step` does."""
        with exclusive(self.model):
            forget_growth(self.model)
            return super().step(tokens)


class _Row:
    """One row: what it holds, and the steps that have read it under one rotation."""

    def __init__(self, embeds: Tensor) -> None:
        # [T, d], without padding.
        self.embeds = embeds
        self.steps: Steps | None = None
        self.rotation = -1


class SwitchingSteps:
    """`Steps` of a model whose rotation changes on the way.

    Args:
        model: A causal language model.
        max_length: Slots of each row.
        switch: When its rotation changes.
    """

    def __init__(self, model: PreTrainedModel, max_length: int, switch: Switch) -> None:
        self.model, self.max_length = model, max_length
        self._switch = switch
        self._rows: list[_Row] = []

    @torch.no_grad()
    def read(self, *, inputs_embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Reads embeddings [B, T, d] as `Steps.read` does; returns logits [B, V]."""
        if not self._rows:
            empty = inputs_embeds[0, :0]
            self._rows = [_Row(empty) for _ in inputs_embeds]
        if attention_mask is None:
            attention_mask = inputs_embeds.new_ones(inputs_embeds.shape[:2])
        kept = attention_mask.bool().to(inputs_embeds.device)
        logits = []
        for row, embeds, real in zip(self._rows, inputs_embeds, kept, strict=True):
            logits.append(self._extend(row, embeds[real]))
        return torch.cat(logits)

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Reads one more token in each row, [B], and gives the logits [B, V] after it."""
        with exclusive(self.model):
            embeds = self.model.get_input_embeddings()(tokens)
        logits = []
        for row, one in zip(self._rows, embeds, strict=True):
            logits.append(self._extend(row, one[None]))
        return torch.cat(logits)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the keys and values that are allocated."""
        return sum(row.steps.kv_bytes for row in self._rows if row.steps is not None)

    def _extend(self, row: _Row, embeds: Tensor) -> Tensor:
        """Reads embeddings [T, d] behind what a row holds; returns logits [1, V]."""
        row.embeds = torch.cat([row.embeds, embeds])
        rotation = self._switch.rotation(len(row.embeds))
        # What the row holds was rotated the old way, so all of it is read again.
        if row.steps is None or rotation != row.rotation:
            row.steps = Steps(self.model, self.max_length)
            row.rotation = rotation
            embeds = row.embeds
        with exclusive(self.model):
            # What rotates here must not have grown in another thread.
            if self._switch.each:
                forget_growth(self.model)
            return row.steps.read(inputs_embeds=embeds[None])
