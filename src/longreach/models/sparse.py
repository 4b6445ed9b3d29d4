"""What makes a stock decoder hybrid: attention for sparse layers, a forward that brings the cache and the rows.

Only `self_attn` of sparse layers differs from the stock model; names and shapes of all parameters stay.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.utils import output_capturing

from longreach.caches.retained import RetainedCache, RetainedLayer
from longreach.caches.static import StaticRetainedCache, StaticRetainedLayer
from longreach.errors import UsageError
from longreach.kernels.attention import sparse_attention
from longreach.models.origin import note_origin, tokenizer_of
from longreach.models.parallel import Ulysses, refuse_context_parallel
from longreach.models.rows import Rows, refuse_packing
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
        raise UsageError(f"sparse_attention in the config is {config.sparse_attention!r}: {error}.") from error


class SparseAttention:
    """Mixed into a family's attention class: its projections, norms and rotary embedding, the pattern's attention."""

    config: Any
    layer_idx: int

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        rows: Rows | None = None,
        ulysses: Ulysses | None = None,
        impl: str = "auto",
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """As in the stock class; `attention_mask` is not looked at, `rows` says what is padding."""
        module: Any = self
        shape = (*hidden_states.shape[:-1], -1, module.head_dim)
        q, k, v = (getattr(module, f"{name}_proj")(hidden_states).view(shape) for name in "qkv")
        if hasattr(module, "q_norm"):
            q, k = module.q_norm(q), module.k_norm(k)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        q, k = (x.to(v.dtype) for x in apply_rotary_pos_emb(q, k, *position_embeddings))  # autocast leaves them float32
        pattern = pattern_of(self.config)
        if k.shape[1] != self.config.num_key_value_heads and pattern.stride:
            raise UsageError(
                f"This rank holds {k.shape[1]} of {counted(self.config.num_key_value_heads, 'KV head')}; tensor "
                "parallelism needs "
                "a pattern without a stride, whose heads are all alike."
            )
        if rows is not None:
            q, k, v = (rows.pack(x) for x in (q, k, v))
        if ulysses is not None:
            out = ulysses.attend(module, q, k, v, pattern, impl, kwargs.get("position_ids"))
        else:
            out = self._attend(q, k, v, pattern, past_key_values, rows, impl)
        if rows is not None:
            out = rows.unpack(out)
        out = out.transpose(1, 2).reshape(*hidden_states.shape[:-1], -1)
        return module.o_proj(out.contiguous()), None

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern, cache: Any, rows: Rows | None, impl: str
    ) -> Tensor:
        scale, layer = self.scaling, self.layer_idx  # type: ignore[attr-defined]
        if cache is None:
            return sparse_attention(q, k, v, pattern, layer, scale, impl)
        store = cache.layers[layer] if layer < len(cache.layers) else None
        if isinstance(store, RetainedLayer | StaticRetainedLayer):
            if store.pattern != pattern:
                raise UsageError(f"The cache was made for {store.pattern}, the model has {pattern}; make a new cache.")
            if torch.is_grad_enabled() and self.training and store.get_seq_length():  # type: ignore[attr-defined]
                raise UsageError(
                    "No gradients flow through a cache that frees keys; train on whole sequences with use_cache=False, "
                    "or read under torch.no_grad()."
                )
            if rows is None:
                return store.attend(q, k, v, scale, impl=impl)
            return store.attend(q, k, v, scale, counts=rows.counts, sure=rows.sure, impl=impl)
        # Someone's own DynamicCache keeps every key: right, but nothing is saved. Without padding the slots are the
        # positions; with padding they are not, and its layers do not know.
        plain = type(store) is DynamicLayer or (store is None and cache.layer_class_to_replicate is DynamicLayer)
        if plain and rows is not None:
            raise UsageError("A DynamicCache cannot tell padding from text; give no cache, or model.new_cache().")
        if plain:
            k, v = cache.update(k, v, layer)
            return sparse_attention(q, k, v, pattern, layer, scale, impl)
        raise UsageError(
            f"Layer {layer} cannot use a {type(store).__name__} of a {type(cache).__name__}; give no cache, or the one "
            "that the model's new_cache() makes."
        )


class HybridDecoder:
    """Mixed into a family's decoder: swaps the sparse layers' attention, makes the cache, checks the call."""

    sparse_class: type

    def make_sparse(self) -> None:
        """Turns the attention of every sparse layer of a stock decoder into the pattern's."""
        module: Any = self
        pattern_of(module.config)  # a config that was edited badly is refused when it is loaded
        # transformers notes at construction, by class, which outputs can be asked for (output_hidden_states).
        dict.__setitem__(output_capturing._CAN_RECORD_REGISTRY, str(type(self)), module._can_record_outputs)
        for index, layer in enumerate(module.layers):
            # Another class for the same module: parameters, their initialisation and quantisation stay untouched.
            if not plan_of(module.config).is_full(index):
                layer.self_attn.__class__ = self.sparse_class

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in the stock class. `attention_mask` marks padding only: [B, past + T]."""
        module: Any = self
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise UsageError("Give input_ids or inputs_embeds.")
        refuse_context_parallel()
        refuse_flash_on_cpu(module.config._attn_implementation, given.device)
        ulysses = Ulysses.of(module.config._attn_implementation, module.training)
        if ulysses is not None:
            ulysses.check(given, position_ids, attention_mask, bool(use_cache) or past_key_values is not None)
            attention_mask, use_cache = None, False  # no real token sees padding on the right
        else:
            refuse_packing(position_ids, attention_mask)
        use_cache = module.config.use_cache if use_cache is None else use_cache
        if module.gradient_checkpointing and module.training:
            use_cache = False
        if use_cache and past_key_values is None:
            past_key_values = RetainedCache(pattern_of(module.config), plan_of(module.config))
        rows = Rows.of(attention_mask, given.shape[1])
        if isinstance(past_key_values, StaticRetainedCache):
            attention_mask = _static_mask(past_key_values, attention_mask, given, module)
        return super().forward(  # type: ignore[misc]
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            rows=rows,
            ulysses=ulysses,
            **kwargs,
        )


class HybridCausalLM:
    """Mixed into a family's causal language model: `generate` gets the right cache."""

    decoder_class: type

    def make_sparse(self) -> None:
        """Turns a stock model with a hybrid config into a hybrid model."""
        module: Any = self
        module.model.__class__ = self.decoder_class
        module.model.make_sparse()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves the model with the tokenizer that it was loaded with, so that `longreach.load` reads the folder."""
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        tokenizer, folder = tokenizer_of(self), Path(save_directory)
        if tokenizer is not None and kwargs.get("is_main_process", True):
            if not (folder / "tokenizer_config.json").exists():
                tokenizer.save_pretrained(folder)
            note_origin(self, folder, tokenizer)

    def new_cache(self, *, max_length: int | None = None, offloading: bool = False) -> Any:
        """An empty cache for this model; with `max_length` a static one, whose tensors never move."""
        config: Any = self.config  # type: ignore[attr-defined]
        if max_length is not None:
            return StaticRetainedCache(pattern_of(config), plan_of(config), max_length)
        return RetainedCache(pattern_of(config), plan_of(config), offloading=offloading)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        kind = generation_config.cache_implementation
        given = model_kwargs.get("past_key_values")
        if isinstance(given, RetainedCache) and not generation_config.is_assistant:
            given.stop_recording()  # assisted decoding begins it anew
        if given is None and generation_config.use_cache is not False:
            if kind not in (None, "dynamic", "dynamic_full", "offloaded", "static"):
                raise UsageError(
                    f"cache_implementation is {kind!r}; a hybrid model takes 'dynamic', 'static' or 'offloaded', "
                    "and frees what its pattern does not retain by itself."
                )
            if kind == "static":
                # Slots for the longest answer, as transformers' own `generate` counts them.
                most = max(generation_config.max_length, generation_config.max_cache_len or 0)
                model_kwargs["past_key_values"] = self.new_cache(max_length=most)
                return None
            cache = self.new_cache(offloading=kind == "offloaded")
            if generation_config.is_assistant:
                cache.activate_past_recording()
            model_kwargs["past_key_values"] = cache
            return None
        return super()._prepare_cache_for_generation(  # type: ignore[misc]
            generation_config, model_kwargs, *args, **kwargs
        )


def _static_mask(cache: StaticRetainedCache, padding: Tensor | None, given: Tensor, module: Any) -> Tensor | None:
    """What full layers see of a static cache: [B, 1, T, slots].

    transformers leaves this mask away for single tokens, unless it takes the cache for one that `generate` compiles.
    """
    implementation = module.config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        raise UsageError(
            f"A static cache takes attn_implementation 'sdpa' or 'eager'; the model has {implementation!r}."
        )
    if given.shape[1] > cache.get_max_length():
        raise UsageError(
            f"{counted(given.shape[1], 'token')} do not fit a static cache of {cache.get_max_length()}; make one for "
            "at least "
            "the prompt and the answer, or use the dynamic one."
        )
    slots = torch.arange(cache.get_max_length(), device=given.device)
    at = (torch.arange(given.shape[1], device=given.device) + cache.get_seq_length())[:, None]
    seen = (slots <= at)[None, None].expand(given.shape[0], 1, -1, -1)
    if padding is not None:
        real = torch.nn.functional.pad(padding.bool(), (0, len(slots) - padding.shape[1]), value=True)
        seen = seen & real[:, None, None, :] | (slots == at)  # padding sees itself: nothing at all would give NaN
    if implementation == "sdpa":
        return seen
    return torch.zeros(seen.shape, dtype=module.dtype, device=seen.device).masked_fill(~seen, float("-inf"))


def refuse_flash_on_cpu(implementation: Any, device: torch.device) -> None:
    """Raises UsageError where flash attention is asked for and there is no GPU under the tensors."""
    if device.type == "cpu" and "flash" in str(implementation or "") and "flex" not in str(implementation):
        raise UsageError(
            f"attn_implementation is {implementation!r}, which needs a GPU, and the model is on the CPU; use 'sdpa' or "
            "move it to a GPU."
        )
