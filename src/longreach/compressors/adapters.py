"""LoRA files as compressors and their training write and read them.

A PEFT folder holds `adapter_config.json` and `adapter_model.safetensors`; tensors of a compressor
that belong to no module of the model may lie beside the LoRA weights in the latter.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file

from longreach.compressors.shipped import settings_of
from longreach.errors import ModelError
from longreach.models.hybrid.adapted import read_json
from longreach.models.loading.lora import fill, lora_weights

READER = "reader"  # the folder of a LoRA that only reads
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def write_lora(
    folder: Path,
    adapted: Any,
    model_ref: str,
    beside: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> None:
    """Writes the LoRA weights of a PEFT model in PEFT's layout.

    Args:
        folder: Made where it is missing.
        adapted: The PEFT model.
        model_ref: The base model, as `longreach.load` takes it.
        beside: Tensors of the compressor that are written beside the weights, by name.
    """
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(get_peft_model_state_dict(adapted))
    for name, tensor in beside.items():
        weights[_key(name)] = tensor
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(kept, folder / ADAPTER_WEIGHTS, {"format": "pt"})
    adapted.peft_config["default"].save_pretrained(str(folder))
    lora = read_json(folder / ADAPTER_CONFIG)
    lora |= {"base_model_name_or_path": model_ref, "inference_mode": True}
    lora |= {"modules_to_save": list(beside)} if beside else {}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(lora, indent=2) + "\n")


def read_lora(folder: Path, adapted: Any, beside: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """Loads what `write_lora` wrote into a PEFT model of the same shape.

    Args:
        folder: What `write_lora` wrote.
        adapted: The PEFT model.
        beside: Names of the tensors that lie beside the weights.

    Returns:
        The tensors beside the weights, by name.
    """
    weights = lora_weights(folder)
    ours = {name: weights.pop(_key(name)) for name in beside}
    fill(adapted, weights)
    return ours


def _key(name: str) -> str:
    return f"base_model.model.{name}.weight"


def base_model(folder: Path) -> str:
    """Returns the model that a compressor's folder holds or names, as `longreach.load` takes it.

    Raises:
        ModelError: it does not say.
    """
    if (folder / "config.json").is_file():
        return str(folder)
    named = settings_of(folder).get("model")
    base = named or read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"'{folder}' does not say which model it belongs to: give model and tokenizer"
            " (--model)."
        )
    return str(base)


def adapter_folder(folder: Path) -> Path:
    """Returns where the LoRA of a compressor lies: in a folder of its own if it only reads."""
    reader = folder / READER
    return reader if reader.is_dir() else folder
