"""From a pretrained model to a hybrid one: another config, the same weights, the same memory."""

from __future__ import annotations

import copy
import types
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from longreach.errors import UsageError
from longreach.models.hybrid.families import FAMILIES
from longreach.models.hybrid.names import family_of, is_hybrid
from longreach.models.hybrid.ranking import measured_layers, usual_layers
from longreach.models.hybrid.rope import DEFAULT_LENGTH, check_length, longer_rope
from longreach.models.hybrid.selfcheck import check_cached, make_twin, make_twin_config
from longreach.models.hybrid.sparse import pattern_of, plan_of, refuse_flash_on_cpu
from longreach.models.hybrid.writing import HybridCausalLM
from longreach.models.loading.origin import note_origin, tokenizer_of
from longreach.models.sharing import exclusive
from longreach.pattern import AttentionPattern, LayerPlan
from longreach.pattern.layers import is_measured
from longreach.wording import counted

# Settings of a stock config that the hybrid's own class knows better, or that a hybrid has not.
_NOT_TAKEN_OVER = (
    "model_type",
    "architectures",
    "transformers_version",
    "layer_types",
    "use_sliding_window",
)


def convert(
    model: PreTrainedModel,
    pattern: AttentionPattern | str | None = None,
    full_layers: str | int | Sequence[int] | None = None,
    max_length: int | None = None,
    *,
    rope: str | float = "theta",
    attn_implementation: str | None = None,
    ranking: str | Path | None = None,
) -> PreTrainedModel:
    """Returns a hybrid model with the weights of `model`.

    Full layers stay as they are, all others see only the pattern's blocks. Without training on long
    texts it reads about as far as before; `longreach extend` teaches it the longer window.

    Args:
        model: A causal language model of the Llama, Mistral, Qwen2 or Qwen3 family. It stays as it
            is; both share their weights, so training one changes the other.
        pattern: What sparse layers see, or the name of a preset. None: a hybrid model's own, else
            "sink-window".
        full_layers: "measured" for round(L / 3) layers, or "measured:N" for N, those that a
            ranking of this model's layers names (see `rank_layers`); "middle-third"; a number of
            layers in the middle; or the indices themselves. None: a hybrid model's own, else
            "measured" where a ranking of the model ships, else "middle-third".
        max_length: Tokens of the new window. Where it is not above the model's own, that one stays,
            and so does the rotary embedding. None: a hybrid model's own, else 131,072.
        rope: How the rotary embedding reaches further by a factor f = max_length / window. "theta"
            (ABF, the default): its base times f ** 1.8; a number: that base; "yarn"; "linear".
        attn_implementation: Of the full layers ("sdpa", "flash_attention_2", ...); None for the
            model's own.
        ranking: The file that `longreach layers` wrote for this model, for "measured". None takes
            the one that ships, else the one that was kept when it was measured here.

    Returns:
        The hybrid model, with a config of its own model_type: `save_pretrained` and
            `longreach.load` know it.

    Raises:
        UsageError: The family is not supported, a value is out of range, or no ranking of this
            model is known.
        ModelError: Under the installed libraries the model would not read its cache.

    Paper: LongGen, "A Little Goes a Long Way: Efficient Long Context Training and Inference with
    Partial Contexts".
    """
    # Its modules are copied as they are: with no adapter or attention switched for a moment.
    with exclusive(model):
        layers = full_layers
        if is_measured(layers):
            _stock_config(model)
            layers = measured_layers(model, str(layers), ranking)
        elif ranking is not None:
            raise UsageError(
                f"A ranking is given and full_layers is {layers!r}; give 'measured' or 'measured:N'"
                " to take its layers."
            )
        return _convert(model, pattern, layers, max_length, rope, attn_implementation)


def _convert(
    model: PreTrainedModel,
    pattern: AttentionPattern | str | None,
    full_layers: str | int | Sequence[int] | None,
    max_length: int | None,
    rope: str | float,
    attn_implementation: str | None,
) -> PreTrainedModel:
    stock = _stock_config(model)
    # What is not said stays as it is in a model that is hybrid already.
    hybrid_already = is_hybrid(stock.model_type)
    if pattern is None:
        pattern = pattern_of(stock) if hybrid_already else AttentionPattern.sink_window()
    elif isinstance(pattern, str):
        pattern = AttentionPattern.preset(pattern)
    if full_layers is None:
        full_layers = plan_of(stock).full if hybrid_already else usual_layers(model)
    if max_length is None:
        max_length = stock.max_position_embeddings if hybrid_already else DEFAULT_LENGTH
    plan = LayerPlan.make(stock.num_hidden_layers, full_layers)
    check_length(max_length, pattern)
    implementation = attn_implementation or stock._attn_implementation
    refuse_flash_on_cpu(implementation, next(model.parameters()).device)
    # Left to itself, training would drop attention in full layers only.
    if getattr(stock, "attention_dropout", 0):
        raise UsageError(
            f"attention_dropout is {stock.attention_dropout}; sparse layers have none, so set it to"
            " 0 in the config."
        )
    family = family_of(stock.model_type)
    assert family is not None  # `_stock_config` has looked
    config_class, model_class = FAMILIES[family]
    settings = stock.to_dict()
    for name in _NOT_TAKEN_OVER:
        settings.pop(name, None)
    settings |= {
        "sliding_window": None,  # full layers see everything
        "sparse_attention": asdict(pattern),
        "full_layers": list(plan.full),
        "max_position_embeddings": max(max_length, stock.max_position_embeddings),
        "rope_parameters": longer_rope(
            dict(stock.rope_parameters), stock.max_position_embeddings, max_length, rope
        ),
    }
    config = config_class(**settings)
    # What a corpus or an adapter names as its base.
    config._name_or_path = stock._name_or_path
    config.architectures = [model_class.__name__]
    config._attn_implementation = implementation

    def rebuild_twin() -> PreTrainedModel:
        stock_twin = make_twin(model_class, stock=True)
        return _rebuild(stock_twin, make_twin_config(model_class), model_class)

    check_cached(rebuild_twin)
    hybrid = _rebuild(model, config, model_class)
    note_origin(hybrid, "", tokenizer_of(model))  # it lies nowhere until it is saved
    return hybrid


