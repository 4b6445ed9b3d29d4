"""What makes a stock decoder hybrid: attention for sparse layers, a forward that brings the cache
and the rows.

Only `self_attn` of sparse layers differs from the stock model; names and shapes of all parameters
stay.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.utils import output_capturing

from longreach.caches.joined import JoinedRetainedLayer
from longreach.caches.retained import RetainedCache, RetainedLayer
from longreach.caches.static import StaticRetainedCache, StaticRetainedLayer
from longreach.errors import UsageError
from longreach.kernels.api import sparse_attention
from longreach.models.cached import CACHE, KEEPS_CACHE, take_cache
from longreach.models.hybrid.rows import Rows, refuse_packing
from longreach.models.parallel import Ulysses, refuse_context_parallel
from longreach.pattern import AttentionPattern, LayerPlan
from longreach.wording import counted


def plan_of(config: Any) -> LayerPlan:
    """Which layers of a hybrid config are full."""
    full = config.full_layers
    return LayerPlan.make(config.num_hidden_layers, "middle-third" if full is None else full)


def pattern_of(config: Any) -> AttentionPattern:
    """What the sparse layers of a hybrid config see."""
    try:
        return AttentionPattern(**(config.sparse_attention or {}))
    except TypeError as error:
        raise UsageError(
            f"sparse_attention in the config is {config.sparse_attention!r}: {error}."
        ) from error


class SparseAttention:
    """Mixed into a family's attention class: its projections, norms and rotary embedding, the
    pattern's attention."""

    config: Any
    layer_idx: int

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        rows: Rows | None = None,
        real: Tensor | None = None,
        ulysses: Ulysses | None = None,
        impl: str = "auto",
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """As in the stock class; `attention_mask` is not looked at.

        What is padding `rows` says, and for a plain DynamicCache `real`: [B, past + T], True for
        real tokens.
        """
        module: Any = self
        shape = (*hidden_states.shape[:-1], -1, module.head_dim)
        q, k, v = (getattr(module, f"{name}_proj")(hidden_states).view(shape) for name in "qkv")
        if hasattr(module, "q_norm"):
            q, k = module.q_norm(q), module.k_norm(k)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        # Autocast leaves them float32.
        q, k = (x.to(v.dtype) for x in apply_rotary_pos_emb(q, k, *position_embeddings))
        pattern = pattern_of(self.config)
        if k.shape[1] != self.config.num_key_value_heads and pattern.stride:
            raise UsageError(
                f"This rank holds {k.shape[1]} of"
                f" {counted(self.config.num_key_value_heads, 'KV head')}; tensor parallelism needs"
                " a pattern without a stride, whose heads are all alike."
            )
        if rows is not None:
            q, k, v = (rows.pack(x) for x in (q, k, v))
        if ulysses is not None:
            out = ulysses.attend(module, q, k, v, pattern, impl, kwargs.get("position_ids"))
        else:
            out = self._attend(q, k, v, pattern, take_cache(kwargs), rows, real, impl)
        if rows is not None:
            out = rows.unpack(out)
        out = out.transpose(1, 2).reshape(*hidden_states.shape[:-1], -1)
        return module.o_proj(out.contiguous()), None

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        pattern: AttentionPattern,
        cache: Any,
        rows: Rows | None,
        real: Tensor | None,
        impl: str,
    ) -> Tensor:
        scale, layer = self.scaling, self.layer_idx  # type: ignore[attr-defined]
        if cache is None:
            return sparse_attention(q, k, v, pattern, layer, scale, impl)
        store = cache.layers[layer] if layer < len(cache.layers) else None
        if isinstance(store, RetainedLayer | StaticRetainedLayer | JoinedRetainedLayer):
            if store.pattern != pattern:
                raise UsageError(
                    f"The cache was made for {store.pattern}, the model has {pattern}; make a new"
                    " cache."
                )
            if torch.is_grad_enabled() and self.training and store.get_seq_length():  # type: ignore[attr-defined]
                raise UsageError(
                    "No gradients flow through a cache that frees keys; train on whole sequences"
                    " with use_cache=False, or read under torch.no_grad()."
                )
            if rows is None or isinstance(store, JoinedRetainedLayer):
                return store.attend(q, k, v, scale, impl=impl)
            return store.attend(q, k, v, scale, counts=rows.counts, sure=rows.sure, impl=impl)
        # Someone's own DynamicCache keeps every key: right, but nothing is saved.
        if _is_plain(store, cache):
            k, v = cache.update(k, v, layer)
            if real is None:
                return sparse_attention(q, k, v, pattern, layer, scale, impl)
            attend = partial(sparse_attention, pattern=pattern, layer=layer, scale=scale, impl=impl)
            return _attend_rows(q, k, v, real, attend)
        raise UsageError(
            f"Layer {layer} cannot use a {type(store).__name__} of a {type(cache).__name__}; give"
            " no cache, or the one that the model's new_cache() makes."
        )


