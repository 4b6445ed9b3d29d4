"""The most memory in use while something is done: allocated on a GPU, resident on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc_pid_clear_refs(5)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """Yields a function that says how many bytes were in use at most since then, with weights.

    Where a system does not keep the peak of a process, it is what is in use when the function is
    called.

    Args:
        device: Where the work is done.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
        return
    kept = _reset_peak()

    def find_peak() -> int:
        peak = _read_peak() if kept else None
        # What is in use now is the least that the peak can have been.
        return peak or psutil.Process().memory_info().rss

    yield find_peak


def _reset_peak() -> bool:
    """Forgets the peak of this process; returns whether the system lets it."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _read_peak() -> int | None:
    """Returns the bytes that were resident at most; None where the system does not say."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            # In KiB.
            return int(line.split()[1]) << 10
    return None
