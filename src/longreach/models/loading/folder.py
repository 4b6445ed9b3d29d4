"""A folder in transformers' layout: checked before anything big is loaded, and whole after it.

A folder may come from anywhere. Nothing in it is run, nothing that it names is fetched, and a
config that describes more than its weight files can hold is refused before memory is taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from longreach.errors import ModelError, reason_of
from longreach.jsontext import JsonObject
from longreach.models.hybrid.adapted import read_json
from longreach.wording import counted

# Passed to everything of transformers that reads a folder: without it a prompt, or `yes |`, could
# let its Python run.
SAFE = {"trust_remote_code": False}
# What `check_whole` reads; without the second, tensors of other shapes end in an error that names
# none of them.
REPORT = {"output_loading_info": True, "ignore_mismatched_sizes": True}
_CODE = "auto_map"
_JSON_BYTES = 64 << 20
# transformers takes a damaged one of these for none.
_READ = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Keys of a config that may hold nothing but a plain name.
_PLAIN_NAMES = (
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "transformers_weights",
)
_TOKENIZER_BYTES = 512 << 20
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Weights of 4 bits, two in a byte, are the smallest that transformers reads.
_PER_BYTE = 2
_LAYERS = re.compile(r"(num_(hidden_|decoder_|encoder_)?layers|n_layers?)")
_DIMENSION = re.compile(r".*(size|dim|heads|experts|embd|inner|d_model|d_ff|rank|positions)|n_head")
_MOST_LAYERS = 4096
# Below this many bytes a model may be missing all its weights, and is still named tensor by tensor.
_HARMLESS_BYTES = 64 << 20
# Tensors in a message.
_NAMED = 3
# How much longer a tokenizer may make a text before it cuts it.
_MOST_GROWTH = 64.0


def check_folder(folder: Path) -> None:
    """Refuses a folder whose files cannot be one whole model, without reading the weights.

    Raises:
        ModelError: A file is missing, too large or of another kind, or the config does not fit the
            weights.
    """
    check_settings(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"The folder '{folder}' holds no causal language model: it has no config.json."
        )
    files = _weight_files(folder)
    tensors = None
    if files[0].suffix == ".safetensors":
        tensors = []
        for file in files:
            tensors += _tensor_names(file)
    _check_dimensions(folder, sum(file.stat().st_size for file in files), tensors)


def check_settings(folder: Path) -> None:
    """Refuses JSON files that ask for what is never done, such as fetching code.

    Weights need not be there.

    Raises:
        ModelError: One of them is too large or is not JSON, or names code or weights that lie
            elsewhere.
    """
    for path in sorted(folder.glob("*.json")):
        most = _TOKENIZER_BYTES if path.name == "tokenizer.json" else _JSON_BYTES
        if path.stat().st_size > most:
            raise ModelError(
                f"'{path}' is larger than the {most >> 20} MiB that such a file may have:"
                " delete it."
            )
    # All of them are read, so that a damaged one is refused.
    settings = {name: read_json(folder / name) for name in _READ}
    config = settings["config.json"]
    for key in _PLAIN_NAMES:
        value = config.get(key)
        # An implementation with a slash is a kernel of the hub: code that would be fetched and run.
        if value is not None and not (isinstance(value, str) and re.fullmatch(r"[\w.-]+", value)):
            raise ModelError(
                f"'{folder / 'config.json'}' asks for {key} {value!r}: take it out; nothing is"
                " fetched."
            )
    _check_tokenizer(folder / "tokenizer.json")


def check_size(config: PreTrainedConfig, folder: Path) -> None:
    """Refuses a config whose model is larger than what its weight files can hold.

    No memory is taken for the model.

    Raises:
        ModelError: It is, or there is no such model.
    """
    files = _weight_files(folder)
    there = sum(file.stat().st_size for file in files)
    with without_memory():
        model: Any = AutoModelForCausalLM.from_config(config, **SAFE)
    needed = sum(parameter.numel() for parameter in model.parameters())
    if needed <= max(_PER_BYTE * there, _HARMLESS_BYTES // 4):
        return
    known = set[str]()
    for file in files:
        if file.suffix == ".safetensors":
            known.update(_tensor_names(file))
    missing = [name for name in model.state_dict() if name not in known]
    raise ModelError(
        f"The config in '{folder}' describes {needed:,} weights, and its files hold {there:,}"
        f" bytes: they lack {_some(missing)}. Copy the checkpoint again, or correct its"
        " config.json."
    )


def without_memory() -> AbstractContextManager[object]:
    """Returns a context in which modules are made with shapes and without memory."""
    return torch.device("meta")


def check_whole(found: Mapping[str, Collection[object]], source: str) -> None:
    """Refuses a model of which transformers reports tensors that it filled with random numbers.

    Args:
        found: What `from_pretrained(..., **REPORT)` gives beside the model.
        source: What was loaded.

    Raises:
        ModelError: Tensors are missing, have other shapes, or could not be read.
    """
    missing = sorted(map(str, found["missing_keys"]))
    shapes = []
    for item in found["mismatched_keys"]:
        # Some releases give the name alone, some with both shapes.
        shapes.append(str(item[0] if isinstance(item, tuple) else item))
    shapes.sort()
    advice = "copy the checkpoint again, or correct its config"
    if missing:
        raise ModelError(f"The weights of '{source}' lack {_some(missing)}: {advice}.")
    if shapes:
        raise ModelError(
            f"The weights of '{source}' do not have the shapes of its config: {_some(shapes)};"
            f" {advice}."
        )
    for problem in found.get("error_msgs", ()):
        raise ModelError(f"The weights of '{source}' do not fit its config ({problem}): {advice}.")


def needs_code(folder: Path | None, error: BaseException) -> bool:
    """Returns whether loading failed because the folder brings Python of its own."""
    if "trust_remote_code" in str(error):
        return True
    if folder is None or not folder.is_dir():
        return False
    marker = f'"{_CODE}"'.encode()
    for path in folder.glob("*.json"):
        if path.name != "tokenizer.json" and marker in path.read_bytes():
            return True
    return False


def _weight_files(folder: Path) -> list[Path]:
    """Returns the files of weights that transformers would read, all of them there.

    Raises:
        ModelError: Some are not, or an index names files outside the folder.
    """
    for whole in _WEIGHTS:
        if (folder / whole).is_file():
            return [folder / whole]
        index = folder / f"{whole}.index.json"
        if not index.is_file():
            continue
        named = _listed_files(read_json(index).get("weight_map"))
        if not named:
            raise ModelError(f"'{index}' lists no weight files: copy the checkpoint again.")
        for name in named:
            if PurePosixPath(name).is_absolute() or ".." in re.split(r"[/\\]", name):
                raise ModelError(
                    f"'{index}' names '{name}', which lies outside its folder: copy the checkpoint"
                    " again."
                )
        absent = [name for name in named if not (folder / name).is_file()]
        if absent:
            raise ModelError(
                f"The folder '{folder}' lacks {len(absent)} of its {len(named)} weight files, such"
                f" as '{absent[0]}': copy the checkpoint again."
            )
        return [folder / name for name in named]
    raise ModelError(
        f"The folder '{folder}' holds no weights ({' or '.join(_WEIGHTS)}): copy the checkpoint"
        " again, or name another."
    )


def _listed_files(parts: object) -> list[str]:
    """Returns the files that an index's weight map names, in order; none where it is not one."""
    if not isinstance(parts, dict):
        return []
    named = set()
    for file in parts.values():
        if not isinstance(file, str):
            return []
        named.add(file)
    return sorted(named)


