"""The baseline: causal attention over all keys by the vendor's best kernel for these tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from longreach.bench.timing import Progress, measure
from longreach.errors import LongreachError, UsageError
from longreach.models.graphs import record_cuda_graph

# By the name that reports give it. On a CPU torch has one fused kernel and chooses it by itself.
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
DEFAULT = "default"

Result = TypeVar("Result")


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns causal attention where q is as long as k; a single query sees all keys."""
    grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=grouped)


@contextmanager
def backend(name: str, *, others: bool = False) -> Iterator[None]:
    """Makes scaled_dot_product_attention use one kernel inside.

    Args:
        name: One of `BACKENDS`, or `DEFAULT` for torch's own choice.
        others: Only prefer it, and let others do what it cannot.
    """
    if name == DEFAULT:
        yield
        return
    first = BACKENDS[name]
    if others:
        rest = [kind for kind in (*BACKENDS.values(), SDPBackend.MATH) if kind is not first]
        chosen = sdpa_kernel([first, *rest], set_priority=True)
    else:
        chosen = sdpa_kernel(first)
    with chosen:
        yield


def within(name: str, call: Callable[[], Result], *, others: bool = False) -> Callable[[], Result]:
    """Returns the call with one kernel: arguments as in `backend`."""

    def run() -> Result:
        with backend(name, others=others):
            return call()

    return run


def fastest(
    call: Callable[[], object], device: torch.device, notes: list[str], progress: Progress
) -> dict[str, float]:
    """Returns the seconds of each kernel that can do the call, the fastest first.

    It is a try-out, before the real measurement; what does not run is a note.

    Raises:
        UsageError: None of them can.
    """
    # There is nothing to choose from, and so nothing to time.
    if device.type != "cuda":
        return {DEFAULT: float("nan")}
    found = {}
    for name in BACKENDS:
        progress(f"trying {name} attention")
        trial = partial(measure, {name: within(name, call)}, 2, device)
        times = attempt(trial, f"{name} attention", notes)
        if times is not None:
            found[name] = times[name].best
    if not found:
        raise UsageError(
            "None of torch's fused attention kernels takes this shape here: use --dtype bfloat16."
        )
    return dict(sorted(found.items(), key=lambda item: item[1]))


def recorded(
    call: Callable[[], object], device: torch.device, what: str, notes: list[str]
) -> Callable[[], object]:
    """Returns the call as a CUDA graph, so that its time is the kernels' and not Python's.

    Where it cannot be one it stays as it is, and a note says so.
    """

    def record() -> Callable[[], object]:
        # A first call compiles and chooses kernels, which no graph can record.
        for _ in range(3):
            call()
        torch.cuda.synchronize(device)
        return record_cuda_graph(call, device)[0]

    return attempt(record, f"{what} as a CUDA graph", notes) or call


def attempt(work: Callable[[], Result], what: str, notes: list[str]) -> Result | None:
    """Returns the result of `work`, or None and a note on why there is none."""
    try:
        return work()
    except LongreachError as error:
        reason = str(error)
    # What does not exist on a machine fails in as many ways as there are libraries.
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    notes.append(f"{what} did not run here ({reason})")
    return None
