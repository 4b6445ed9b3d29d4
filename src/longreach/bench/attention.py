"""Sparse attention of one layer beside dense attention by the vendor's best kernel, and beside
FlexAttention.

Work is counted on the query-key pairs that the pattern visits; the baseline's on all causal pairs.
Then

    ideal speed-up = 1 / density        achieved / ideal = FLOP/s of the sparse kernel / FLOP/s of
    the baseline

Shapes: B rows, Hq query heads, Hkv KV heads, T tokens, D head dim.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from longreach.bench import dense
from longreach.bench.cases import check_attention
from longreach.bench.timing import Progress, Times, measure
from longreach.kernels.api import Retained, decode_attention, sparse_attention
from longreach.pattern import AttentionPattern
from longreach.planning.plan import Shape

BASELINE = "sdpa"
_BACKWARD = 2.5  # times the forward pass, in FLOPs: five products of the same size for two
_TRAIN = "forward+backward"
_DECODE_LOOPS = 20  # on a GPU one call is too short for the clock

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


@dataclass(frozen=True)
class AttentionCase:
    """What is measured.

    Attributes:
        shape: Heads and head dim are taken from it.
        pattern: Which blocks are visible.
        length: Tokens.
        what: "forward", "train" (forward and backward) or "decode" (one query a row over a compact
            cache).
        impls: Implementations of `sparse_attention`; None for what this device can.
        layer: Index of the layer, which shifts strided blocks.
        rows: Rows of the batch.
        repeats: Rounds.
        dtype: Of all tensors.
        device: Where they lie.
    """

    shape: Shape
    pattern: AttentionPattern
    length: int
    what: str = "forward"
    impls: Sequence[str] | None = None
    layer: int = 0
    rows: int = 1
    repeats: int = 5
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    def __post_init__(self) -> None:
        check_attention(
            self.what,
            self.impls,
            length=self.length,
            rows=self.rows,
            repeats=self.repeats,
            layer=self.layer,
        )

    @property
    def queries(self) -> int:
        """Queries of each row."""
        return 1 if self.what == "decode" else self.length

    @property
    def causal_pairs(self) -> int:
        """Query-key pairs of one KV head that dense attention visits."""
        return self.length if self.what == "decode" else self.length * (self.length + 1) // 2

    @property
    def visited_pairs(self) -> list[int]:
        """Query-key pairs that the pattern visits, for each KV head."""
        return self.pattern.visited(
            self.length, self.shape.kv_heads, self.layer, q_len=self.queries
        )

    @property
    def density(self) -> float:
        """Visited over causal pairs."""
        return sum(self.visited_pairs) / (self.causal_pairs * self.shape.kv_heads)


def run(case: AttentionCase, progress: Progress = lambda text: None) -> dict[str, Any]:
    """Measures one case.

    Returns:
        Everything but the machine (see `timing.record`): the question, the results (one a part and
        implementation, the baseline first), the rounds behind them, and notes on what could not
        run.
    """
    torch.manual_seed(0)
    notes: list[str] = []
    impls = _runnable(case, notes)
    make = _decode_calls if case.what == "decode" else _calls
    calls = make(case, [BASELINE, *impls])
    whole = _parts(case)[-1]
    backends = dense.fastest(calls[BASELINE, whole], case.device, notes, progress)
    chosen = next(iter(backends))
    if "flex" in impls:
        progress("compiling FlexAttention")
        ran = dense.attempt(
            lambda: [calls["flex", part]() is None for part in _parts(case)], "flex", notes
        )
        if ran is None:
            impls.remove("flex")
    ready = {
        f"{impl} {part}": dense.within(chosen, call) if impl == BASELINE else call
        for (impl, part), call in calls.items()
        if impl in (BASELINE, *impls)
    }
    loops = 1
    if case.what == "decode" and case.device.type == "cuda":
        loops = _DECODE_LOOPS
        ready = {
            name: dense.recorded(call, case.device, name, notes) for name, call in ready.items()
        }
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


def _parts(case: AttentionCase) -> list[str]:
    return ["forward", _TRAIN] if case.what == "train" else [case.what]


def _runnable(case: AttentionCase, notes: list[str]) -> list[str]:
    """The implementations to measure: those asked for, or those of this device; notes on what none
    of them can."""
    on_cpu = case.device.type == "cpu"
    impls = (
        list(case.impls)
        if case.impls is not None
        else [*(["cpu"] if on_cpu else ["triton"]), "flex"]
    )
    missing = {}
    if case.what == "decode":
        missing = {name: "reads no compact cache" for name in ("flex", "reference")}
    elif case.what == "train" and on_cpu:
        missing = {"flex": "has no backward pass on a CPU"}
    notes += [f"{impl} left out: it {missing[impl]}" for impl in impls if impl in missing]
    return list(dict.fromkeys(impl for impl in impls if impl not in missing))


def _calls(case: AttentionCase, names: Sequence[str]) -> dict[tuple[str, str], Callable[[], Any]]:
    train, s = case.what == "train", case.shape
    q, k, v = (
        torch.randn(case.rows, heads, case.length, s.head_dim, dtype=case.dtype, device=case.device)
        for heads in (s.heads, s.kv_heads, s.kv_heads)
    )
    seed = torch.randn_like(q) if train else q
    for x in (q, k, v):
        x.requires_grad_(train)

    def forward(name: str) -> Tensor:
        if name == BASELINE:
            return dense.attend(q, k, v)
        return sparse_attention(q, k, v, case.pattern, case.layer, impl=name)

    def both(name: str) -> Any:
        return torch.autograd.grad(forward(name), (q, k, v), seed)

    ways = {"forward": forward, _TRAIN: both}
    return {(name, part): partial(ways[part], name) for name in names for part in _parts(case)}


def _decode_calls(
    case: AttentionCase, names: Sequence[str]
) -> dict[tuple[str, str], Callable[[], Any]]:
    """One query a row, over all keys and over what a cache retains of them; keys are random, their
    number is right."""
    s, p = case.shape, case.pattern

    def random(heads: int, tokens: int) -> Tensor:
        return torch.randn(
            case.rows, heads, tokens, s.head_dim, dtype=case.dtype, device=case.device
        )

    q, k, v = random(s.heads, 1), random(s.kv_heads, case.length), random(s.kv_heads, case.length)
    last = (case.length - 1) // p.block_size
    far = (
        max(p.far_count(last, head, s.kv_heads, case.layer) for head in range(s.kv_heads))
        * p.block_size
    )
    kept = Retained(
        *(random(s.kv_heads, slots) for slots in (far, far, p.window_tokens, p.window_tokens))
    )
    lengths = torch.full((case.rows,), case.length, device=case.device)

    def decode(name: str) -> Tensor:
        if name == BASELINE:
            return dense.attend(q, k, v)
        return decode_attention(q, kept, p, lengths, case.layer, impl=name)

    return {(name, "decode"): partial(decode, name) for name in names}


def _results(
    case: AttentionCase, times: dict[str, Times], names: Sequence[str]
) -> list[dict[str, Any]]:
    parts = [*_parts(case)]
    if case.what == "train":
        parts.insert(1, "backward")
        for name in names:
            rest = times[f"{name} {_TRAIN}"].less(times[f"{name} forward"])
            if rest is not None:
                times[f"{name} backward"] = rest
    found = []
    for part in parts:
        for name in names:
            found.append({"part": part, "impl": name} | _figures(case, part, name, times))
    return found


def _figures(case: AttentionCase, part: str, name: str, times: dict[str, Times]) -> dict[str, Any]:
    mine, base, flex = (times.get(f"{impl} {part}") for impl in (name, BASELINE, "flex"))
    flops, moved = work(case, part, dense=name == BASELINE)
    figures: dict[str, Any] = {"flops": flops, "bytes": moved}
    keys = (
        "seconds",
        "best_seconds",
        "processor_seconds",
        "tokens_per_second",
        "flops_per_second",
        "bytes_per_second",
    )
    if mine is None:
        figures |= dict.fromkeys((*keys, "peak_memory_bytes"))
    else:
        median = mine.median
        processor = statistics.median(mine.processor_seconds)
        rates = (case.rows * case.queries / median, flops / median, moved / median)
        figures |= dict(zip(keys, (median, mine.best, processor, *rates), strict=True))
        figures["peak_memory_bytes"] = mine.peak_bytes
    if name == BASELINE:
        return figures
    speedup = mine.speedup(base) if mine and base else None
    best = base.best / mine.best if mine and base else None
    work_saved = mine.processor_speedup(base) if mine and base else None
    over_flex = mine.speedup(flex) if mine and flex and name != "flex" else None
    return figures | {
        "speedup": speedup,
        "best_speedup": best,
        "processor_speedup": work_saved if case.device.type == "cpu" else None,
        "ideal_speedup": 1 / case.density,
        "achieved_over_ideal": _times(speedup, case.density),
        "best_achieved_over_ideal": _times(best, case.density),
        "flops_per_second_over_baseline": _times(speedup, flops / work(case, part, dense=True)[0]),
        "speedup_over_flex": over_flex,
    }


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def work(case: AttentionCase, part: str, *, dense: bool) -> tuple[int, int]:
    """FLOPs, and bytes read or written at least: see `DEFINITIONS`.

    Args:
        case: The case.
        part: "forward", "backward", "forward+backward" or "decode".
        dense: Whether all causal pairs are visited.
    """
    s, rows = case.shape, case.rows
    if dense:
        forward = 4 * s.head_dim * s.heads * case.causal_pairs * rows
    else:
        numbers = (case.length, s.heads, s.kv_heads, s.head_dim, case.layer)
        forward = case.pattern.attention_flops(*numbers, q_len=case.queries) * rows
    flops = {"backward": _BACKWARD, _TRAIN: 1 + _BACKWARD}.get(part, 1)
    size = rows * s.head_dim * case.dtype.itemsize
    if part == "decode":
        keys = case.length * s.kv_heads if dense else sum(case.visited_pairs)
        return forward, size * (2 * s.heads + 2 * keys)
    tensors = {"forward": 2, "backward": 4, _TRAIN: 6}[part]
    return round(forward * flops), size * case.length * tensors * (s.heads + s.kv_heads)
