"""Which device work goes to, whether it is there, and in which dtype.

Importing it loads no torch.
"""

import re
from typing import TYPE_CHECKING

from longreach.errors import UsageError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
"""The names of the dtypes that weights can have."""
_DEVICE = re.compile(r"(?:cpu|cuda|mps|xpu|hpu|npu|mlu|musa)(?::\d{1,3})?")


def default_device() -> str:
    """Returns where models go unless told otherwise: the GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """Returns the dtype that weights get on a device unless told otherwise.

    Args:
        device: Its name.
    """
    return "float32" if device.startswith("cpu") else "bfloat16"


def check_device_name(device: str) -> None:
    """Raises UsageError where no machine has a device of this name; needs no torch."""
    if not _DEVICE.fullmatch(device):
        raise UsageError(f"There is no device '{device}': use cpu, cuda or cuda:1.")


def check_device(device: str | None) -> None:
    """Raises UsageError where torch has no such device on this machine."""
    import torch

    try:
        # Only using a device shows whether it works, and each kind of device has errors of its
        # own.
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError, ImportError) as error:
        there = "cpu or cuda" if torch.cuda.is_available() else "cpu"
        raise UsageError(f"There is no device '{device}' on this machine: use {there}.") from error


def check_dtype_name(dtype: str) -> None:
    """Raises UsageError where weights cannot have a dtype of this name; needs no torch."""
    if dtype not in DTYPES:
        raise UsageError(f"'{dtype}' is not a dtype for weights: use float32, bfloat16 or float16.")


def fast_dtype(device: str) -> "torch.dtype":
    """Returns the dtype that a device reads fastest in: bfloat16 where it has instructions for it.

    Args:
        device: Its name.
    """
    import torch

    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    # Elsewhere, and in older releases of torch, nothing tells.
    tell = getattr(torch.cpu, "get_capabilities", None)
    if tell is not None and device.startswith("cpu"):
        able: dict[str, object] = tell()
        if able.get("avx512_bf16") or able.get("amx_bf16"):
            return torch.bfloat16
    return torch.float32


def dtype_of(dtype: "torch.dtype | str") -> "torch.dtype":
    """Returns a dtype of weights, by its name or as it is.

    Raises:
        UsageError: There is no such dtype, or weights cannot have it.
    """
    import torch

    name = str(dtype).removeprefix("torch.")
    check_dtype_name(name)
    found: torch.dtype = getattr(torch, name)
    return found
