"""What makes a stock decoder hybrid: attention of sparse layers, and a forward around it.

That forward brings the cache, and which slots of the rows are real. Only `self_attn` of sparse
layers differs from the stock model; names and shapes of all parameters stay.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.utils import output_capturing

from longreach.caches.joined import JoinedRetainedLayer
from longreach.caches.retained import RetainedCache, RetainedLayer
from longreach.caches.static import StaticRetainedCache, StaticRetainedLayer
from longreach.errors import UsageError
from longreach.kernels.api import sparse_attention
from longreach.models.cached import CACHE, KEEPS_CACHE, take_cache
from longreach.models.hybrid.rows import PaddedRows, attend_rows, real_slots, refuse_packing
from longreach.models.parallel import Ulysses, refuse_context_parallel
from longreach.pattern import AttentionPattern, LayerPlan
from longreach.wording import counted


def plan_of(config: PretrainedConfig) -> LayerPlan:
    """Returns which layers of a hybrid config are full."""
    full = config.full_layers
    if full is None:
        full = "middle-third"
    return LayerPlan.make(config.num_hidden_layers, full)


def pattern_of(config: PretrainedConfig) -> AttentionPattern:
    """Returns what the sparse layers of a hybrid config see.

    Raises:
        UsageError: The config says something that is no pattern.
    """
    try:
        return AttentionPattern(**(config.sparse_attention or {}))
    except TypeError as error:
        raise UsageError(
            f"sparse_attention in the config is {config.sparse_attention!r}: {error}."
        ) from error


class SparseAttention:
    """Mixed into a family's attention class, whose attention becomes the pattern's.

    Projections, norms and the rotary embedding stay the family's.
    """

    config: Any
    layer_idx: int

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        rows: PaddedRows | None = None,
        real: Tensor | None = None,
        ulysses: Ulysses | None = None,
        impl: str = "auto",
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Attends as the stock class does, but for what is visible.

        Args:
            hidden_states: [B, T, d].
            position_embeddings: Cosines and sines of the rotary embedding.
            attention_mask: Not looked at.
            rows: Which of the new slots are real; None where all are.
            real: [B, past + T], True for real tokens; only for a plain DynamicCache.
            ulysses: How sequences are cut over ranks, or None.
            impl: As in `kernels.api`.
            **kwargs: The cache, by any of its names.

        Returns:
            [B, T, d], and None for the weights.
        """
        module: Any = self
        shape = (*hidden_states.shape[:-1], -1, module.head_dim)
        q = module.q_proj(hidden_states).view(shape)
        k = module.k_proj(hidden_states).view(shape)
        v = module.v_proj(hidden_states).view(shape)
        # Qwen3 normalizes queries and keys; the other families do not.
        if hasattr(module, "q_norm"):
            q = module.q_norm(q)
            k = module.k_norm(k)
        q = q.transpose(1, 2)
        k = k.transpose(1, 2)
        v = v.transpose(1, 2)
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        # Autocast leaves them float32.
        q = q.to(v.dtype)
        k = k.to(v.dtype)
        pattern = pattern_of(self.config)
        # Nothing says here which of the model's heads a rank of tensor parallelism holds.
        if k.shape[1] != self.config.num_key_value_heads and pattern.stride:
            raise UsageError(
                f"This rank holds {k.shape[1]} of"
                f" {counted(self.config.num_key_value_heads, 'KV head')}; tensor parallelism needs"
                " a pattern without a stride, whose heads are all alike."
            )
        if rows is not None:
            q = rows.pack(q)
            k = rows.pack(k)
            v = rows.pack(v)
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
        cache: Cache | None,
        rows: PaddedRows | None,
        real: Tensor | None,
        impl: str,
    ) -> Tensor:
        """Returns attention over whatever the cache holds, and stores the new tokens in it.

        Raises:
            UsageError: Sparse layers cannot read this cache, or gradients would be lost in it.
        """
        scale = self.scaling  # type: ignore[attr-defined]
        layer = self.layer_idx
        if cache is None:
            return sparse_attention(q, k, v, pattern, layer, scale, impl)
        store = _store_of(cache, layer)
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
            return attend_rows(q, k, v, real, attend)
        raise UsageError(
            f"Layer {layer} cannot use a {type(store).__name__} of a {type(cache).__name__}; give"
            " no cache, or the one that the model's new_cache() makes."
        )


