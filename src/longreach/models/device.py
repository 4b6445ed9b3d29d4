"""Which device work goes to, and whether it is there."""

import torch

from longreach.errors import UsageError


def default_device() -> str:
    """Where models go unless told otherwise: the GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str | None) -> None:
    """Raises UsageError where torch has no such device on this machine."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError, ImportError) as error:
        there = "cpu or cuda" if torch.cuda.is_available() else "cpu"
        raise UsageError(f"There is no device '{device}' on this machine: use {there}.") from error
