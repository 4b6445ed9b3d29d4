"""Where a model came from: what `load` was given, and the tokenizer that came with it.

A corpus made with a model then knows how to load it again, and a hybrid is saved with its
tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

from longreach.models.loading.places import DEFAULT_MODEL

_ATTRIBUTE = "longreach_origin"


class Origin:
    """What is kept with a model; copies of the model share it.

    Attributes:
        ref: What `longreach.load` takes for the model; empty where it was never stored.
        tokenizer: Its tokenizer, where it is known.
    """

    def __init__(self, ref: str, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.ref = ref
        self.tokenizer = tokenizer

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        # A tokenizer is large, and no copy of a model changes it.
        return self


def note_origin(model: object, ref: str | Path, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Keeps with a model what it was loaded from; a path counts from anywhere."""
    setattr(model, _ATTRIBUTE, Origin(stable_reference(ref), tokenizer))


def stable_reference(ref: str | Path) -> str:
    """Returns what names the same model from any folder."""
    name = str(ref)
    # A folder of the default model's name does not stand for it.
    if name and name != DEFAULT_MODEL and Path(name).exists():
        return str(Path(name).resolve())
    return name


def reference_of(model: object) -> str:
    """Returns what `longreach.load` takes for a model, or "" where nobody knows."""
    origin = getattr(model, _ATTRIBUTE, None)
    if origin is not None:
        return str(origin.ref)
    # A model that was not loaded by Longreach has only what transformers noted.
    config = getattr(model, "config", None)
    return stable_reference(getattr(config, "_name_or_path", None) or "")


def tokenizer_of(model: object) -> PreTrainedTokenizerBase | None:
    """Returns the tokenizer that was loaded with a model, or None."""
    origin: Origin | None = getattr(model, _ATTRIBUTE, None)
    return None if origin is None else origin.tokenizer
