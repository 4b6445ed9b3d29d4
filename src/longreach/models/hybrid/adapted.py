"""LoRA weights merged into a model; hybrids kept as `config.json` and the adapter of
`longreach extend --lora-rank`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from longreach.errors import ModelError, reason_of
from longreach.jsontext import parse_object
from longreach.models.fingerprint import digest_before_merging, name_merged
from longreach.models.loading.lora import lay, lora_config, lora_weights
from longreach.models.loading.places import SHIPPED

ADAPTER = "adapter_config.json"
_SCALE = ("r", "lora_alpha", "use_rslora", "alpha_pattern", "rank_pattern")


def adapted(ref: str) -> Path | None:
    """The folder of a hybrid that is an adapter over another model: what ships by this name, or the
    folder itself."""
    for folder in (SHIPPED / ref, Path(ref)):
        if (folder / ADAPTER).is_file() and "sparse_attention" in read_json(folder / "config.json"):
            return None if (folder / "model.safetensors").is_file() else folder
    return None


def base_of(folder: Path) -> str:
    """What `longreach.load` takes for the model below the adapter.

    Raises:
        ModelError: The adapter does not name it.
    """
    base = read_json(folder / ADAPTER).get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"'{folder / ADAPTER}' names no base_model_name_or_path: write in what the adapter"
            " belongs to."
        )
    return str(base)


def adapt(base: Any, folder: Path, device: str, dtype: torch.dtype) -> Any:
    """The hybrid that `folder` describes, of the weights of `base` with the adapter merged into
    them in float32.

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
    rotary: Any = model.model.rotary_emb
    model.config.rope_parameters = config.rope_parameters
    model.model.rotary_emb = type(rotary)(model.config)
    model = merge_lora(model, folder, read_json(folder / ADAPTER))
    names = digest_before_merging(model)
    model = model.to(device=device, dtype=dtype)
    name_merged(model, {"bfloat16": names["bfloat16"]}, {}, "")
    name_merged(model, {"exact": names["exact"]}, {}, str(dtype))
    return model


def merge_lora(
    model: Any, folder: Path, config: dict[str, Any], *, apart: str | None = None
) -> Any:
    """Adds the LoRA weights of a PEFT folder into the model's own, in place.

    Args:
        model: The model that they belong to.
        folder: Holds the weights.
        config: Of `adapter_config.json`.
        apart: Weights of this name do not belong to the model, and are omitted.

    Raises:
        ModelError: The weights cannot be read, or do not fit.
    """
    weights = {
        name: tensor
        for name, tensor in lora_weights(folder).items()
        if not (apart and apart in name)
    }
    if not weights:
        return model
    before, text_config = digest_before_merging(model), model.config.get_text_config()
    tied = text_config.tie_word_embeddings
    saved = [name for name in config.get("modules_to_save") or [] if name != apart] or None
    # PEFT compares the base's name with the model's name where it was trained, which is not one of
    # the settings.
    wrapped = lay(
        model,
        lora_config({**config, "modules_to_save": saved}, model, weights, folder),
        weights,
        folder,
    )
    merged: Any = wrapped.merge_and_unload()
    # An embedding that was trained whole is another one now, and PEFT left the head as it was.
    if tied:
        text_config.tie_word_embeddings = True
        merged.get_output_embeddings().weight = merged.get_input_embeddings().weight
    name_merged(
        merged,
        before,
        weights,
        json.dumps({key: config.get(key) for key in _SCALE}, sort_keys=True),
    )
    return merged


def read_json(path: Path) -> dict[str, Any]:
    """What a checkpoint's JSON file holds; nothing where there is none.

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
