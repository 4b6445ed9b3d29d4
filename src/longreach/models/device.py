"""Which device work goes to, whether it is there, and in which dtype."""

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


def dtype_of(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype of weights, by its name or as it is.

    Raises:
        UsageError: There is no such dtype, or weights cannot have it.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise UsageError(f"'{dtype}' is no dtype for weights: use float32, bfloat16 or float16.")
    return found
