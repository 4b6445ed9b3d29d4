"""Hybrid models under transformers' `generate`: their cache, their drafts, what is refused."""

from __future__ import annotations

import copy
import os
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from transformers import Cache, GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.generation.configuration_utils import GenerationMode

from longreach.caches.reserved import ReservedCache
from longreach.caches.retained import RetainedCache
from longreach.caches.static import StaticRetainedCache
from longreach.errors import UsageError
from longreach.models.cached import CACHE, CacheAliases, take_cache
from longreach.models.hybrid.selfcheck import check_class
from longreach.models.hybrid.sparse import HybridDecoder, pattern_of
from longreach.models.loading.origin import note_origin, tokenizer_of

if TYPE_CHECKING:
    from peft import PromptLearningConfig
    from torch import Tensor
    from transformers.generation.candidate_generator import CandidateGenerator
    from transformers.utils.generic import ModelOutput

_PREFIXES = ("PREFIX_TUNING", "CARTRIDGE")
_KINDS = (None, "dynamic", "offloaded", "static")


class HybridCausalLM:
    """Mixed into a family's causal language model."""

    decoder_class: type[HybridDecoder]
    config_class: Any

    def make_sparse(self) -> None:
        """Turns a stock model with a hybrid config into a hybrid model."""
        module: Any = self
        # The stock class has made its own decoder, whose weights and names are to stay as they
        # are.
        module.model.__class__ = self.decoder_class
        module.model.make_sparse()

    @classmethod
    def from_pretrained(cls, *args: object, **kwargs: object) -> Self:
        """Loads as the stock class does.

        Raises:
            ModelError: Under the installed libraries the model would not read its cache.
        """
        loaded = super().from_pretrained(*args, **kwargs)  # type: ignore[misc]
        check_class(cls)
        return loaded

    @classmethod
    def _from_config(cls, config: PreTrainedConfig, **kwargs: object) -> Self:
        made = super()._from_config(config, **kwargs)  # type: ignore[misc]
        check_class(cls)
        return made

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: object, **kwargs: object
    ) -> None:
        """Saves the model with the tokenizer that it was loaded with.

        So `longreach.load` can read the folder.
        """
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        tokenizer = tokenizer_of(self)
        folder = Path(save_directory)
        if tokenizer is not None and kwargs.get("is_main_process", True):
            # A tokenizer that the caller has saved there is not overwritten.
            if not (folder / "tokenizer_config.json").exists():
                tokenizer.save_pretrained(folder)
            note_origin(self, folder, tokenizer)

    def new_cache(
        self, *, max_length: int | None = None, offloading: bool = False
    ) -> RetainedCache | StaticRetainedCache:
        """Returns an empty cache for this model.

        Args:
            max_length: Slots of each row, for a static cache, whose tensors never move.
            offloading: Whether full layers' keys and values wait on the CPU for their turn.
        """
        module: Any = self
        pattern = pattern_of(module.config)
        plan = module.model.plan()
        if max_length is not None:
            return StaticRetainedCache(pattern, plan, max_length)
        return RetainedCache(pattern, plan, offloading=offloading)

    @wraps(GenerationMixin.generate)
    def generate(self, *args: object, **kwargs: object) -> Tensor | ModelOutput:
        """Writes as the stock class does; the cache may be given by any of its names."""
        config = kwargs.get("generation_config")
        # It may also be given by its place: it is the second argument of `generate`.
        if config is None and len(args) > 1:
            config = args[1]
        _check_kind(kwargs.get("cache_implementation"))
        _check_kind(getattr(config, "cache_implementation", None))
        given = take_cache(kwargs)
        if given is not None:
            kwargs[CACHE] = given
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    @wraps(GenerationMixin.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(self, *args: object, **kwargs: object) -> dict[str, object]:
        """Prepares as the stock class does; PEFT finds the cache under the name that it knows."""
        return CacheAliases(super().prepare_inputs_for_generation(*args, **kwargs))  # type: ignore[misc]

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, object],
        generation_mode: GenerationMode,
        *args: object,
        **kwargs: object,
    ) -> object:
        """Puts the right cache into `model_kwargs`, or refuses what cannot be right.

        Raises:
            UsageError: The settings do not fit each other, or the model.
        """
        kind = generation_config.cache_implementation
        drafted = generation_config.is_assistant
        learned = self._learned_prompt()
        if learned is not None:
            _check_learned_prompt(learned, generation_config, generation_mode)
        given: Any = model_kwargs.get(CACHE)
        asked_for_fixed = given is None and kind == "static" and not drafted
        fixed = asked_for_fixed or isinstance(given, StaticRetainedCache)
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
        _check_kind(kind)
        if fixed:
            # Slots for the longest answer, as transformers' own `generate` counts them.
            most = max(generation_config.max_length, generation_config.max_cache_len or 0)
            if learned is not None:
                most += learned.num_virtual_tokens
            model_kwargs[CACHE] = self.new_cache(max_length=most)
            return None
        cache: Any = self.new_cache(offloading=kind == "offloaded")
        if drafted:
            # What a draft model has guessed wrong is removed from its cache again.
            cache.activate_past_recording()
        model_kwargs[CACHE] = cache
        return None

    def _check_given(self, given: Cache, kind: str | None) -> None:
        """Raises UsageError for a cache that sparse layers cannot read, or one too many."""
        module: Any = self
        if kind is not None:
            raise UsageError(
                f"cache_implementation is {kind!r} and there is a cache as well; give one of the"
                " two."
            )
        # Without sparse layers any cache will do.
        own = isinstance(given, RetainedCache | StaticRetainedCache | ReservedCache)
        sparse = module.model.plan().sparse
        if sparse and not own and not module.model.keeps_padding(given):
            raise UsageError(
                f"A hybrid model cannot use this {type(given).__name__}; give no cache, or the one"
                " that the model's new_cache() makes."
            )

    def _learned_prompt(self) -> PromptLearningConfig | None:
        """Returns the config of PEFT's prefix or prompt tuning; None where there is none.

        It is found where PEFT's model around this one is generating.
        """
        wrapper = getattr(vars(self).get("prepare_inputs_for_generation"), "__self__", None)
        config = getattr(wrapper, "active_peft_config", None)
        return config if getattr(config, "is_prompt_learning", False) else None

    def _get_candidate_generator(
        self, generation_config: GenerationConfig, *args: object, **kwargs: object
    ) -> CandidateGenerator:
        """Returns what drafts tokens: these may be the model's own first layers."""
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

    def _first_layers(self, count: object) -> HybridCausalLM:
        """Returns the same model with its first layers only.

        They are the very same modules, under a config of their own.
        """
        module: Any = self
        layers = module.model.layers
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(layers):
            raise UsageError(
                f"assistant_early_exit is {count!r}; give the layers that draft, 1 to {len(layers)}"
                " of this model."
            )
        config = copy.copy(module.config)
        config.num_hidden_layers = count
        short = copy.copy(module)
        decoder = copy.copy(module.model)
        for part in (short, decoder):
            part.__dict__.pop("forward", None)  # compiled or hooked for the whole model
            # A dict of its own, so that the whole model keeps its layers.
            part.__dict__["_modules"] = dict(part._modules)
            part.config = config
        decoder.layers = layers[:count]
        short.model = decoder
        drafting: HybridCausalLM = short
        return drafting

    def generate_batch(self, *args: object, **kwargs: object) -> NoReturn:
        """Raises UsageError: see `init_continuous_batching`."""
        _refuse_continuous_batching("generate_batch")

    def continuous_batching_context_manager(self, *args: object, **kwargs: object) -> NoReturn:
        """Raises UsageError: see `init_continuous_batching`."""
        _refuse_continuous_batching("continuous_batching_context_manager")

    def init_continuous_batching(self, *args: object, **kwargs: object) -> NoReturn:
        """Raises UsageError: sparse layers cannot read the pages of continuous batching."""
        _refuse_continuous_batching("init_continuous_batching")


