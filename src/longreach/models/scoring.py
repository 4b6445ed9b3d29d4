"""How much attention each entry of a KV cache gets while the model reads on after it.

While `scoring` is on, full layers attend through a function of ours, which gives what the model's
own one gives and notes for every entry the largest attention probability that any query of any head
of its group pays to it. No array of queries x keys is larger than a tile.

Paper: KVzip, arXiv 2505.23416.

Shapes: H query heads, K KV heads, G = H / K, L queries, T entries that are scored, D head dim.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from longreach.models.decoder import decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Our attention among transformers' implementations, by what it replaces.
_OURS = "longreach_"
_SDPA = "longreach_scoring"
_EAGER = "longreach_scoring_eager"
# Query rows in one tile: on a CPU it should stay in the nearest caches, a GPU wants work.
_ROWS = {"cpu": 128, "cuda": 4096}

_active = threading.local()


class Scores:
    """What has been noted so far.

    Args:
        entries: T, the entries that are scored: the first ones of the cache.
        layers: The layers whose entries are scored.

    Attributes:
        best: For each layer that has attended, the largest probabilities, [K, T].
    """

    def __init__(self, entries: int, layers: Collection[int]) -> None:
        self.entries = entries
        self.layers = frozenset(layers)
        self.best: dict[int, Tensor] = {}

    def note(self, layer: int, best: Tensor) -> None:
        """Takes the largest probabilities [K, T] of some queries."""
        known = self.best.setdefault(layer, best)
        torch.maximum(known, best, out=known)


@contextmanager
def scoring(model: PreTrainedModel, scores: Scores) -> Iterator[None]:
    """Notes attention in the forwards of this thread; to be entered under the model's lock.

    They read one row without padding, after a cache whose first entries are those that are scored.
    """
    config = decoder_of(model).config
    usual = config._attn_implementation
    # Models made from one config share it but have locks of their own: what another one has
    # switched on for a step is never what was meant.
    if usual.startswith(_OURS):
        usual = "eager" if usual.endswith("eager") else "sdpa"
    _active.scores = scores
    try:
        config._attn_implementation = _EAGER if usual == "eager" else _SDPA
        yield
    finally:
        _active.scores = None
        config._attn_implementation = usual


def _replace(usual: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what attends as `usual` does, and notes what is to be scored."""

    def attend(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        scores: Scores | None = getattr(_active, "scores", None)
        layer = getattr(module, "layer_idx", None)
        if scores is None or layer not in scores.layers:
            result: tuple[Tensor, Tensor | None] = usual(
                module, query, key, value, attention_mask, scaling=scaling, **kwargs
            )
            return result
        scale = query.shape[-1] ** -0.5
        if scaling is not None:
            scale = scaling
        out = query.new_empty(*query.shape[1:3], value.shape[-1])
        parts = _Parts(query[0] * scale, key[0], value[0], out)
        best = _attend(parts, scores.entries, kwargs.get("softcap"), kwargs.get("s_aux"))
        scores.note(layer, best)
        return out.transpose(0, 1)[None].contiguous(), None

    return attend


class _Parts(NamedTuple):
    """Queries [H, L, D], keys [K, T + L, D], values [K, T + L, Dv], and where [H, L, Dv] goes."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor


def _attend(parts: _Parts, seen: int, softcap: float | None, sinks: Tensor | None) -> Tensor:
    """Attends a tile of queries at a time; returns the largest probabilities [K, T].

    Every query sees the first T keys, and of the others those up to its own.

    Args:
        parts: What attends to what.
        seen: T, the keys that are scored.
        softcap: Where scores are capped by a tanh; None where they are not.
        sinks: [H], what every query of a head pays to nothing; None for no such thing.
    """
    query, key, value, out = parts
    heads, length, dim = query.shape
    groups, total, _ = key.shape
    repeat = heads // groups
    step = max(1, _ROWS.get(query.device.type, _ROWS["cuda"]) // repeat)
    rows = min(step, length) * repeat
    # Taken once: new memory for each tile takes several times as long as the attention itself.
    logits = query.new_empty(rows, total)
    weights = query.new_empty(rows, total + int(sinks is not None), dtype=torch.float32)
    paid = value.new_empty(rows, total)
    later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    best = weights.new_zeros(groups, seen)
    for group in range(groups):
        mine = slice(group * repeat, (group + 1) * repeat)
        columns = key[group].transpose(0, 1)
        for start in range(0, length, step):
            tile = query[mine, start : start + step]
            count = tile.shape[1] * repeat
            torch.mm(tile.reshape(count, dim), columns, out=logits[:count])
            # In float32: low precision would round probabilities as well.
            scores = weights[:count, :total].copy_(logits[:count])
            if softcap is not None:
                scores.div_(softcap).tanh_().mul_(softcap)
            own = weights[:count].view(repeat, -1, weights.shape[1])[:, :, seen:total]
            own.masked_fill_(later[start : start + step], float("-inf"))
            if sinks is not None:
                weights[:count, total] = sinks[mine].float().repeat_interleave(count // repeat)
            torch.softmax(weights[:count], -1, out=weights[:count])
            torch.maximum(best[group], scores[:, :seen].amax(0), out=best[group])
            part = paid[:count].copy_(scores) @ value[group]
            out[mine, start : start + step] = part.view(repeat, -1, value.shape[-1])
    return best


def _attend_eagerly(module: Any, *args: Any, **kwargs: Any) -> Any:
    """The eager attention that the module's own family has."""
    family = inspect.getmodule(type(module))
    return family.eager_attention_forward(module, *args, **kwargs)  # type: ignore[union-attr]


AttentionInterface.register(_SDPA, _replace(sdpa_attention_forward))
AttentionInterface.register(_EAGER, _replace(_attend_eagerly))
AttentionMaskInterface.register(_SDPA, sdpa_mask)
AttentionMaskInterface.register(_EAGER, eager_mask)
