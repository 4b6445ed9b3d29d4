"""AutoCompressor checkpoints on disk: our own folder, the published layout, PEFT folders.

Our own folder holds `compressor.json` (settings, name of the base model) and
`compressor.safetensors` (`embed_summary.weight` [k, d]). The published layout is a whole model
whose weight files also hold `embed_summary.weight` and whose config says `summary_length` and
`accumulate_summary`. What `longreach pretrain` makes is a PEFT folder, LoRA weights and
`embed_summary` in one file, with `compressor.json` beside it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, TypedDict, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from longreach.compressors.adapters import (
    base_model,
    copy_lora,
    digest_lora,
    read_lora,
    write_lora,
)
from longreach.compressors.shipped import SETTINGS_FILE
from longreach.errors import ModelError, UsageError
from longreach.jsontext import JsonObject, JsonValue, read_field
from longreach.models.decoder import add_adapter, embedding_weight, note_base
from longreach.models.fingerprint import base_fingerprint
from longreach.models.hybrid.adapted import merge_lora, read_json
from longreach.models.loading.load import load_named
from longreach.models.sharing import exclusive
from longreach.wording import counted

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longreach.compressors.autocompressor.compressor import AutoCompressor
    from longreach.compressors.autocompressor.options import Mode

DEFAULT_SEGMENT = 1536  # tokens, as the published compressors read
_SUMMARY = "embed_summary"


class Arguments(TypedDict, total=False):
    """Arguments of `AutoCompressor`; those that are absent take its defaults."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    summary_tokens: int
    segment_tokens: int
    mode: "Mode"
    embed_summary: torch.Tensor
    scale: float
    reader: Path


