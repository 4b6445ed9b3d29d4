"""Reading a prompt: full and hybrid in turn, and the cache that each leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from longreach.bench import dense
from longreach.bench.subject import Subject
from longreach.bench.timing import Progress, Times, measure
from longreach.caches.prefix import cache_bytes
from longreach.models.cached import cache_in

FLEX = "hybrid-flex"
_ATTENTION = "attention"

DEFINITIONS = {
    "flops": (
        "2 per weight of the layers and token, 4 * head_dim per visited pair and query head, logits"
        " of the last position (longreach plan)"
    ),
    "ideal_speedup_flops": "the ratio of FLOPs of the full to the hybrid model",
    "ideal_speedup_equal_kernels": (
        "T_full / (T_full - sum over sparse layers of T_attention * (1 - density)), T_attention"
        " being dense causal attention of one layer timed in the same rounds: what remains if"
        " sparse kernels work as fast per visited pair and nothing else changes"
    ),
    "kv_bytes": "keys and values that the pattern retains, by arithmetic",
    "kv_block_bytes": (
        "the same in whole blocks, as the cache lays them out: rings, and the fullest head's blocks"
    ),
    "kv_allocated_bytes": "bytes of the tensors really held by the cache after the prompt",
    "peak_memory_bytes": (
        "most GPU memory allocated during the call, weights included; null on a CPU"
    ),
}


def variants(subject: Subject, flex: bool) -> dict[str, tuple[Any, dict[str, str]]]:
    """By name: a model and what its forward is called with."""
    found: dict[str, tuple[Any, dict[str, str]]] = {
        "full": (subject.full, {}),
        "hybrid": (subject.hybrid, {}),
    }
    return found | ({FLEX: (subject.hybrid, {"impl": "flex"})} if flex else {})


def drop_failing(calls: dict[str, Callable[[], Any]], notes: list[str], progress: Progress) -> None:
    """Takes FlexAttention out where it does not run, and says so."""
    if FLEX in calls:
        progress("compiling FlexAttention")
        if dense.attempt(lambda: calls[FLEX]() is not None or True, FLEX, notes) is None:
            del calls[FLEX]


@torch.no_grad()
def prefill(
    subject: Subject,
    length: int,
    rows: int,
    repeats: int,
    flex: bool,
    notes: list[str],
    progress: Progress,
) -> dict[str, Any]:
    """Seconds, work and memory of reading `rows` prompts of `length` tokens with an empty cache;
    see `DEFINITIONS`."""
    s, device = subject.shape, subject.device
    ids = torch.randint(s.vocab, (rows, length), device=device)

    def read(model: Any, options: dict[str, str]) -> Any:
        return cache_in(model(input_ids=ids, use_cache=True, logits_to_keep=1, **options))

    q, kv = (
        torch.randn(rows, heads, length, s.head_dim, dtype=subject.dtype, device=device)
        for heads in (s.heads, s.kv_heads)
    )
    probe = partial(dense.attend, q, kv, kv)
    backends = dense.fastest(probe, device, notes, progress)
    chosen = next(iter(backends))
    calls: dict[str, Callable[[], Any]] = {_ATTENTION: dense.within(chosen, probe)}
    for name, (model, options) in variants(subject, flex).items():
        calls[name] = dense.within(chosen, partial(read, model, options), others=True)
    drop_failing(calls, notes, progress)
    allocated: dict[str, int] = {}

    def inspect(name: str, result: Any) -> None:
        if name != _ATTENTION:
            allocated[name] = cache_bytes(result)

    times = measure(calls, repeats, device, inspect=inspect, progress=progress)
    attention = times.pop(_ATTENTION)
    limits = _limits(subject, length, rows, times["full"], attention)
    found = {
        name: (
            _figures(subject, length, rows, name, times, limits)
            | {"kv_allocated_bytes": allocated[name]}
            | (
                {"peak_memory_bytes": peak - q.nbytes - kv.nbytes}
                if (peak := entry.peak_bytes)
                else {}
            )
        )
        for name, entry in times.items()
    }
    return {
        "attention_backend": chosen,
        "attention_of_one_layer_seconds": attention.median,
        "ideal_speedup_flops": limits[0],
        "ideal_speedup_equal_kernels": limits[1],
        "kv_reduction": 1 - found["hybrid"]["kv_bytes"] / found["full"]["kv_bytes"],
        "kv_allocated_reduction": 1 - allocated["hybrid"] / allocated["full"],
        "variants": found,
        "rounds_seconds": {
            name: entry.seconds for name, entry in {_ATTENTION: attention, **times}.items()
        },
        "definitions": DEFINITIONS,
    }


def _limits(
    subject: Subject, length: int, rows: int, full: Times, attention: Times
) -> tuple[float, float | None]:
    """Ideal speed-ups: by FLOPs, and at equal efficiency of the kernels."""
    heads = subject.shape.kv_heads
    hidden = sum(
        1 - subject.pattern.density(length, heads, layer) for layer in subject.layers.sparse
    )
    rest = full.median - attention.median * hidden
    return subject.ideal(length, rows).prefill_speedup, full.median / rest if rest > 0 else None


def _figures(
    subject: Subject,
    length: int,
    rows: int,
    name: str,
    times: dict[str, Times],
    limits: tuple[float, float | None],
) -> dict[str, Any]:
    mine, ideal = times[name], subject.ideal(length, rows)
    flops = (ideal.full if name == "full" else ideal.hybrid).prefill_flops
    figures = {
        "seconds": mine.median,
        "best_seconds": mine.best,
        "tokens_per_second": rows * length / mine.median,
        "flops": flops,
        "flops_per_second": flops / mine.median,
        "kv_bytes": subject.kv_bytes(name, length, rows),
        "kv_block_bytes": subject.kv_bytes(name, length, rows, blocks=True),
        "peak_memory_bytes": None,
    }
    if name == "full":
        return figures
    speedup = mine.speedup(times["full"])
    return figures | {
        "speedup": speedup,
        "best_speedup": times["full"].best / mine.best,
        "achieved_over_ideal_flops": speedup / limits[0],
        "achieved_over_ideal_equal_kernels": speedup / limits[1] if limits[1] else None,
    }
