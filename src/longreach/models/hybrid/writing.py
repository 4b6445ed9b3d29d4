"""Hybrid models under transformers' `generate`: the right cache, drafts by the first layers, what
is refused."""

from __future__ import annotations

import copy
import os
from functools import wraps
from pathlib import Path
from typing import Any

from transformers import GenerationMixin
from transformers.generation.configuration_utils import GenerationMode

from longreach.caches.reserved import ReservedCache
from longreach.caches.retained import RetainedCache
from longreach.caches.static import StaticRetainedCache
from longreach.errors import UsageError
from longreach.models.cached import CACHE, CacheAliases, take_cache
from longreach.models.hybrid.selfcheck import check_class
from longreach.models.hybrid.sparse import pattern_of
from longreach.models.loading.origin import note_origin, tokenizer_of

_PREFIXES = ("PREFIX_TUNING", "CARTRIDGE")
_KINDS = (None, "dynamic", "offloaded", "static")


class HybridCausalLM:
    """Mixed into a family's causal language model."""

    decoder_class: type
    config_class: Any

    def make_sparse(self) -> None:
        """Turns a stock model with a hybrid config into a hybrid model."""
        module: Any = self
        module.model.__class__ = self.decoder_class
        module.model.make_sparse()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in the stock class; ModelError where the installed libraries would not read its
        cache."""
        loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        check_class(cls)
        return loaded

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        made = super()._from_config(config, **kwargs)  # type: ignore[misc]
        check_class(cls)
        return made

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """Saves the model with the tokenizer that it was loaded with, so that `longreach.load`
        reads the folder."""
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        tokenizer = tokenizer_of(self)
        folder = Path(save_directory)
        if tokenizer is not None and kwargs.get("is_main_process", True):
            if not (folder / "tokenizer_config.json").exists():
                tokenizer.save_pretrained(folder)
            note_origin(self, folder, tokenizer)

    def new_cache(self, *, max_length: int | None = None, offloading: bool = False) -> Any:
        """An empty cache for this model; with `max_length` a static one, whose tensors never
        move."""
        module: Any = self
        pattern, plan = pattern_of(module.config), module.model.plan()
        if max_length is not None:
            return StaticRetainedCache(pattern, plan, max_length)
        return RetainedCache(pattern, plan, offloading=offloading)

    @wraps(GenerationMixin.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As in the stock class; the cache may go by any of its names."""
        config = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None)
        for kind in (
            kwargs.get("cache_implementation"),
            getattr(config, "cache_implementation", None),
        ):
            if kind not in _KINDS:
                _refuse_kind(kind)
        given = take_cache(kwargs)
        if given is not None:
            kwargs[CACHE] = given
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    @wraps(GenerationMixin.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in the stock class; PEFT finds the cache in it under the name that it knows."""
        return CacheAliases(super().prepare_inputs_for_generation(*args, **kwargs))  # type: ignore[misc]

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        kind = generation_config.cache_implementation
        drafted = generation_config.is_assistant
        learned = self._learned_prompt()
        if learned is not None:
            _check_learned_prompt(learned, generation_config, generation_mode)
        given = model_kwargs.get(CACHE)
        fixed = isinstance(given, StaticRetainedCache) or (
            given is None and kind == "static" and not drafted
        )
        if generation_mode == GenerationMode.ASSISTED_GENERATION:
            _check_drafting(fixed, generation_config.use_cache)
        if given is not None:
            self._check_given(given, kind)
            if isinstance(given, RetainedCache) and not drafted:
                given.stop_recording()  # assisted decoding begins it anew
        if given is not None or generation_config.use_cache is False:
            return super()._prepare_cache_for_generation(  # type: ignore[misc]
                generation_config, model_kwargs, generation_mode, *args, **kwargs
            )
        if kind not in _KINDS:
            _refuse_kind(kind)
        if fixed:
            # Slots for the longest answer, as transformers' own `generate` counts them.
            most = max(generation_config.max_length, generation_config.max_cache_len or 0)
            most += learned.num_virtual_tokens if learned is not None else 0
            model_kwargs[CACHE] = self.new_cache(max_length=most)
            return None
        cache = self.new_cache(offloading=kind == "offloaded")
        if drafted:
            cache.activate_past_recording()
        model_kwargs[CACHE] = cache
        return None

    def _check_given(self, given: Any, kind: Any) -> None:
        """Raises UsageError for a cache that sparse layers cannot read, or one too many."""
        module: Any = self
        if kind is not None:
            raise UsageError(
                f"cache_implementation is {kind!r} and there is a cache as well; give one of the"
                " two."
            )
        own = (
            isinstance(given, RetainedCache | StaticRetainedCache | ReservedCache)
            or not module.model.plan().sparse
        )
        if not own and not module.model.keeps_padding(given):
            raise UsageError(
                f"A hybrid model cannot use this {type(given).__name__}; give no cache, or the one"
                " that the model's new_cache() makes."
            )

    def _learned_prompt(self) -> Any:
        """The config of PEFT's prefix or prompt tuning, where its model around this one is
        generating; else None."""
        wrapper = getattr(vars(self).get("prepare_inputs_for_generation"), "__self__", None)
        config = getattr(wrapper, "active_peft_config", None)
        return config if getattr(config, "is_prompt_learning", False) else None

    def _get_candidate_generator(self, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        count = generation_config.assistant_early_exit
        if count is not None and generation_config.prompt_lookup_num_tokens is not None:
            raise UsageError(
                "assistant_early_exit and prompt_lookup_num_tokens both draft; give one of the two."
            )
        # transformers writes the number of layers into the config that all calls share, and after
        # an error leaves it.
        drafting = self if count is None else self._first_layers(count)
        return super(HybridCausalLM, drafting)._get_candidate_generator(  # type: ignore[misc]
            generation_config, *args, **kwargs
        )

    def _first_layers(self, count: Any) -> HybridCausalLM:
        """The same model with its first layers only: the very same modules under a config of its
        own."""
        module: Any = self
        layers = module.model.layers
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(layers):
            raise UsageError(
                f"assistant_early_exit is {count!r}; give the layers that draft, 1 to {len(layers)}"
                " of this model."
            )
        config = copy.copy(module.config)
        config.num_hidden_layers = count
        short, decoder = copy.copy(module), copy.copy(module.model)
        for part in (short, decoder):
            part.__dict__.pop("forward", None)  # compiled or hooked for the whole model
            part.__dict__["_modules"] = dict(part._modules)
            part.config = config
        decoder.layers = layers[:count]
        short.model = decoder
        return short

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: see `init_continuous_batching`."""
        _refuse_continuous_batching("generate_batch")

    def continuous_batching_context_manager(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: see `init_continuous_batching`."""
        _refuse_continuous_batching("continuous_batching_context_manager")

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: continuous batching keeps all keys in pages of its own, which sparse layers
        cannot read."""
        _refuse_continuous_batching("init_continuous_batching")


def _check_drafting(fixed: bool, use_cache: Any) -> None:
    """Raises UsageError where drafted tokens cannot be removed again."""
    if fixed:
        raise UsageError(
            "Drafted tokens may have to be removed again, which a static cache of a hybrid model"
            " cannot do; omit cache_implementation, or the assistant."
        )
    if use_cache is False:
        raise UsageError(
            "Drafted tokens are checked through the cache; leave use_cache=False out, or the"
            " assistant."
        )


def _check_learned_prompt(learned: Any, generation_config: Any, generation_mode: Any) -> None:
    """Raises UsageError where PEFT would not put its virtual tokens where they belong."""
    kind = getattr(learned.peft_type, "value", learned.peft_type)
    if generation_mode == GenerationMode.ASSISTED_GENERATION:
        raise UsageError(
            f"PEFT's {kind} and drafted tokens do not go together; leave the assistant out."
        )
    if generation_config.prefill_chunk_size is not None:
        raise UsageError(
            f"PEFT's {kind} takes the prompt in one piece; leave prefill_chunk_size out."
        )
    if generation_config.use_cache is False and kind in _PREFIXES:
        raise UsageError(f"PEFT's {kind} lies in the cache; leave use_cache=False out.")


def _refuse_kind(kind: Any) -> None:
    raise UsageError(
        f"cache_implementation is {kind!r}; a hybrid model takes 'dynamic', 'static' or"
        " 'offloaded', and frees what its pattern does not retain by itself."
    )


def _refuse_continuous_batching(name: str) -> None:
    raise UsageError(
        f"{name} keeps keys in pages that a hybrid model's sparse layers cannot read; use generate,"
        " which takes padded batches, or convert the model with all layers full."
    )
