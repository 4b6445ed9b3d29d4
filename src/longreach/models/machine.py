"""What every report begins with: the command line, the date, the machine and the versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from longreach import __version__

_PACKAGES = ("torch", "triton", "transformers")


def record(
    arguments: Sequence[str], device: torch.device, packages: Sequence[str] = ()
) -> dict[str, Any]:
    """The command line, the date, the machine and the versions.

    Where the report went (`--out`, `--plot`) is left out: it is a path of one machine and changes
    no figure.
    """
    kept = [
        word
        for before, word in zip(["", *arguments], arguments, strict=False)
        if not {before, word} & {"--out", "--plot"} and not word.startswith(("--out=", "--plot="))
    ]
    return {
        "command": " ".join(["longreach", *kept]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "versions": (
            {"longreach": __version__} | {name: _version(name) for name in (*_PACKAGES, *packages)}
        ),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
