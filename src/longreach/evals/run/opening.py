"""A model as the subject of an evaluation."""

from __future__ import annotations

from longreach.evals.run.subject import Subject, name_target
from longreach.models.device import check_device
from longreach.models.loading.load import load


def open_model(target: str, dtype: str | None = None, device: str | None = None) -> Subject:
    """Loads a model that a suite is to ask.

    Args:
        target: A hub id, a folder, a .gguf file or "smollm2".
        dtype: Of the model; None takes bfloat16 on a GPU and float32 on a CPU.
        device: Where it works; None takes the GPU where there is one.

    Raises:
        UsageError: The device does not exist.
        ModelError: The model cannot be loaded.
    """
    # Before weights are read for nothing.
    if device:
        check_device(device)
    model, tokenizer = load(target, device=device, dtype=dtype)
    return Subject(name_target(target), model, tokenizer)