class HybridDecoder:
    """Mixed into a family's decoder: changes sparse layers, makes the cache, checks the call."""

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
            # Another class for the same module: parameters, their initialization and quantization
            # stay untouched.
            if not plan_of(module.config).is_full(index):
                layer.self_attn.__class__ = self.sparse_class

    def plan(self) -> LayerPlan:
        """Returns which of the layers that run are full."""
        module: Any = self
        layers = module.layers[: module.config.num_hidden_layers]
        full = []
        for index, layer in enumerate(layers):
            if not isinstance(layer.self_attn, SparseAttention):
                full.append(index)
        return LayerPlan.make(len(layers), full)

    def keeps_padding(self, cache: Cache) -> bool:
        """Returns whether padding has slots in the cache, as text has.

        So it is where the cache is a plain DynamicCache to sparse layers.
        """
        sparse = self.plan().sparse
        return bool(sparse) and all(_is_plain(_store_of(cache, layer), cache) for layer in sparse)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
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
            attention_mask = None  # no real token sees padding on the right
            use_cache = False
        else:
            refuse_packing(position_ids, attention_mask)
        use_cache = module.config.use_cache if use_cache is None else use_cache
        # Checkpointed layers are called again without the cache, unless the installed transformers
        # checkpoints nothing where there are no gradients.
        keeps = KEEPS_CACHE and not torch.is_grad_enabled()
        if module.gradient_checkpointing and module.training and not keeps:
            if cache is not None:
                raise UsageError(
                    "Gradient checkpointing is on and the model is in training mode, where its"
                    " layers forget the cache; call model.eval() before it writes."
                )
            use_cache = False
        if use_cache and cache is None:
            cache = RetainedCache(pattern_of(module.config), self.plan())
        rows = PaddedRows.of(attention_mask, given.shape[1])
        real = None
        if cache is not None and attention_mask is not None and self.keeps_padding(cache):
            rows = None
            real = real_slots(attention_mask, cache.get_seq_length() + given.shape[1])
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


def _store_of(cache: Cache, layer: int) -> CacheLayerMixin | None:
    """Returns what a cache has of a layer; None where nothing has been read yet."""
    stores = getattr(cache, "layers", ())
    return stores[layer] if layer < len(stores) else None


def _is_plain(store: CacheLayerMixin | None, cache: Cache) -> bool:
    """Returns whether a layer of a cache is transformers' own that keeps all slots, or will be."""
    return type(store) is DynamicLayer or (
        store is None and cache.layer_class_to_replicate is DynamicLayer
    )


def _static_mask(
    cache: StaticRetainedCache, padding: Tensor | None, given: Tensor, module: PreTrainedModel
) -> Tensor | None:
    """Returns what full layers see of a static cache: [B, 1, T, slots].

    transformers omits this mask for single tokens, unless it takes the cache for one that
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
    # SDPA takes a mask of bools; eager attention adds its mask to the scores.
    if implementation == "sdpa":
        return seen
    return torch.zeros(seen.shape, dtype=module.dtype, device=seen.device).masked_fill(
        ~seen, float("-inf")
    )


def refuse_flash_on_cpu(implementation: object, device: torch.device) -> None:
    """Raises UsageError where flash attention is asked for and the tensors are on no GPU."""
    name = str(implementation or "")
    if device.type == "cpu" and "flash" in name and "flex" not in name:
        raise UsageError(
            f"attn_implementation is {implementation!r}, which needs a GPU, and the model is on the"
            " CPU; use 'sdpa' or move it to a GPU."
        )