def lengthen(model: PreTrainedModel, max_length: int, *, rope: str | float = "theta") -> None:
    """Gives a model, full or hybrid, a longer window in place; its weights stay.

    What changes is its config and its rotary embedding.

    Args:
        model: A causal language model with one rotary embedding.
        max_length: Tokens of the new window; nothing happens where the model's own is as long.
        rope: As in `convert`.

    Raises:
        UsageError: The model's rotary embedding is of a kind that is not known here, or a value is
            out of range.
    """
    config: Any = model.config.get_text_config()
    decoder: Any = model.get_decoder()
    window = config.max_position_embeddings
    parameters = getattr(config, "rope_parameters", None)
    if max_length <= window:
        return
    if (
        not isinstance(parameters, dict)
        or "rope_theta" not in parameters
        or not hasattr(decoder, "rotary_emb")
    ):
        raise UsageError(
            f"A {type(model).__name__} reads {counted(window, 'token')} and its rotary embedding"
            f" cannot be made to reach {max_length}; give a model of one of the families"
            f" {', '.join(FAMILIES)}, or a smaller length."
        )
    config.rope_parameters = longer_rope(dict(parameters), window, max_length, rope)
    config.max_position_embeddings = max_length
    decoder.rotary_emb = type(decoder.rotary_emb)(config).to(decoder.rotary_emb.inv_freq.device)


def _stock_config(model: PreTrainedModel) -> PretrainedConfig:
    """Returns the config of a model that can become hybrid.

    Raises:
        UsageError: It cannot.
    """
    config: Any = getattr(model, "config", None)
    name = str(getattr(config, "model_type", type(model).__name__))
    if family_of(name) is None or not hasattr(model, "lm_head"):
        raise UsageError(
            f"A {type(model).__name__} ({name}) cannot become hybrid; give a causal language model"
            f" of one of the families {', '.join(FAMILIES)}."
        )
    if hasattr(model, "peft_type") or type(model).__module__.startswith("peft."):
        raise UsageError(
            f"The model is a {type(model).__name__}; call merge_and_unload() and convert the"
            " result."
        )
    return config


def _rebuild(
    model: PreTrainedModel, config: PretrainedConfig, model_class: type[HybridCausalLM]
) -> PreTrainedModel:
    """Returns a copy of the modules around the same tensors.

    Quantized, tied and placed weights stay what they are.
    """
    shared = [*model.parameters(), *model.buffers(), *_settle_eight_bits(model)]
    # What is in the memo is not copied, so both models hold the same tensors.
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    # Whatever refers to the old config gets the new one.
    memo[id(model.config)] = config
    hybrid: Any = copy.deepcopy(model, memo)
    # A model that is hybrid already changes its layers' kind: back to the stock classes first.
    for layer in hybrid.model.layers:
        layer.self_attn.__class__ = _stock_attention(model_class)
        layer.self_attn.sliding_window = None
        layer.self_attn.layer_type = "full_attention"
    hybrid.model.has_sliding_layers = False
    hybrid.__class__ = model_class
    hybrid.make_sparse()
    # Its frequencies come from the config, whose window may be longer now.
    rotary = hybrid.model.rotary_emb
    hybrid.model.rotary_emb = type(rotary)(config).to(rotary.inv_freq.device)
    for module in hybrid.modules():
        # Accelerate's hooks call the forward of the class it had.
        if "_old_forward" in vars(module):
            module._old_forward = types.MethodType(type(module).forward, module)
    rebuilt: PreTrainedModel = hybrid.train(model.training)
    return rebuilt


def _settle_eight_bits(model: PreTrainedModel) -> list[torch.Tensor]:
    """Returns what bitsandbytes' 8-bit modules hold beside their parameters.

    A module takes it out of its parameter when it first runs. Of two that share the parameter the
    other would find nothing, and quantize the quantized weights once more: so all take it before
    they are copied.
    """
    held: list[torch.Tensor] = []
    for found in model.modules():
        module: Any = found
        if not hasattr(module, "init_8bit_state"):
            continue
        if getattr(module.weight, "CB", None) is not None:
            module.init_8bit_state()
        held += [tensor for tensor in (module.state.CB, module.state.SCB) if tensor is not None]
    return held


def _stock_attention(model_class: type[HybridCausalLM]) -> type[torch.nn.Module]:
    """Returns transformers' attention class below a hybrid family's own."""
    return model_class.decoder_class.sparse_class.__bases__[1]