def write(compressor: "AutoCompressor", folder: Path, model_ref: str, include_model: bool) -> None:
    """See `AutoCompressor.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = compressor.embed_summary.weight.detach().cpu().contiguous()
    settings = compressor.describe() | {"model": model_ref}
    fingerprint = compressor.model_fingerprint
    if compressor.reader is not None:
        if include_model:
            raise UsageError(
                "The compressor's LoRA is an adapter: load it with merged=True to save it with the"
                " model's weights."
            )
        # The embeddings in the folder are replaced, because fewer may be used than were trained.
        copy_lora(compressor.reader, folder, model_ref, (_SUMMARY,), {_SUMMARY: summary})
        _write_settings(folder, settings | {"base_fingerprint": fingerprint})
        return
    if include_model:
        if getattr(compressor.model, "peft_config", None):
            raise UsageError(
                "The model carries PEFT adapters: delete or merge them before saving its weights."
            )
        state = compressor.model.state_dict() | {f"{_SUMMARY}.weight": summary}
        compressor.model.save_pretrained(folder, state_dict=state)
        compressor.tokenizer.save_pretrained(folder)
        config = read_json(folder / "config.json")
        config["summary_length"] = compressor.summary_tokens
        config["accumulate_summary"] = compressor.mode == "accumulate"
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        # Merged weights are named by what was merged, and no longer so once they are read again.
        _write_settings(folder, settings)
        return
    save_file({f"{_SUMMARY}.weight": summary}, folder / "compressor.safetensors")
    _write_settings(folder, settings | {"model_fingerprint": fingerprint})


def write_peft(
    folder: Path,
    adapted: "PeftModel",
    summary: torch.Tensor,
    settings: JsonObject,
    model_ref: str,
    fingerprint: str,
) -> None:
    """Writes LoRA weights and summary embeddings as a PEFT folder.

    It takes a few MB, whatever the model's size.

    Args:
        folder: Made where missing.
        adapted: The PEFT model.
        summary: Embeddings of the summary tokens, [K, d].
        settings: As `AutoCompressor.describe` gives them.
        model_ref: The base model, as `longreach.load` takes it.
        fingerprint: The base model's, so that no other one is taken for it.
    """
    write_lora(folder, adapted, model_ref, {_SUMMARY: summary})
    _write_settings(folder, settings | {"model": model_ref, "base_fingerprint": fingerprint})


def write_reader(source: Path, folder: Path, model_ref: str, fingerprint: str) -> None:
    """Writes the LoRA of a PEFT folder as an adapter that only reads.

    Args:
        source: The PEFT folder of a compressor.
        folder: Made where it is missing.
        model_ref: The base model, as `longreach.load` takes it.
        fingerprint: The base model's.
    """
    copy_lora(source, folder, "", (_SUMMARY,))
    note_base(folder, fingerprint, model_ref)


def lay_adapter(compressor: "AutoCompressor") -> None:
    """Lays the LoRA of a compressor over its model, switched off until it compresses."""
    folder = compressor.reader
    assert folder is not None, "there is no adapter to lay"
    compressor.adapter = add_adapter(compressor.model, folder)
    compressor.adapter_digest = digest_lora(folder, (_SUMMARY,))


def _write_settings(folder: Path, settings: JsonObject) -> None:
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")


def read_peft(folder: Path, adapted: "PeftModel") -> torch.Tensor:
    """Loads what `write_peft` wrote into a PEFT model of the same shape.

    Returns:
        The summary embeddings, [K, d].
    """
    return read_lora(folder, adapted, (_SUMMARY,))[_SUMMARY]


def resolve_ratio(settings: Mapping[str, JsonValue], segment: int) -> JsonObject:
    """Returns settings in which `summary_tokens` stands in the place of `ratio`.

    Args:
        settings: Options of an AutoCompressor, with a ratio.
        segment: Tokens of a segment.

    Raises:
        UsageError: The ratio is out of range, or both are given.
    """
    found = dict(settings)
    ratio = read_field(found, "ratio", float)
    del found["ratio"]
    if "summary_tokens" in found:
        raise UsageError(
            "Both ratio and summary_tokens say how many vectors a segment becomes: give one of"
            " them."
        )
    if not 1 <= ratio <= segment:
        raise UsageError(
            f"ratio is {ratio}; it must lie between 1 and the {counted(segment, 'token')} of a"
            " segment."
        )
    # Rounded down, so that each vector stands for at least so many tokens.
    found["summary_tokens"] = int(segment // ratio)
    return found


def choose_arguments(stored: Arguments, settings: Mapping[str, JsonValue]) -> Arguments:
    """Returns the arguments of `AutoCompressor`: a user's settings laid over those stored.

    Args:
        stored: What `read` found, with all K summary tokens.
        settings: Of `AutoCompressor.from_pretrained`.

    Raises:
        UsageError: More summary tokens than were trained, or none, or settings that contradict each
            other.
    """
    trained = stored["summary_tokens"]
    ratio = settings.get("ratio")
    segment = cast("Arguments", {**stored, **settings}).get("segment_tokens", DEFAULT_SEGMENT)
    if ratio is not None:
        settings = resolve_ratio(settings, segment)
    found = cast("Arguments", {**stored, **settings})
    if found["summary_tokens"] > trained:
        asked = f"summary_tokens {found['summary_tokens']}"
        if ratio is not None:
            asked = f"ratio {ratio}"
        raise UsageError(
            f"This compressor was trained with {counted(trained, 'summary token')}, and {asked}"
            f" takes {found['summary_tokens']} a segment of {counted(segment, 'token')}: ask for a"
            f" ratio of {-(-segment // trained)} or more."
        )
    if found["summary_tokens"] >= 1 and "embed_summary" not in settings:
        found["embed_summary"] = found["embed_summary"][: found["summary_tokens"]]
    return found


def read(
    folder: Path,
    model: "PreTrainedModel | None",
    tokenizer: "PreTrainedTokenizerBase | None",
    *,
    merged: bool,
) -> Arguments:
    """Returns the arguments of `AutoCompressor` that a folder holds.

    Arguments and errors are those of `AutoCompressor.from_pretrained`.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no folder '{folder}': check the path of the compressor.")
    # Its values go to `AutoCompressor`, which refuses what it cannot take.
    settings: dict[str, Any] = read_json(folder / SETTINGS_FILE)
    lora = read_json(folder / "adapter_config.json")
    config = read_json(folder / "config.json")
    if not (settings or lora or config):
        raise ModelError(
            f"'{folder}' holds no compressor: neither {SETTINGS_FILE}, adapter_config.json nor"
            " config.json."
        )
    # Read before a model is loaded, because only these embeddings make the folder a compressor.
    summary = _summary_embeddings(folder)
    if model is None or tokenizer is None:
        model, tokenizer = load_named(base_model(folder))
    name = settings.get("model") or "see its compressor.json"
    other = ModelError(
        f"The compressor in '{folder}' was made for another model ({name}): load that one."
    )
    # Another model of the same shape would take it too, and make nothing of use.
    trained_on = settings.get("base_fingerprint")
    if trained_on and trained_on != base_fingerprint(model, tokenizer):
        raise other
    found = Arguments()
    if lora and (merged or find_whole_modules(folder)):
        with exclusive(model):
            model = merge_lora(model, folder, lora, apart=_SUMMARY)
    elif lora:
        found["reader"] = folder
    fits = embedding_weight(model).shape[1]
    if summary.shape[1] != fits:
        raise ModelError(
            f"'{folder}' belongs to a model of hidden size {summary.shape[1]}, this one has {fits}."
        )
    made_for = settings.get("model_fingerprint")
    if made_for and made_for != base_fingerprint(model, tokenizer):
        raise other
    found |= {
        "model": model,
        "tokenizer": tokenizer,
        "summary_tokens": summary.shape[0],
        "embed_summary": summary,
    }
    # The published layouts say less than our own folders.
    if "segment_tokens" in settings:
        found["segment_tokens"] = settings["segment_tokens"]
    found["scale"] = settings.get("scale", 1.0)
    if "mode" in settings:
        found["mode"] = settings["mode"]
    elif config.get("accumulate_summary") is False:
        found["mode"] = "replace"
    return found


def find_whole_modules(folder: Path) -> list[str]:
    """Returns the modules that were trained whole, beside the LoRA of a folder.

    They are no adapter: they can only take the place of the model's.
    """
    lora: dict[str, Any] = read_json(folder / "adapter_config.json")
    saved = lora.get("modules_to_save") or []
    names = saved if isinstance(saved, list) else [saved]
    return [name for name in names if name != _SUMMARY]


def _summary_embeddings(folder: Path) -> torch.Tensor:
    """Returns the one tensor that makes a checkpoint a compressor, in whatever file it lies."""
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (a safetensors file is no dict)
                    if _SUMMARY in name and name.endswith("weight"):
                        return file.get_tensor(name)
        # The first published models are .bin files; weights_only admits nothing but tensors.
        for path in sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("adapter_model.bin")]):
            for name, tensor in torch.load(
                path, weights_only=True, map_location="cpu", mmap=True
            ).items():
                if _SUMMARY in name and name.endswith("weight"):
                    return tensor.clone()
    except (
        SafetensorError,
        UnpicklingError,
        OSError,
        RuntimeError,
        ValueError,
        AttributeError,
    ) as error:
        raise ModelError(
            f"A weight file in '{folder}' cannot be read ({error}): copy the checkpoint again."
        ) from error
    raise ModelError(f"'{folder}' holds no {_SUMMARY}.weight: it is no AutoCompressor checkpoint.")
