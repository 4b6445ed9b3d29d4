"""The hybrid models: for each family a config and classes.

transformers' Auto classes know them once this is imported. A checkpoint of a hybrid model has its
own model_type and stock parameter names: plain transformers refuses it rather than run full
attention quietly, and stock weights load into it as they are. `sparse_attention` in its config.json
is the pattern, `full_layers` the indices of full layers.

Paper: LongGen, "A Little Goes a Long Way: Efficient Long Context Training and Inference with
Partial Contexts".
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    MistralModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from longreach.models.hybrid.sparse import HybridDecoder, SparseAttention
from longreach.models.hybrid.writing import HybridCausalLM


@strict
class HybridLlamaConfig(LlamaConfig):
    """A Llama config with a pattern."""

    model_type = "longreach_llama"
    sparse_attention: dict[str, Any] | None = None
    full_layers: list[int] | None = None


class HybridLlamaAttention(SparseAttention, LlamaAttention):  # type: ignore[misc]
    """Attention of a sparse layer."""


class HybridLlamaModel(HybridDecoder, LlamaModel):
    """The decoder."""

    config: HybridLlamaConfig
    config_class = HybridLlamaConfig
    sparse_class = HybridLlamaAttention

    def __init__(self, config: HybridLlamaConfig) -> None:
        super().__init__(config)
        self.make_sparse()


class HybridLlamaForCausalLM(HybridCausalLM, LlamaForCausalLM):  # type: ignore[misc]
    """The decoder with its LM head."""

    config: HybridLlamaConfig
    config_class = HybridLlamaConfig
    decoder_class = HybridLlamaModel

    def __init__(self, config: HybridLlamaConfig) -> None:
        super().__init__(config)
        self.make_sparse()


@strict
class HybridMistralConfig(MistralConfig):
    """A Mistral config with a pattern; without a sliding window."""

    model_type = "longreach_mistral"
    # A sliding window would hide keys that the pattern shows.
    sliding_window: int | None = None
    sparse_attention: dict[str, Any] | None = None
    full_layers: list[int] | None = None


class HybridMistralAttention(SparseAttention, MistralAttention):  # type: ignore[misc]
    """Attention of a sparse layer."""


class HybridMistralModel(HybridDecoder, MistralModel):
    """The decoder."""

    config: HybridMistralConfig
    config_class = HybridMistralConfig
    sparse_class = HybridMistralAttention

    def __init__(self, config: HybridMistralConfig) -> None:
        super().__init__(config)
        self.make_sparse()


class HybridMistralForCausalLM(HybridCausalLM, MistralForCausalLM):  # type: ignore[misc]
    """The decoder with its LM head."""

    config: HybridMistralConfig
    config_class = HybridMistralConfig
    decoder_class = HybridMistralModel

    def __init__(self, config: HybridMistralConfig) -> None:
        super().__init__(config)
        self.make_sparse()


@strict
class HybridQwen2Config(Qwen2Config):
    """A Qwen2 config with a pattern."""

    model_type = "longreach_qwen2"
    sparse_attention: dict[str, Any] | None = None
    full_layers: list[int] | None = None


class HybridQwen2Attention(SparseAttention, Qwen2Attention):  # type: ignore[misc]
    """Attention of a sparse layer."""


class HybridQwen2Model(HybridDecoder, Qwen2Model):
    """The decoder."""

    config: HybridQwen2Config
    config_class = HybridQwen2Config
    sparse_class = HybridQwen2Attention

    def __init__(self, config: HybridQwen2Config) -> None:
        super().__init__(config)
        self.make_sparse()


class HybridQwen2ForCausalLM(HybridCausalLM, Qwen2ForCausalLM):  # type: ignore[misc]
    """The decoder with its LM head."""

    config: HybridQwen2Config
    config_class = HybridQwen2Config
    decoder_class = HybridQwen2Model

    def __init__(self, config: HybridQwen2Config) -> None:
        super().__init__(config)
        self.make_sparse()


@strict
class HybridQwen3Config(Qwen3Config):
    """A Qwen3 config with a pattern."""

    model_type = "longreach_qwen3"
    sparse_attention: dict[str, Any] | None = None
    full_layers: list[int] | None = None


class HybridQwen3Attention(SparseAttention, Qwen3Attention):  # type: ignore[misc]
    """Attention of a sparse layer."""


class HybridQwen3Model(HybridDecoder, Qwen3Model):
    """The decoder."""

    config: HybridQwen3Config
    config_class = HybridQwen3Config
    sparse_class = HybridQwen3Attention

    def __init__(self, config: HybridQwen3Config) -> None:
        super().__init__(config)
        self.make_sparse()


class HybridQwen3ForCausalLM(HybridCausalLM, Qwen3ForCausalLM):  # type: ignore[misc]
    """The decoder with its LM head."""

    config: HybridQwen3Config
    config_class = HybridQwen3Config
    decoder_class = HybridQwen3Model

    def __init__(self, config: HybridQwen3Config) -> None:
        super().__init__(config)
        self.make_sparse()


# By stock model_type: the config and the model that take its place.
FAMILIES: dict[str, tuple[type[Any], type[Any]]] = {
    "llama": (HybridLlamaConfig, HybridLlamaForCausalLM),
    "mistral": (HybridMistralConfig, HybridMistralForCausalLM),
    "qwen2": (HybridQwen2Config, HybridQwen2ForCausalLM),
    "qwen3": (HybridQwen3Config, HybridQwen3ForCausalLM),
}


def register() -> None:
    """Makes the Auto classes know the hybrid models; happens when this module is imported."""
    for config, model in FAMILIES.values():
        # Loading registers them again, to be sure, and that must not be an error.
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model.decoder_class, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)


register()
