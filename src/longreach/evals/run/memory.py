"""The most memory in use while something is done: allocated on a GPU, resident on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc_pid_clear_refs(5)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """Yields a function that says how many bytes were in use at most since then, weights included.

    Where a system does not keep the peak of a process, it is what is in use when the function is
    called.

    Args:
        device: Where the work is done.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
        return
    try:
        _CLEAR.write_text(_RESET_PEAK)
        kept = True
    except OSError:
        kept = False
    yield lambda: (_resident_peak() if kept else None) or psutil.Process().memory_info().rss


def _resident_peak() -> int | None:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return None
