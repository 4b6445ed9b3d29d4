"""LoRA adapters in PEFT's layout: a folder from anywhere can do nothing but add to weights.

PEFT believes whatever an `adapter_config.json` says: patterns in it may match without end, settings
may change the base or import modules, a folder without weights is looked for on the hub, and
weights that are missing stay as they began.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, cast

import regex
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from longreach.errors import ModelError, reason_of
from longreach.jsontext import JsonObject

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
# All that decides where LoRA weights go and how they are added. Every other setting has to be as
# PEFT has it.
_KNOWN = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "ensure_weight_tying",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_bias",
        "lora_dropout",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "target_parameters",
        "task_type",
        "trainable_token_indices",
        "use_dora",
        "use_rslora",
    }
)
_NO_FIELDS = frozenset(
    {"auto_mapping", "base_model_name_or_path", "peft_type", "peft_version", "revision"}
)
# A text in one of these is a pattern; `_Patterns` matches it.
_MAY_BE_PATTERNS = ("target_modules", "exclude_modules")
_NAMES = ("modules_to_save", "layers_pattern", "target_parameters", *_MAY_BE_PATTERNS)
# Ways to begin that leave the base as it is; the weights in the folder replace what they make.
_HARMLESS_BEGINNINGS = (None, True, False, "gaussian", "orthogonal", "eva")
_EVERY_LINEAR = "all-linear"
_PLAIN = re.compile(r"[\w.-]+")
# For all patterns of an adapter and all modules of a model.
_PATTERN_SECONDS = 5.0
_PATTERN_CHARACTERS = 20_000


def lora_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of an adapter, on the CPU; the hub is never asked.

    Raises:
        ModelError: There are no weights, or they cannot be read.
    """
    try:
        if (folder / WEIGHTS).is_file():
            return load_file(folder / WEIGHTS)
        if (folder / _PICKLED).is_file():
            # weights_only admits nothing but tensors and plain containers.
            found = torch.load(folder / _PICKLED, weights_only=True, map_location="cpu")
            if not isinstance(found, dict) or not all(map(torch.is_tensor, found.values())):
                raise ValueError("it holds no dictionary of tensors")
            return found
    except (SafetensorError, UnpicklingError, OSError, RuntimeError, ValueError, EOFError) as error:
        reason = reason_of(error)
        raise ModelError(
            f"The LoRA weights in '{folder}' cannot be read ({reason}): copy the adapter again."
        ) from error
    raise ModelError(
        f"The folder '{folder}' holds no LoRA weights ({WEIGHTS}): copy the adapter again."
    )


def omit_foreign(
    model: torch.nn.Module, settings: Mapping[str, object], weights: Mapping[str, torch.Tensor]
) -> tuple[JsonObject, dict[str, torch.Tensor]]:
    """Returns an adapter without what was saved beside it and belongs to no module of the model.

    Only plain names are omitted: all else stays, for `lora_config` to refuse.

    Args:
        model: The model that the adapter is meant for.
        settings: What `adapter_config.json` holds.
        weights: Of the adapter.
    """
    saved = settings.get("modules_to_save") or []
    if not isinstance(saved, list):
        return dict(settings), dict(weights)
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    foreign = []
    for name in saved:
        if isinstance(name, str) and _PLAIN.fullmatch(name) and name not in names:
            foreign.append(name)
    kept = {}
    for key, tensor in weights.items():
        if not any(f".{name}." in key for name in foreign):
            kept[key] = tensor
    left = [name for name in saved if name not in foreign]
    return {**settings, "modules_to_save": left or None}, kept


def lora_config(
    settings: Mapping[str, object],
    model: torch.nn.Module,
    weights: Mapping[str, torch.Tensor],
    folder: Path,
) -> LoraConfig:
    """Returns the `LoraConfig` of an `adapter_config.json`, with plain names for patterns.

    Args:
        settings: What the file holds.
        model: The model that the adapter is meant for.
        weights: Of the adapter; no rank may be above theirs.
        folder: Where they lie, for messages.

    Raises:
        ModelError: It is not a LoRA, asks for what is not supported, or its patterns take too
            long.
    """
    from peft import LoraConfig

    if settings.get("peft_type") != "LORA":
        raise ModelError(
            f"The adapter in '{folder}' is not a LoRA ({settings.get('peft_type')!r}): give one"
            " that is."
        )
    fields = LoraConfig.__dataclass_fields__
    for key, value in settings.items():
        # Keys that PEFT does not have change nothing; what is off, or as PEFT has it, neither.
        if key in _KNOWN or key not in fields or not value or value == fields[key].default:
            continue
        raise ModelError(
            f"The adapter in '{folder}' has the setting {key}, which is not supported: give a plain"
            " LoRA."
        )
    begun = settings.get("init_lora_weights", True)
    if begun not in _HARMLESS_BEGINNINGS:
        raise ModelError(
            f"The adapter in '{folder}' was begun with {begun!r}, which changes the model below it:"
            " save it again as a plain LoRA (PEFT's path_initial_model_for_weight_conversion)."
        )
    kept: dict[str, Any] = {}
    for key in _KNOWN - _NO_FIELDS:
        if key in settings and key in fields:
            kept[key] = settings[key]
    # The weights in the folder replace whatever PEFT begins with.
    kept["init_lora_weights"] = True
    _check_ranks(kept, weights, folder)
    _check_names(kept, folder)
    names = [name for name, _ in model.named_modules() if name]
    patterns = _Patterns(folder)
    for key in _MAY_BE_PATTERNS:
        pattern = kept.get(key)
        if isinstance(pattern, str) and pattern != _EVERY_LINEAR:
            kept[key] = _any_of(patterns.matching(pattern, names))
    if kept.get("target_modules") == "":
        raise ModelError(
            f"The pattern of the adapter in '{folder}' fits no module of {type(model).__name__}."
        )
    for key in ("rank_pattern", "alpha_pattern"):
        kept[key] = patterns.settled(kept.get(key) or {}, names)
    try:
        return LoraConfig(**kept)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"The adapter_config.json in '{folder}' does not describe a LoRA ({error}): copy it"
            " again."
        ) from error


