"""The implementations of sparse attention, by name. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from longreach.errors import UsageError

if TYPE_CHECKING:
    from longreach.kernels.backend import Backend

AUTO = "auto"
"""The name that stands for the implementation that fits the tensors' device."""


def _load_reference() -> Backend:
    from longreach.kernels.reference import ReferenceBackend

    return ReferenceBackend()


def _load_cpu() -> Backend:
    from longreach.kernels.cpu.backend import CpuBackend

    return CpuBackend()


def _load_flex() -> Backend:
    from longreach.kernels.flex import FlexBackend

    return FlexBackend()


def _load_triton() -> Backend:
    from longreach.kernels.triton.op import TritonBackend

    return TritonBackend()


# Functions, so that a name costs no import: FlexAttention and Triton take seconds.
_LOADERS: dict[str, Callable[[], Backend]] = {
    "reference": _load_reference,
    "cpu": _load_cpu,
    "flex": _load_flex,
    "triton": _load_triton,
}


def register_backend(name: str, load: Callable[[], Backend]) -> None:
    """Makes an implementation known by a name, for `impl=name`.

    Args:
        name: What it is called.
        load: Makes it; called for each request, so it should be cheap once its module is imported.

    Raises:
        UsageError: The name is taken.
    """
    if name == AUTO or name in _LOADERS:
        raise UsageError(f"There is an implementation {name!r} already; choose another name.")
    _LOADERS[name] = load


def backend_names() -> tuple[str, ...]:
    """Returns the names of all implementations, the reference first."""
    return tuple(_LOADERS)


def check_backend_name(name: str) -> None:
    """Raises UsageError unless `name` is an implementation or "auto"."""
    if name != AUTO and name not in _LOADERS:
        known = ", ".join((AUTO, *_LOADERS))
        raise UsageError(f"There is no implementation {name!r}; choose one of {known}.")


def choose_name(name: str, device_type: str) -> str:
    """Returns the implementation's name; for "auto" of the one that fits a device.

    Raises:
        UsageError: There is no such implementation.
    """
    check_backend_name(name)
    if name != AUTO:
        return name
    # Slow but right wherever PyTorch runs.
    return {"cuda": "triton", "cpu": "cpu"}.get(device_type, "reference")


def load_backend(name: str) -> Backend:
    """Returns the implementation of that name.

    Raises:
        UsageError: There is none.
        MissingDependency: It needs a package that is not installed.
    """
    check_backend_name(name)
    return _LOADERS[name]()