def _tensor_names(file: Path) -> list[str]:
    """Returns the names of a safetensors file's tensors, out of its header.

    Raises:
        ModelError: The file is not as long as its header says.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"'{file}' is not a whole safetensors file ({error}): copy the checkpoint again."
        ) from error


def _check_dimensions(folder: Path, size_bytes: int, tensors: list[str] | None) -> None:
    """Refuses sizes that no tensor in the files can have.

    Even a model without memory takes time for each layer.
    """
    most_layers = _MOST_LAYERS
    if tensors is not None:
        most_layers = min(_MOST_LAYERS, max(len(tensors), 64))
    path = folder / "config.json"
    for key, value in _numbers(read_json(path)):
        most = None
        if _LAYERS.fullmatch(key):
            most = most_layers
        elif _DIMENSION.fullmatch(key):
            most = max(_PER_BYTE * size_bytes, _HARMLESS_BYTES // 4)
        if most is not None and not abs(value) <= most:
            raise ModelError(
                f"'{path}' says {key} {value:,}, and the weights in the folder can be of {most:,}"
                " at most: correct it."
            )


def _numbers(value: object, depth: int = 0) -> Iterator[tuple[str, float]]:
    """Yields every number of a config with its key, however deep it lies."""
    if not isinstance(value, dict) or depth > 8:
        return
    for key, item in value.items():
        if isinstance(item, int | float) and not isinstance(item, bool):
            yield str(key), item
        yield from _numbers(item, depth + 1)


def _check_tokenizer(path: Path) -> None:
    """Refuses a tokenizer.json whose replacements would make a text grow without end.

    Each of them may double it.
    """
    normalizer = read_json(path).get("normalizer")
    growth = 1.0
    for step in _steps(normalizer):
        content = step.get("content")
        if step.get("type") == "Replace" and isinstance(content, str):
            pattern = step.get("pattern")
            replaced = pattern.get("String") if isinstance(pattern, dict) else None
            growth *= max(1.0, len(content) / max(1, len(replaced or "")))
        elif step.get("type") == "Prepend":
            growth += len(str(step.get("prepend")))
    if growth > _MOST_GROWTH:
        raise ModelError(
            f"'{path}' makes texts more than {_MOST_GROWTH:.0f} times as long: use another"
            " tokenizer."
        )


def _steps(normalizer: object, depth: int = 0) -> Iterator[JsonObject]:
    """Yields a normalizer and all that are nested in it."""
    if not isinstance(normalizer, dict) or depth > 100:
        return
    yield normalizer
    parts = normalizer.get("normalizers")
    if not isinstance(parts, list):
        return
    for part in parts:
        yield from _steps(part, depth + 1)


def _some(names: list[str]) -> str:
    """Returns a count and the first few names."""
    shown = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        shown += ", ..."
    return f"{counted(len(names), 'tensor')} ({shown})"


def config_of(folder: Path) -> PreTrainedConfig:
    """Returns the config in a folder; no code of the folder is run.

    Raises:
        ModelError: There is none that transformers knows.
    """
    from longreach.models.hybrid import families as hybrid

    hybrid.register()
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, **SAFE)
    except Exception as error:
        if needs_code(folder, error):
            raise ModelError(
                f"The model in '{folder}' needs Python code of its own, which is never run: use a"
                " model of a family that transformers knows."
            ) from error
        reason = reason_of(error)
        raise ModelError(
            f"'{folder / 'config.json'}' cannot be read ({reason}): copy the folder again."
        ) from error
