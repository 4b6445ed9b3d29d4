"""LoRA weights merged into a model, and hybrids that are kept as a config and an adapter.

`longreach extend --lora-rank` writes such folders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from longreach.errors import ModelError, reason_of
from longreach.jsontext import JsonObject, parse_object
from longreach.models.fingerprint import digest_before_merging, name_merged
from longreach.models.loading.lora import lay, lora_config, lora_weights
from longreach.models.loading.places import SHIPPED

ADAPTER = "adapter_config.json"
_SCALE = ("r", "lora_alpha", "use_rslora", "alpha_pattern", "rank_pattern")


def find_adapted(ref: str) -> Path | None:
    """Returns the folder of a hybrid that is an adapter over another model.

    Args:
        ref: The name of one that ships, or the folder itself.

    Returns:
        None where it is no such hybrid, or one with all of its weights.
    """
    for folder in (SHIPPED / ref, Path(ref)):
        if (folder / ADAPTER).is_file() and "sparse_attention" in read_json(folder / "config.json"):
            # With all of its weights in the folder, it is loaded as any other model.
            return None if (folder / "model.safetensors").is_file() else folder
    return None


def base_of(folder: Path) -> str:
    """Returns what `longreach.load` takes for the model below the adapter.

    Raises:
        ModelError: The adapter does not name it.
    """
    base = read_json(folder / ADAPTER).get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"'{folder / ADAPTER}' names no base_model_name_or_path: write into it what the"
            " adapter belongs to."
        )
    return str(base)


def adapt(base: PreTrainedModel, folder: Path, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Returns the hybrid that a folder describes, its adapter merged into its base in float32.

    Args:
        base: The model below the adapter; its weights change.
        folder: Holds the config and the adapter.
        device: Where the hybrid is to live.
        dtype: Of its weights.

    Raises:
        ModelError: The folder's files do not fit each other or the base.
    """
    from transformers import AutoConfig

    from longreach.models.hybrid import families as hybrid
    from longreach.models.hybrid.convert import convert
    from longreach.models.hybrid.sparse import pattern_of, plan_of

    hybrid.register()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = convert(
            base.float(), pattern_of(config), plan_of(config).full, config.max_position_embeddings
        )
    except Exception as error:
        reason = reason_of(error)
        raise ModelError(
            f"The hybrid in '{folder}' cannot be made of its base ({reason}): copy it again, or use"
            " its own base."
        ) from error
    # Whatever `convert` made of the rotary embedding: the folder's own is what was trained.
    decoder: Any = model.get_decoder()
    model.config.rope_parameters = config.rope_parameters
    decoder.rotary_emb = type(decoder.rotary_emb)(model.config)
    model = merge_lora(model, folder, read_json(folder / ADAPTER))
    names = digest_before_merging(model)
    module: torch.nn.Module = model  # transformers' own `to` has no types
    module.to(device=device, dtype=dtype)
    name_merged(model, {"bfloat16": names["bfloat16"]}, {}, "")
    name_merged(model, {"exact": names["exact"]}, {}, str(dtype))
    return model


def merge_lora(
    model: PreTrainedModel, folder: Path, config: JsonObject, *, apart: str | None = None
) -> PreTrainedModel:
    """Adds the LoRA weights of a PEFT folder to the model's own, in place, and returns it.

    Args:
        model: The model that they belong to.
        folder: Holds the weights.
        config: Of `adapter_config.json`.
        apart: Weights of this name do not belong to the model, and are omitted.

    Raises:
        ModelError: The weights cannot be read, or do not fit.
    """
    weights = {}
    for name, tensor in lora_weights(folder).items():
        if apart is None or apart not in name:
            weights[name] = tensor
    # Everything in the folder belongs to something else than the model.
    if not weights:
        return model
    # Merging changes the weights, and the merged model is named by what went into it.
    before = digest_before_merging(model)
    text_config = model.config.get_text_config()
    tied = text_config.tie_word_embeddings
    saved = config.get("modules_to_save")
    if isinstance(saved, list):
        saved = [name for name in saved if name != apart]
    # PEFT compares the base's name with the model's name where it was trained, which is not one of
    # the settings.
    settings = {**config, "modules_to_save": saved or None}
    wrapped = lay(model, lora_config(settings, model, weights, folder), weights, folder)
    merged: Any = wrapped.merge_and_unload()
    # An embedding that was trained whole is another one now, and PEFT left the head as it was.
    if tied:
        text_config.tie_word_embeddings = True
        merged.get_output_embeddings().weight = merged.get_input_embeddings().weight
    scale = {key: config.get(key) for key in _SCALE}
    name_merged(merged, before, weights, json.dumps(scale, sort_keys=True))
    result: PreTrainedModel = merged
    return result


def read_json(path: Path) -> JsonObject:
    """Returns what a checkpoint's JSON file holds; nothing where there is no such file.

    Raises:
        ModelError: It is not JSON.
    """
    if not path.is_file():
        return {}
    try:
        return parse_object(path.read_bytes(), wide=True, nan=float)
    except ValueError as error:
        raise ModelError(
            f"'{path}' is not valid JSON ({error}): copy the checkpoint again."
        ) from error