def lay(
    model: PreTrainedModel, config: LoraConfig, weights: Mapping[str, torch.Tensor], folder: Path
) -> PeftModel:
    """Returns the model under PEFT's `config` with these weights in it, all of them and no others.

    Raises:
        ModelError: The weights do not fit the model, or some are missing.
    """
    from peft import get_peft_model

    try:
        wrapped = cast("PeftModel", get_peft_model(model, config))  # mixed is another argument
        fill(wrapped, weights)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = reason_of(error)
        raise ModelError(
            f"The LoRA weights in '{folder}' do not fit {type(model).__name__} ({reason}): use them"
            " with the model they were trained on."
        ) from error
    return wrapped


def fill(adapted: PeftModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Puts weights into a PEFT model.

    Raises:
        ValueError: One of them has no place, or a place gets none: PEFT says neither.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    result: Any = set_peft_model_state_dict(adapted, dict(weights))
    if result.unexpected_keys:
        raise ValueError(f"{result.unexpected_keys[0]} has no place.")
    places = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if missing := sorted(set(places) - set(weights)):
        raise ValueError(
            f"{len(missing)} of {len(places)} weights are missing, such as {missing[0]}."
        )


class _Patterns:
    """Matches names against an adapter's patterns, within a time for all of them together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._end = time.monotonic() + _PATTERN_SECONDS

    def matching(self, pattern: str, names: Sequence[str]) -> list[str]:
        """Returns the names that the whole pattern matches.

        Raises:
            ModelError: It is too long, takes too long, or is not a regular expression.
        """
        shown = pattern if len(pattern) <= 60 else pattern[:60] + "..."
        # Only matching can be given a time limit; compiling a pattern cannot.
        if len(pattern) > _PATTERN_CHARACTERS:
            raise ModelError(
                f"The pattern '{shown}' of the adapter in '{self._folder}' is too long: list the"
                " modules."
            )
        found = []
        try:
            compiled = regex.compile(pattern)
            for name in names:
                # One limit for all names: thousands of modules would otherwise each get all of
                # it.
                left = self._end - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                if compiled.fullmatch(name, timeout=left):
                    found.append(name)
        except TimeoutError as error:
            raise ModelError(
                f"The pattern '{shown}' of the adapter in '{self._folder}' takes too long to match:"
                " list the modules."
            ) from error
        except (regex.error, RecursionError, OverflowError) as error:
            raise ModelError(
                f"The pattern '{shown}' of the adapter in '{self._folder}' is not a regular"
                f" expression ({error}): list the modules."
            ) from error
        return found

    def settled(self, values: Mapping[str, object], names: Sequence[str]) -> JsonObject:
        """Returns the value of each module by its full name, as PEFT would find it.

        The first pattern that fits has it.
        """
        settled: JsonObject = {}
        for pattern, value in values.items():
            if _PLAIN.fullmatch(pattern):
                settled[pattern] = value
                continue
            for name in self.matching(rf"(.*\.)?(?:{pattern})", names):
                settled.setdefault(re.escape(name), value)
        return settled


def _any_of(names: Iterable[str]) -> str:
    """Returns a pattern that matches these names and nothing else, and takes no time.

    It is empty where there are no names.
    """
    return "|".join(map(re.escape, names))


def _check_ranks(
    kept: Mapping[str, object], weights: Mapping[str, torch.Tensor], folder: Path
) -> None:
    """Refuses ranks that the weights cannot have.

    PEFT takes memory for the ranks that it is told, before it looks at a weight.
    """
    highest = max((max(tensor.shape) for tensor in weights.values() if tensor.dim() > 1), default=0)
    # PEFT takes 8 where the file names no rank.
    asked = [kept.get("r", 8)]
    by_module = kept.get("rank_pattern")
    if isinstance(by_module, dict):
        asked += by_module.values()
    for rank in asked:
        if isinstance(rank, bool) or not isinstance(rank, int) or not 0 < rank <= highest:
            raise ModelError(
                f"The adapter in '{folder}' says rank {rank!r}, which its weights cannot have: copy"
                " it again."
            )


def _check_names(kept: Mapping[str, object], folder: Path) -> None:
    """Refuses anything but plain names where PEFT would build patterns out of them."""
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(kept.get(key) or {}, dict):
            raise ModelError(
                f"The adapter in '{folder}' has a {key} that is not an object: copy it again."
            )
    for key in _NAMES:
        value = kept.get(key)
        is_pattern = isinstance(value, str) and key in _MAY_BE_PATTERNS
        if value is None or is_pattern:
            continue
        names = value if isinstance(value, list) else [value]
        for name in names:
            if not isinstance(name, str) or not _PLAIN.fullmatch(name):
                raise ModelError(
                    f"The adapter in '{folder}' has {name!r} in {key}: give plain names of modules."
                )
