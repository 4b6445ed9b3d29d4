"""LoRA files as compressors and their training write and read them.

A PEFT folder holds `adapter_config.json` and `adapter_model.safetensors`; tensors of a compressor
that belong to no module of the model may lie beside the LoRA weights in the latter.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from longreach.compressors.shipped import settings_of
from longreach.errors import ModelError
from longreach.models.hybrid.adapted import read_json
from longreach.models.loading.lora import fill, lora_weights

if TYPE_CHECKING:
    from peft import PeftModel

READER = "reader"  # the folder of a LoRA that only reads
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# All in a config that decides how weights are added, once they have their places.
_SCALE = ("r", "lora_alpha", "use_rslora", "alpha_pattern", "rank_pattern")


def write_lora(
    folder: Path,
    adapted: "PeftModel",
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
    # safetensors takes only tensors whose numbers lie one behind the other.
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(kept, folder / ADAPTER_WEIGHTS, {"format": "pt"})
    adapted.peft_config["default"].save_pretrained(str(folder))
    lora = read_json(folder / ADAPTER_CONFIG)
    lora |= {"base_model_name_or_path": model_ref, "inference_mode": True}
    lora |= {"modules_to_save": list(beside)} if beside else {}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(lora, indent=2) + "\n")


def read_lora(
    folder: Path, adapted: "PeftModel", beside: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
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


def copy_lora(
    source: Path,
    target: Path,
    model_ref: str,
    omit: Sequence[str] = (),
    beside: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> None:
    """Writes the LoRA of a PEFT folder anew, with other tensors beside it.

    Args:
        source: The PEFT folder.
        target: Made where it is missing.
        model_ref: The base model, as `longreach.load` takes it; empty to keep the one it names.
        omit: Names of tensors beside the weights that are not written.
        beside: Tensors that are written beside them, by name.

    Raises:
        ModelError: The weights in `source` cannot be read.
    """
    kept = {}
    for key, tensor in lora_weights(source).items():
        if not any(f".{name}." in key for name in omit):
            kept[key] = tensor.contiguous()
    for name, tensor in beside.items():
        kept[_key(name)] = tensor.detach().cpu().contiguous()
    config = read_json(source / ADAPTER_CONFIG)
    # PEFT looks for modules by these names; those that are not there are ours.
    config["modules_to_save"] = list(beside) or None
    if model_ref:
        config["base_model_name_or_path"] = model_ref
    target.mkdir(parents=True, exist_ok=True)
    save_file(kept, target / ADAPTER_WEIGHTS, {"format": "pt"})
    (target / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def digest_lora(folder: Path, omit: Sequence[str] = ()) -> str:
    """Returns a name for the LoRA weights of a PEFT folder and how they are added.

    Args:
        folder: The PEFT folder.
        omit: Names of tensors beside the weights that do not count.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    scale = {key: config.get(key) for key in _SCALE}
    # Where a folder lies and which release of PEFT wrote it changes no vector.
    digest = hashlib.sha256(json.dumps(scale, sort_keys=True).encode())
    for key, tensor in sorted(lora_weights(folder).items()):
        if any(f".{name}." in key for name in omit):
            continue
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode() + raw)
    return digest.hexdigest()[:32]


def _key(name: str) -> str:
    return f"base_model.model.{name}.weight"


def base_model(folder: Path) -> str:
    """Returns the model that a compressor's folder holds or names, as `longreach.load` takes it.

    Raises:
        ModelError: it does not say.
    """
    # The folder holds the whole model, as in the published layout.
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