def _check_drafting(fixed: bool, use_cache: bool | None) -> None:
    """Raises UsageError where drafted tokens cannot be removed again."""
    if fixed:
        raise UsageError(
            "Drafted tokens may have to be removed again, which a static cache of a hybrid model"
            " cannot do; omit cache_implementation, or the assistant."
        )
    if use_cache is False:
        raise UsageError(
            "Drafted tokens are checked through the cache; omit use_cache=False, or the assistant."
        )


def _check_learned_prompt(
    learned: PromptLearningConfig,
    generation_config: GenerationConfig,
    generation_mode: GenerationMode,
) -> None:
    """Raises UsageError where PEFT would not put its virtual tokens where they belong."""
    kind = getattr(learned.peft_type, "value", learned.peft_type)
    if generation_mode == GenerationMode.ASSISTED_GENERATION:
        raise UsageError(
            f"PEFT's {kind} and drafted tokens do not go together; omit the assistant."
        )
    if generation_config.prefill_chunk_size is not None:
        raise UsageError(f"PEFT's {kind} takes the prompt in one piece; omit prefill_chunk_size.")
    if generation_config.use_cache is False and kind in _PREFIXES:
        raise UsageError(f"PEFT's {kind} lies in the cache; omit use_cache=False.")


def _check_kind(kind: object) -> None:
    """Raises UsageError unless `kind` is a `cache_implementation` that a hybrid model has."""
    if kind not in _KINDS:
        raise UsageError(
            f"cache_implementation is {kind!r}; a hybrid model takes 'dynamic', 'static' or"
            " 'offloaded', and frees what its pattern does not retain by itself."
        )


def _refuse_continuous_batching(name: str) -> NoReturn:
    raise UsageError(
        f"{name} keeps keys in pages that a hybrid model's sparse layers cannot read; use generate,"
        " which takes padded batches, or convert the model with all layers full."
    )
