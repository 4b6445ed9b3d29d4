"""Sparse attention of one layer beside dense attention, the vendor's best, and FlexAttention.

Work is counted on the query-key pairs that the pattern visits; the baseline's on all causal pairs.
Then

    ideal speed-up   = 1 / density
    achieved / ideal = FLOP/s of the sparse kernel / FLOP/s of the baseline

Shapes: B rows, Hq query heads, Hkv KV heads, T tokens, D head dim.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from longreach.bench import dense
from longreach.bench.attention_case import TRAIN, AttentionCase, count_work
from longreach.bench.timing import Progress, Times, measure
from longreach.jsontext import JsonObject
from longreach.kernels.api import Retained, decode_attention, sparse_attention

BASELINE = "sdpa"
_DECODE_LOOPS = 20  # on a GPU one call is too short for the clock

_RATES = (
    "seconds",
    "best_seconds",
    "processor_seconds",
    "tokens_per_second",
    "flops_per_second",
    "bytes_per_second",
    "peak_memory_bytes",
)
_SPEEDUPS = (
    "speedup",
    "best_speedup",
    "processor_speedup",
    "ideal_speedup",
    "achieved_over_ideal",
    "best_achieved_over_ideal",
    "flops_per_second_over_baseline",
    "speedup_over_flex",
)

DEFINITIONS = {
    "flops": (
        "4 * head_dim per visited query-key pair and query head; backward 2.5 times that, both 3.5"
        " times"
    ),
    "bytes": (
        "forward: q, k, v read and the output written once; backward: q, k, v, the output and its"
        " gradient read and three gradients written once; decode: every key and value the query"
        " sees read once, q and the output"
    ),
    "speedup": (
        "the median over rounds of the baseline's time over this one's, both of the same round"
    ),
    "ideal_speedup": (
        "causal over visited pairs, 1 / density; in decoding also the ratio of the keys' bytes"
    ),
    "achieved_over_ideal": (
        "speedup / ideal_speedup; the same number as flops_per_second_over_baseline"
    ),
    "backward": "forward+backward less forward, round by round; null where noise is larger",
    "decode": (
        f"on a GPU {_DECODE_LOOPS} replays of a CUDA graph a round; a cache that fits the GPU's L2"
        " stays there"
    ),
    "peak_memory_bytes": (
        "most GPU memory allocated during the call, what lay there before included; null on a CPU"
    ),
}


# A call by (implementation, part of the measurement).
Calls = dict[tuple[str, str], Callable[[], object]]


def run(case: AttentionCase, progress: Progress = lambda text: None) -> JsonObject:
    """Measures one case.

    Args:
        case: What is measured.
        progress: Is told of each round.

    Returns:
        Everything but the machine (see `models.machine.record`): the question, the results (one a
        part and implementation, the baseline first), the rounds behind them, and notes on what
        could not run.
    """
    torch.manual_seed(0)
    notes: list[str] = []
    impls = _runnable(case, notes)
    make = _decode_calls if case.what == "decode" else _calls
    calls = make(case, [BASELINE, *impls])
    # The baseline is the best there is for the longest part: vendors' kernels differ by device.
    whole = _parts(case)[-1]
    backends = dense.fastest(calls[BASELINE, whole], case.device, notes, progress)
    chosen = next(iter(backends))
    if "flex" in impls:
        progress("compiling FlexAttention")
        if not _runs_flex(case, calls, notes):
            impls.remove("flex")
    ready = {}
    for (impl, part), call in calls.items():
        if impl == BASELINE:
            ready[f"{impl} {part}"] = dense.within(chosen, call)
        elif impl in impls:
            ready[f"{impl} {part}"] = call
    loops = 1
    if case.what == "decode" and case.device.type == "cuda":
        # Without a graph, Python would take longer than the kernels.
        loops = _DECODE_LOOPS
        for name, call in ready.items():
            ready[name] = dense.recorded(call, case.device, name, notes)
    times = measure(ready, case.repeats, case.device, loops=loops, progress=progress)
    return {
        "bench": "attention",
        "what": case.what,
        "shape": asdict(case.shape),
        "pattern": asdict(case.pattern),
        "length_tokens": case.length,
        "rows": case.rows,
        "layer": case.layer,
        "dtype": str(case.dtype).removeprefix("torch."),
        "device": str(case.device),
        "repeats": case.repeats,
        "density": case.density,
        "ideal_speedup": 1 / case.density,
        "baseline": {
            "kernel": "torch.nn.functional.scaled_dot_product_attention, causal",
            "backend": chosen,
            "tried_seconds": backends if case.device.type == "cuda" else {},
        },
        "results": _results(case, times, [BASELINE, *impls]),
        "rounds_seconds": {name: entry.seconds for name, entry in times.items()},
        "definitions": DEFINITIONS,
        "notes": notes,
    }


def _runs_flex(case: AttentionCase, calls: Calls, notes: list[str]) -> bool:
    """Compiles FlexAttention, and returns whether it runs here; a note where it does not."""

    def try_parts() -> bool:
        # The backward pass is compiled apart from the forward pass, and may fail alone.
        for part in _parts(case):
            calls["flex", part]()
        return True

    return dense.attempt(try_parts, "flex", notes) is not None


def _parts(case: AttentionCase) -> list[str]:
    """Returns what is timed of a case."""
    return ["forward", TRAIN] if case.what == "train" else [case.what]


def _runnable(case: AttentionCase, notes: list[str]) -> list[str]:
    """Returns the implementations to measure: those asked for, or those of this device.

    What one of them cannot do is a note, not a measurement.
    """
    on_cpu = case.device.type == "cpu"
    impls = case.impls
    if impls is None:
        impls = ["cpu" if on_cpu else "triton", "flex"]
    missing = {}
    if case.what == "decode":
        missing = dict.fromkeys(("flex", "reference"), "reads no compact cache")
    elif case.what == "train" and on_cpu:
        missing = {"flex": "has no backward pass on a CPU"}
    runnable = []
    # What is named twice is measured once.
    for impl in dict.fromkeys(impls):
        if impl in missing:
            notes.append(f"{impl} omitted: it {missing[impl]}")
        else:
            runnable.append(impl)
    return runnable


def _draw(case: AttentionCase, heads: int, tokens: int) -> Tensor:
    """Returns random numbers [rows, heads, tokens, head dim]."""
    size = (case.rows, heads, tokens, case.shape.head_dim)
    return torch.randn(size, dtype=case.dtype, device=case.device)


def _calls(case: AttentionCase, names: Sequence[str]) -> Calls:
    """Returns attention over all keys, and with gradients where they are measured."""
    train = case.what == "train"
    q = _draw(case, case.shape.heads, case.length)
    k = _draw(case, case.shape.kv_heads, case.length)
    v = _draw(case, case.shape.kv_heads, case.length)
    # A gradient of ones would be an expanded tensor, which some kernels treat apart.
    seed = torch.randn_like(q) if train else q
    for tensor in (q, k, v):
        tensor.requires_grad_(train)

    def forward(name: str) -> Tensor:
        if name == BASELINE:
            return dense.attend(q, k, v)
        return sparse_attention(q, k, v, case.pattern, case.layer, impl=name)

    def both(name: str) -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(name), (q, k, v), seed)

    calls: Calls = {}
    for name in names:
        calls[name, "forward"] = partial(forward, name)
        if train:
            calls[name, TRAIN] = partial(both, name)
    return calls


def _decode_calls(case: AttentionCase, names: Sequence[str]) -> Calls:
    """Returns one query a row, over all keys and over what a cache retains of them.

    Keys are random; their number is right.
    """
    p = case.pattern
    heads = case.shape.kv_heads
    q = _draw(case, case.shape.heads, 1)
    k = _draw(case, heads, case.length)
    v = _draw(case, heads, case.length)
    # The query is the newest of `length` tokens.
    last = (case.length - 1) // p.block_size
    blocks = max(p.far_count(last, head, heads, case.layer) for head in range(heads))
    kept = Retained(
        far_k=_draw(case, heads, blocks * p.block_size),
        far_v=_draw(case, heads, blocks * p.block_size),
        near_k=_draw(case, heads, p.window_tokens),
        near_v=_draw(case, heads, p.window_tokens),
    )
    lengths = torch.full((case.rows,), case.length, device=case.device)

    def decode(name: str) -> Tensor:
        if name == BASELINE:
            return dense.attend(q, k, v)
        return decode_attention(q, kept, p, lengths, case.layer, impl=name)

    return {(name, "decode"): partial(decode, name) for name in names}


def _results(
    case: AttentionCase, times: dict[str, Times], names: Sequence[str]
) -> list[JsonObject]:
    """Returns the figures of each part and implementation, the backward pass among them."""
    parts = _parts(case)
    if case.what == "train":
        # The backward pass is not run by itself: it is what remains of both, round by round.
        parts.insert(1, "backward")
        for name in names:
            rest = times[f"{name} {TRAIN}"].less(times[f"{name} forward"])
            if rest is not None:
                times[f"{name} backward"] = rest
    found = []
    for part in parts:
        for name in names:
            found.append({"part": part, "impl": name} | _figures(case, part, name, times))
    return found


def _figures(case: AttentionCase, part: str, name: str, times: dict[str, Times]) -> JsonObject:
    """Returns what one implementation did in one part; None for what was not measured."""
    mine = times.get(f"{name} {part}")
    done = count_work(case, part, dense=name == BASELINE)
    figures: dict[str, Any] = {"flops": done.flops, "bytes": done.moved_bytes}
    if mine is None:
        figures |= dict.fromkeys(_RATES)
    else:
        median = mine.median
        figures["seconds"] = median
        figures["best_seconds"] = mine.best
        figures["processor_seconds"] = statistics.median(mine.processor_seconds)
        figures["tokens_per_second"] = case.rows * case.queries / median
        figures["flops_per_second"] = done.flops / median
        figures["bytes_per_second"] = done.moved_bytes / median
        figures["peak_memory_bytes"] = mine.peak_bytes
    if name == BASELINE:
        return figures
    return figures | _compare(case, part, name, times)


def _compare(case: AttentionCase, part: str, name: str, times: dict[str, Times]) -> JsonObject:
    """Returns the speed-ups of one implementation; None where one of the two was not measured."""
    # All rows but the baseline have these keys, so that a report needs no special cases.
    compared: dict[str, Any] = dict.fromkeys(_SPEEDUPS)
    compared["ideal_speedup"] = 1 / case.density
    mine = times.get(f"{name} {part}")
    base = times.get(f"{BASELINE} {part}")
    flex = times.get(f"flex {part}")
    if mine is None:
        return compared
    if flex is not None and name != "flex":
        compared["speedup_over_flex"] = mine.speedup(flex)
    if base is None:
        return compared
    speedup = mine.speedup(base)
    best = base.best / mine.best
    done = count_work(case, part, dense=False)
    needed = count_work(case, part, dense=True)
    compared["speedup"] = speedup
    compared["best_speedup"] = best
    compared["achieved_over_ideal"] = speedup * case.density
    compared["best_achieved_over_ideal"] = best * case.density
    compared["flops_per_second_over_baseline"] = speedup * (done.flops / needed.flops)
    # On a GPU the processor only starts kernels.
    if case.device.type == "cpu":
        compared["processor_speedup"] = mine.processor_speedup(base)
    return compared