class HybridDecoder:
    """Mixed into a family's decoder: swaps the sparse layers' attention, makes the cache, checks
    the call."""

    sparse_class: type

    def make_sparse(self) -> None:
        """Turns the attention of every sparse layer of a stock decoder into the pattern's."""
        module: Any = self
        pattern_of(module.config)  # a config that was edited badly is refused when it is loaded
        # transformers notes at construction, by class, which outputs can be asked for
        # (output_hidden_states).
        dict.__setitem__(
            output_capturing._CAN_RECORD_REGISTRY, str(type(self)), module._can_record_outputs
        )
        for index, layer in enumerate(module.layers):
            # Another class for the same module: parameters, their initialisation and quantisation
            # stay untouched.
            if not plan_of(module.config).is_full(index):
                layer.self_attn.__class__ = self.sparse_class

    def plan(self) -> LayerPlan:
        """Which of the layers that run are full."""
        module: Any = self
        layers = module.layers[: module.config.num_hidden_layers]
        full = [
            index
            for index, layer in enumerate(layers)
            if not isinstance(layer.self_attn, SparseAttention)
        ]
        return LayerPlan.make(len(layers), full)

    def keeps_padding(self, cache: Any) -> bool:
        """Whether the cache is a plain DynamicCache to sparse layers: padding has slots in it as
        text has."""
        stores = list(getattr(cache, "layers", []))
        sparse = self.plan().sparse
        found = [stores[layer] if layer < len(stores) else None for layer in sparse]
        return bool(sparse) and all(_is_plain(store, cache) for store in found)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in the stock class. `attention_mask` marks padding only: [B, past + T].

        The cache may be given as `past_key_values` too, whatever the installed transformers calls
        it.
        """
        module: Any = self
        named = take_cache(kwargs)
        cache = named if cache is None else cache
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise UsageError("Give input_ids or inputs_embeds.")
        refuse_context_parallel()
        refuse_flash_on_cpu(module.config._attn_implementation, given.device)
        ulysses = Ulysses.of(module.config._attn_implementation, module.training)
        if ulysses is not None:
            ulysses.check(given, position_ids, attention_mask, bool(use_cache) or cache is not None)
            attention_mask, use_cache = None, False  # no real token sees padding on the right
        else:
            refuse_packing(position_ids, attention_mask)
        use_cache = module.config.use_cache if use_cache is None else use_cache
        if (
            module.gradient_checkpointing
            and module.training
            and not (KEEPS_CACHE and not torch.is_grad_enabled())
        ):
            if cache is not None:
                raise UsageError(
                    "Gradient checkpointing is on and the model is in training mode, where its"
                    " layers forget the cache; call model.eval() before it writes."
                )
            use_cache = False
        if use_cache and cache is None:
            cache = RetainedCache(pattern_of(module.config), self.plan())
        rows, real = Rows.of(attention_mask, given.shape[1]), None
        if cache is not None and attention_mask is not None and self.keeps_padding(cache):
            rows, real = None, _real_slots(attention_mask, cache.get_seq_length() + given.shape[1])
        if isinstance(cache, StaticRetainedCache):
            attention_mask = _static_mask(cache, attention_mask, given, module)
        return super().forward(  # type: ignore[misc]
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            rows=rows,
            real=real,
            ulysses=ulysses,
            **{CACHE: cache},
            **kwargs,
        )


def _is_plain(store: Any, cache: Any) -> bool:
    """Whether a layer of a cache is transformers' own that keeps every slot, or will be."""
    return type(store) is DynamicLayer or (
        store is None and cache.layer_class_to_replicate is DynamicLayer
    )


def _real_slots(attention_mask: Tensor, slots: int) -> Tensor | None:
    """Which slots of a DynamicCache and of the new tokens are real, [B, slots]; None where all
    are."""
    if bool(attention_mask.all()):
        return None
    if attention_mask.shape[1] != slots:
        raise UsageError(
            f"attention_mask has {attention_mask.shape[1]} columns, and a DynamicCache cannot tell"
            f" padding from text: give the mask of all {slots} tokens, those in the cache included,"
            " or no cache, or model.new_cache()."
        )
    return attention_mask.bool()


def _attend_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    real: Tensor,
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Attention of each row's real tokens [B, H, T, D] over its real slots; zeros for padding."""
    parts = []
    for row, kept in enumerate(real):
        new = kept[-q.shape[2] :]
        part = torch.zeros_like(q[row : row + 1])
        if bool(new.any()):
            seen = slice(row, row + 1)
            part[:, :, new] = attend(q[seen][:, :, new], k[seen][:, :, kept], v[seen][:, :, kept])
        parts.append(part)
    return torch.cat(parts)


def _static_mask(
    cache: StaticRetainedCache, padding: Tensor | None, given: Tensor, module: Any
) -> Tensor | None:
    """What full layers see of a static cache: [B, 1, T, slots].

    transformers leaves this mask away for single tokens, unless it takes the cache for one that
    `generate` compiles.
    """
    implementation = module.config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        raise UsageError(
            "A static cache takes attn_implementation 'sdpa' or 'eager'; the model has"
            f" {implementation!r}."
        )
    if given.shape[1] > cache.get_max_length():
        raise UsageError(
            f"{counted(given.shape[1], 'token')} do not fit a static cache of"
            f" {cache.get_max_length()}; make one for at least the prompt and the answer, or use"
            " the dynamic one."
        )
    slots = torch.arange(cache.get_max_length(), device=given.device)
    at = (torch.arange(given.shape[1], device=given.device) + cache.get_seq_length())[:, None]
    seen = (slots <= at)[None, None].expand(given.shape[0], 1, -1, -1)
    if padding is not None:
        real = torch.nn.functional.pad(
            padding.bool(), (0, len(slots) - padding.shape[1]), value=True
        )
        # Padding sees itself: nothing at all would give NaN.
        seen = seen & real[:, None, None, :] | (slots == at)
    if implementation == "sdpa":
        return seen
    return torch.zeros(seen.shape, dtype=module.dtype, device=seen.device).masked_fill(
        ~seen, float("-inf")
    )


def refuse_flash_on_cpu(implementation: Any, device: torch.device) -> None:
    """Raises UsageError where flash attention is asked for and there is no GPU under the
    tensors."""
    if (
        device.type == "cpu"
        and "flash" in str(implementation or "")
        and "flex" not in str(implementation)
    ):
        raise UsageError(
            f"attn_implementation is {implementation!r}, which needs a GPU, and the model is on the"
            " CPU; use 'sdpa' or move it to a GPU."
        )
