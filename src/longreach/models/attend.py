"""The attention of full layers while tokens are written, known to transformers by names of its own.

One token is attended to everything that its row holds, without a mask. On a CPU that is SDPA over
the filled slots; in steps of fixed shapes it is the split-K decode kernel, over a window that hides
nothing. Importing this module registers the names.

Shapes: B rows, H query heads, K KV heads, T tokens, S slots, S_b slots of row b, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from longreach.caches.reserved import BLOCK
from longreach.kernels.api import Retained, decode_attention
from longreach.pattern import AttentionPattern

STEPS = "longreach_steps"
"""One cache that holds all rows."""
ROWS = "longreach_rows"
"""A cache for each row."""
ROWS_EAGER = "longreach_rows_eager"
"""The same for models whose scores are capped."""

# What each name stands in for. Another model that shares a config may have switched one of them on.
_USUAL = {STEPS: "sdpa", ROWS: "sdpa", ROWS_EAGER: "eager"}
_FOR_ROWS = {"sdpa": ROWS, "eager": ROWS_EAGER}


def find_rows_name(config: PretrainedConfig) -> str | None:
    """Returns the name of what attends row by row in place of a config's attention, if any does."""
    usual = config._attn_implementation
    return _FOR_ROWS.get(_USUAL.get(usual, usual))


@contextmanager
def switch_attention(config: PretrainedConfig, name: str) -> Iterator[None]:
    """Lets models of a config attend by another implementation; under the lock of the model."""
    usual = config._attn_implementation
    try:
        config._attn_implementation = name
        yield
    finally:
        # Models made from one config share it but have locks of their own: what another one has
        # switched on for a step is never what was meant.
        config._attn_implementation = _USUAL.get(usual, usual)


def attend_steps(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    lengths: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attends in a full layer: query [B, H, T, D], key and value [B, K, S, D]."""
    is_masked = lengths is None and attention_mask is not None
    if query.shape[2] > 1 or is_masked:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    out = _attend_token(query, key, value, lengths, scaling, kwargs.get("impl", "auto"))
    return out.transpose(1, 2).contiguous(), None


def attend_rows(
    module: torch.nn.Module,
    query: Tensor,
    key: Sequence[Tensor],
    value: Sequence[Tensor],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    lengths: Sequence[Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attends in a full layer: query [B, H, 1, D]; of each row key and value [1, K, S_b, D]."""
    # Of a model that shares its config with the one that steps.
    if torch.is_tensor(key):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    impl = kwargs.get("impl", "auto")
    heads = query.shape[1]
    parts: list[Tensor] = []
    for b, (keys, values) in enumerate(zip(key, value, strict=True)):
        count = None if lengths is None else lengths[b]
        part = _attend_token(query[b : b + 1], keys, values, count, scaling, impl)
        parts.append(part.reshape(1, 1, heads, -1))
    return torch.cat(parts), None


def _attend_token(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor | None,
    scaling: float | None,
    impl: str,
) -> Tensor:
    """Attends one token of each row to all that its row holds.

    Args:
        query: [B, H, 1, D].
        key: [B, K, S, D].
        value: [B, K, S, D].
        lengths: Filled slots of each row, [B], where S counts empty ones too.
        scaling: Of the scores; None for the usual.
        impl: See `kernels.api`.

    Returns:
        [B, H, 1, D].
    """
    if lengths is None:
        # The query heads of a KV head are rows of one call: keys and values are read once.
        packed = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])
        out = scaled_dot_product_attention(packed, key, value, scale=scaling)
        return out.reshape(query.shape)
    # To the kernel the slots are a window that hides nothing; the lengths say which are filled.
    pattern = AttentionPattern(BLOCK, sink_blocks=0, local_blocks=key.shape[2] // BLOCK)
    kept = Retained(key[:, :, :0], value[:, :, :0], key, value)
    return decode_attention(query, kept, pattern, lengths, 0, scaling, impl)


def attend_rows_eager(
    module: torch.nn.Module,
    query: Tensor,
    key: Sequence[Tensor],
    value: Sequence[Tensor],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The same as the families' eager attention: softmax in float32, scores capped where asked."""
    if torch.is_tensor(key):
        from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

        return eager_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, softcap=softcap, **kwargs
        )
    # Without a cap the fused kernel computes the same.
    if softcap is None:
        return attend_rows(module, query, key, value, attention_mask, scaling, **kwargs)
    heads, dim = query.shape[1], query.shape[3]
    scale = dim**-0.5 if scaling is None else scaling
    parts: list[Tensor] = []
    for b, (keys, values) in enumerate(zip(key, value, strict=True)):
        packed = query[b : b + 1].reshape(1, keys.shape[1], -1, dim)
        scores = packed @ keys.transpose(2, 3) * scale
        scores = torch.tanh(scores / softcap) * softcap
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        parts.append((weights @ values).reshape(1, 1, heads, -1))
    return torch.cat(parts), None


def _mask_for(usual: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """Returns what makes masks as usual, and none for single tokens without padding."""

    def make(
        *args: object, attention_mask: Tensor | None = None, **kwargs: object
    ) -> Tensor | None:
        # A single token sees everything that its row holds.
        if kwargs.get("q_length") == 1 and attention_mask is None:
            return None
        return usual(*args, attention_mask=attention_mask, **kwargs)

    return make


AttentionInterface.register(STEPS, attend_steps)
AttentionMaskInterface.register(STEPS, sdpa_mask)
AttentionInterface.register(ROWS, attend_rows)
AttentionMaskInterface.register(ROWS, _mask_for(sdpa_mask))
AttentionInterface.register(ROWS_EAGER, attend_rows_eager)
AttentionMaskInterface.register(ROWS_EAGER, _mask_for(eager_mask))
