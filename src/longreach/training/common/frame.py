"""What every run on transformers' Trainer has in common: its arguments, and what a full memory or
disk becomes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from longreach.errors import LongreachError, TrainingError, out_of_memory
from longreach.wording import printable

# Of safetensors, the system; of torch.save.
_DISK_FULL = ("No space left on device", "PytorchStreamWriter")


def arguments(checkpoints: Path, device: str, **more: Any) -> TrainingArguments:
    """Arguments of Trainer: one device a process, every loss logged as it is, nothing on stdout.

    Args:
        checkpoints: Where they go; the last two are kept.
        device: "cpu" or a GPU.
        **more: Others of transformers, or other values.
    """
    common: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "use_cpu": device == "cpu",
        "logging_steps": 1,
        # It would replace a loss that is not finite by the mean of those before.
        "logging_nan_inf_filter": False,
        "save_total_limit": 2,
        "report_to": "none",
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": device != "cpu",
        "disable_tqdm": True,
        "log_level": "error",
    }
    args = TrainingArguments(**(common | more))
    # Several GPUs and one process: Trainer would copy the model to all of them at every call.
    if args.n_gpu > 1:
        args._n_gpu = 1
    return args


def stderr(text: str) -> None:
    """Says a line on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def silent(text: str) -> None:
    """Says nothing: what processes other than the first do."""


@contextmanager
def full_said(lower: str) -> Iterator[None]:
    """Says what to do where memory or the disk is full.

    Args:
        lower: What takes less memory, after "lower".

    Raises:
        TrainingError: One of them is full.
    """
    try:
        yield
    except LongreachError:
        raise
    except Exception as error:
        if any(sign in str(error) for sign in _DISK_FULL):
            raise TrainingError(
                "A checkpoint does not fit on the disk: make room and run the same command again,"
                " it goes on from the last whole one."
            ) from error
        if not out_of_memory(error):
            raise
        raise TrainingError(f"Out of memory: lower {lower}; the last checkpoint stays.") from error
