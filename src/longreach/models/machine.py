"""What every report begins with: the command line, the date, the machine and the versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from longreach import __version__
from longreach.jsontext import JsonObject

_PACKAGES = ("torch", "triton", "transformers")
_PLACES = ("--out", "--plot")


def record(
    arguments: Sequence[str], device: torch.device, packages: Sequence[str] = ()
) -> JsonObject:
    """Returns the command line, the date, the machine and the versions.

    Args:
        arguments: The words after `longreach`.
        device: Where the work was done.
        packages: Packages whose versions matter as well.
    """
    name = "cpu"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "command": " ".join(["longreach", *_without_places(arguments)]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": {
            "device": name,
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "versions": (
            {"longreach": __version__} | {name: _version(name) for name in (*_PACKAGES, *packages)}
        ),
    }


def _without_places(arguments: Sequence[str]) -> list[str]:
    """Returns the words without where the report went.

    That is a path of one machine, and changes no figure.
    """
    kept = []
    before = ""
    for word in arguments:
        # `--out DIR` is two words, and `--out=DIR` is one.
        names_place = before in _PLACES or word in _PLACES
        if not names_place and not word.startswith(tuple(f"{place}=" for place in _PLACES)):
            kept.append(word)
        before = word
    return kept


def _processor() -> str:
    """Returns the processor's name as far as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        # Only Linux has this file.
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
