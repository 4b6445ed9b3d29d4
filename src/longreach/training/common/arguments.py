"""The arguments that every run of transformers' Trainer has in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from longreach.training.common.checkpoints import CHECKPOINTS


def make_arguments(out: Path, device: str, **more: Any) -> TrainingArguments:
    """Returns arguments of Trainer: one device a process, every loss logged, nothing on stdout.

    Args:
        out: The folder of the run; the last two checkpoints are kept in it.
        device: "cpu" or a GPU.
        **more: Others of transformers, or other values.
    """
    common: dict[str, Any] = {
        "output_dir": str(out / CHECKPOINTS),
        "use_cpu": device == "cpu",
        "logging_steps": 1,
        # It would replace a loss that is not finite by the mean of those before.
        "logging_nan_inf_filter": False,
        "save_total_limit": 2,
        "report_to": "none",
        # Samples are dicts of our own, out of which Trainer would drop what `forward` does not
        # name.
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": device != "cpu",
        # `Progress` is the only display.
        "disable_tqdm": True,
        "log_level": "error",
    }
    args = TrainingArguments(**(common | more))
    # Several GPUs and one process: Trainer would copy the model to all of them at every call.
    if args.n_gpu > 1:
        args._n_gpu = 1
    return args
