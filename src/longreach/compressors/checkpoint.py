"""AutoCompressor checkpoints on disk: our own folder, the published layout, PEFT folders. Floor 4.

Our own folder holds `compressor.json` (settings, name of the base model) and `compressor.safetensors`
(`embed_summary.weight` [k, d]). The published layout is a whole model whose weight files also hold
`embed_summary.weight` and whose config says `summary_length` and `accumulate_summary`.
"""

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from longreach.errors import ModelError, UsageError
from longreach.models.fingerprint import base_fingerprint
from longreach.models.load import load

if TYPE_CHECKING:
    from longreach.compressors.autocompressor import AutoCompressor

SETTINGS_FILE = "compressor.json"
_SUMMARY = "embed_summary"


def write(compressor: "AutoCompressor", folder: Path, model_ref: str, include_model: bool) -> None:
    """See `AutoCompressor.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = compressor.embed_summary.weight.detach().cpu().contiguous()
    if include_model:
        if getattr(compressor.model, "peft_config", None):
            raise UsageError("The model carries PEFT adapters: delete or merge them before saving its weights.")
        state = compressor.model.state_dict() | {f"{_SUMMARY}.weight": summary}
        compressor.model.save_pretrained(folder, state_dict=state)
        compressor.tokenizer.save_pretrained(folder)
        config = _json(folder / "config.json")
        config["summary_length"] = compressor.summary_tokens
        config["accumulate_summary"] = compressor.mode == "accumulate"
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    else:
        save_file({f"{_SUMMARY}.weight": summary}, folder / "compressor.safetensors")
    settings = compressor.describe() | {"model": model_ref, "model_fingerprint": compressor.model_fingerprint}
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")


def read(folder: Path, model: Any, tokenizer: Any) -> dict[str, Any]:
    """The arguments of `AutoCompressor` that a folder holds. See `AutoCompressor.from_pretrained`."""
    if not folder.is_dir():
        raise ModelError(f"There is no folder '{folder}': check the path of the compressor.")
    settings = _json(folder / SETTINGS_FILE)
    lora = _json(folder / "adapter_config.json")
    config = _json(folder / "config.json")
    if not (settings or lora or config):
        raise ModelError(
            f"'{folder}' holds no compressor: neither {SETTINGS_FILE}, adapter_config.json nor config.json."
        )
    summary = _summary_embeddings(folder)
    if model is None or tokenizer is None:
        model, tokenizer = load(base_model(folder))
    if lora:
        model = _merge_lora(model, folder, lora)
    fits = model.get_input_embeddings().weight.shape[1]
    if summary.shape[1] != fits:
        raise ModelError(f"'{folder}' belongs to a model of hidden size {summary.shape[1]}, this one has {fits}.")
    made_for = settings.get("model_fingerprint")
    if made_for and made_for != base_fingerprint(model, tokenizer):
        name = settings.get("model") or made_for
        raise ModelError(f"The compressor in '{folder}' was made for another model ({name}): load that one.")
    found = {"model": model, "tokenizer": tokenizer, "summary_tokens": summary.shape[0], "embed_summary": summary}
    if "segment_tokens" in settings:
        found["segment_tokens"] = settings["segment_tokens"]
    if "mode" in settings:
        found["mode"] = settings["mode"]
    elif config.get("accumulate_summary") is False:
        found["mode"] = "replace"
    return found


def base_model(folder: Path) -> str:
    """The model that a compressor's folder holds or names, as `longreach.load` takes it.

    Raises:
        ModelError: it does not say.
    """
    if (folder / "config.json").is_file():
        return str(folder)
    named = _json(folder / SETTINGS_FILE).get("model")
    base = named or _json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        raise ModelError(f"'{folder}' does not say which model it belongs to: give model and tokenizer (--model).")
    return str(base)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ModelError(f"'{path}' is not valid JSON ({error}): copy the checkpoint again.") from error


def _summary_embeddings(folder: Path) -> torch.Tensor:
    """The one tensor that makes a checkpoint a compressor, wherever in its weight files it lies."""
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (a safetensors file is no dict)
                    if _SUMMARY in name and name.endswith("weight"):
                        return file.get_tensor(name)
        # The first published models are .bin files; weights_only admits nothing but tensors.
        for path in sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("adapter_model.bin")]):
            for name, tensor in torch.load(path, weights_only=True, map_location="cpu", mmap=True).items():
                if _SUMMARY in name and name.endswith("weight"):
                    return tensor.clone()
    except (SafetensorError, UnpicklingError, OSError, RuntimeError, ValueError, AttributeError) as error:
        raise ModelError(f"A weight file in '{folder}' cannot be read ({error}): copy the checkpoint again.") from error
    raise ModelError(f"'{folder}' holds no {_SUMMARY}.weight: it is no AutoCompressor checkpoint.")


def _merge_lora(model: Any, folder: Path, config: dict[str, Any]) -> Any:
    """Adds the LoRA weights of a PEFT folder into the model's own, in place."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    weights = {name: tensor for name, tensor in load_peft_weights(str(folder)).items() if _SUMMARY not in name}
    if not weights:
        return model
    kept = {key: config[key] for key in LoraConfig.__dataclass_fields__ if key in config}
    kept["modules_to_save"] = [name for name in config.get("modules_to_save") or [] if name != _SUMMARY] or None
    try:
        wrapped = get_peft_model(model, LoraConfig(**kept))
        result: Any = set_peft_model_state_dict(wrapped, weights)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"The LoRA weights in '{folder}' do not fit {type(model).__name__}: {error}") from error
    if missed := result.unexpected_keys:
        raise ModelError(f"The LoRA weights in '{folder}' do not fit {type(model).__name__}: {missed[0]} has no place.")
    return wrapped.merge_and_unload()
