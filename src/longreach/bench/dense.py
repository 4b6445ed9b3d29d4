"""The baseline: causal attention over all keys by the best kernel that the vendor has for these
tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from longreach.bench.timing import Progress, measure
from longreach.errors import LongreachError, UsageError
from longreach.models.steps import record_cuda_graph

# By the name that reports give it. On a CPU torch has one fused kernel and chooses it by itself.
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
DEFAULT = "default"


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention where q is as long as k; a single query sees all keys."""
    grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=grouped)


@contextmanager
def backend(name: str, *, others: bool = False) -> Iterator[None]:
    """Inside, scaled_dot_product_attention uses the backend of that name; with `others`, prefers
    it."""
    if name == DEFAULT:
        yield
        return
    first = BACKENDS[name]
    rest = [kind for kind in (*BACKENDS.values(), SDPBackend.MATH) if kind is not first]
    with sdpa_kernel([first, *rest], set_priority=True) if others else sdpa_kernel(first):
        yield


def within(name: str, call: Callable[[], Any], *, others: bool = False) -> Callable[[], Any]:
    """The call, with the backend of that name."""

    def run() -> Any:
        with backend(name, others=others):
            return call()

    return run


def fastest(
    call: Callable[[], Any], device: torch.device, notes: list[str], progress: Progress
) -> dict[str, float]:
    """Seconds of each backend that can do the call, the fastest first: a try-out, before the real
    measurement."""
    if device.type != "cuda":
        return {DEFAULT: float("nan")}
    found = {}
    for name in BACKENDS:
        progress(f"trying {name} attention")
        times = attempt(
            partial(measure, {name: within(name, call)}, 2, device), f"{name} attention", notes
        )
        if times is not None:
            found[name] = times[name].best
    if not found:
        raise UsageError(
            "None of torch's fused attention kernels takes this shape here: use --dtype bfloat16."
        )
    return dict(sorted(found.items(), key=lambda item: item[1]))


def recorded(
    call: Callable[[], Any], device: torch.device, what: str, notes: list[str]
) -> Callable[[], Any]:
    """The call as a CUDA graph, so that its time is the kernels' and not Python's; a note where it
    cannot be one."""

    def record() -> Callable[[], Any]:
        for _ in range(3):
            call()
        torch.cuda.synchronize(device)
        return record_cuda_graph(call, device)[0]

    return attempt(record, f"{what} as a CUDA graph", notes) or call


def attempt(work: Callable[[], Any], what: str, notes: list[str]) -> Any:
    """The result of `work`, or None and a note on why there is none: for things that may not exist
    here."""
    try:
        return work()
    except LongreachError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    notes.append(f"{what} did not run here ({reason})")
    return None
