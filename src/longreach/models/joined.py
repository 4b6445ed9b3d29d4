"""Steps of several rows in one forward, each out of its own cache.

All linear layers see the rows as one batch, so that the weights are read once. Attention goes row
by row over that row's own keys and values: no padding, no mask, and a row's tokens do not depend on
its company beyond rounding. Rows may join and leave between any two steps.

Shapes: B rows, H query heads, K KV heads, S_b slots of row b, D head dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from longreach.caches.joined import JoinedCache
from longreach.caches.reserved import BLOCK
from longreach.kernels.api import Retained, decode_attention
from longreach.models.cached import CACHE
from longreach.models.hybrid.names import FAMILY_NAMES, PREFIX
from longreach.models.sharing import exclusive
from longreach.models.steps import NAME as STEPS_ATTENTION
from longreach.models.steps import Steps, require_read
from longreach.models.switching import switch_of
from longreach.pattern import AttentionPattern

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# What the attention below replaces, and its name among transformers' attention implementations.
NAMES = {
    "sdpa": "longreach_rows",
    STEPS_ATTENTION: "longreach_rows",
    "longreach_rows": "longreach_rows",
    "eager": "longreach_rows_eager",
    "longreach_rows_eager": "longreach_rows_eager",
}

# Their attention hands what the cache gives straight to the attention implementation.
_FAMILIES = frozenset({*FAMILY_NAMES, "gemma", "gemma2", "gemma3_text"})
# Recording takes as long as many steps: it pays once the same rows have stayed together for some.
_RECORD_AFTER = 8


def can_join(model: PreTrainedModel) -> bool:
    """Whether rows of a model can step together; rows of all others step one by one."""
    kind = model.config.model_type.removeprefix(PREFIX)
    known = kind in _FAMILIES and model.config._attn_implementation in NAMES
    return known and switch_of(model) is None


class JoinedSteps:
    """Several rows that take their steps together, for as long as they are the same ones.

    Args:
        rows: Steps of one row each, of one model that `can_join`, all of them read.
    """

    def __init__(self, rows: Sequence[Steps]) -> None:
        self.rows = list(rows)
        self.model = rows[0].model
        self._cache = JoinedCache([row.cache for row in rows])
        self._fixed = rows[0].fixed
        self._taken = 0
        self._tokens: Tensor | None = None
        self._offsets: Tensor | int = 0
        self._logits: Tensor | None = None
        self._replay: Callable[[], Any] | None = None

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Reads one more token in each row, [B], and gives the logits [B, V] after it."""
        for b, row in enumerate(self.rows):
            row.begin_step(tokens[b : b + 1])
        with exclusive(self.model):
            logits = self._run_fixed(tokens) if self._fixed else self._run(tokens, None)
        for row in self.rows:
            row.filled += 1
            if not self._fixed:  # else the layers count on the device, and a GPU would have to wait
                require_read(self.model, row.cache, row.filled)
        self._taken += 1
        return logits

    def _run_fixed(self, tokens: Tensor) -> Tensor:
        """The step in which nothing depends on a number that the host would have to know."""
        if self._tokens is None:
            self._tokens = tokens.clone()
            self._offsets = tokens.new_tensor([row.position - row.filled for row in self.rows])
        # A recorded graph reads its tokens at this address.
        self._tokens.copy_(tokens)
        if self._replay is None and self._taken >= _RECORD_AFTER and self.rows[0].recorded:
            recorded = self.rows[0].record(self._run_once)
            if recorded is not None:
                self._replay, self._logits = recorded
        if self._replay is None or self._logits is None:
            return self._run_once()
        self._replay()
        # The next replay overwrites what this one has written.
        return self._logits.clone()

    def _run_once(self) -> Tensor:
        assert self._tokens is not None
        lengths: list[Tensor] = []
        for row in self.rows:
            assert row.lengths is not None
            row.lengths.add_(1)
            lengths.append(row.lengths)
        return self._run(self._tokens, lengths)

    def _run(self, tokens: Tensor, lengths: list[Tensor] | None) -> Tensor:
        if lengths is None:
            positions = torch.tensor([row.position for row in self.rows], device=tokens.device)
            more: dict[str, Any] = {}
        else:
            # Computed on the device, so that a graph can hold it.
            positions = torch.cat(lengths) - 1 + self._offsets
            more = {"lengths": lengths}
        with _row_attention(self.model):
            output = self.model(
                input_ids=tokens[:, None],
                position_ids=positions[:, None],
                use_cache=True,
                logits_to_keep=1,
                **{CACHE: self._cache},
                **more,
                **self.rows[0].options,
            )
        logits: Tensor = output.logits[:, -1]
        return logits


@contextmanager
def _row_attention(model: PreTrainedModel) -> Iterator[None]:
    """Full layers attend row by row; to be entered under the model's lock."""
    config = model.config
    usual = config._attn_implementation
    try:
        config._attn_implementation = NAMES[usual]
        yield
    finally:
        # Models made from one config share it but have locks of their own: what another one has
        # switched on for a step is never what was meant.
        eager = NAMES[usual] == NAMES["eager"]
        config._attn_implementation = "eager" if eager else "sdpa"


def _attend(
    module: Any,
    query: Tensor,
    key: Sequence[Tensor],
    value: Sequence[Tensor],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    lengths: Sequence[Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a full layer: query [B, H, 1, D]; of each row key and value [1, K, S_b, D]."""
    if torch.is_tensor(key):  # of a model that shares its config with the one that steps
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    heads, dim = query.shape[1], query.shape[3]
    parts: list[Tensor] = []
    for b, (keys, values) in enumerate(zip(key, value, strict=True)):
        if lengths is None:
            # The query heads of a KV head are rows of one call: keys and values are read once.
            packed = query[b : b + 1].reshape(1, keys.shape[1], -1, dim)
            part = scaled_dot_product_attention(packed, keys, values, scale=scaling)
        else:
            # To the kernel a row's slots are a window that hides nothing; the lengths say which
            # are filled.
            pattern = AttentionPattern(BLOCK, sink_blocks=0, local_blocks=keys.shape[2] // BLOCK)
            kept = Retained(keys[:, :, :0], values[:, :, :0], keys, values)
            impl = kwargs.get("impl", "auto")
            row = query[b : b + 1]
            part = decode_attention(row, kept, pattern, lengths[b], 0, scaling, impl)
        parts.append(part.reshape(1, 1, heads, -1))
    return torch.cat(parts), None


def _attend_eager(
    module: Any,
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
        return _attend(module, query, key, value, attention_mask, scaling, **kwargs)
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


def _mask_for(usual: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what makes masks as usual, and none for single tokens without padding."""

    def make(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        # A single token sees everything that its row holds.
        if kwargs.get("q_length") == 1 and attention_mask is None:
            return None
        return usual(*args, attention_mask=attention_mask, **kwargs)

    return make


AttentionInterface.register(NAMES["sdpa"], _attend)
AttentionInterface.register(NAMES["eager"], _attend_eager)
AttentionMaskInterface.register(NAMES["sdpa"], _mask_for(sdpa_mask))
AttentionMaskInterface.register(NAMES["eager"], _mask_for(eager_mask))
