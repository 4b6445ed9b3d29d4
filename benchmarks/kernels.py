"""How much of the ideal speed-up (1 / density) sparse attention reaches over dense causal attention, in one run.

    python benchmarks/kernels.py --length 16384 --pattern sink-window --impl cpu --json out.json

Both sides are timed alternately and the medians compared, so that other load on the machine hits both alike. On a CPU
that others use as well, the ratio of processor times says more than that of the clock.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from longreach.kernels.attention import sparse_attention
from longreach.pattern import AttentionPattern

PATTERNS = {
    "sink-window": AttentionPattern.sink_window(),
    "strided": AttentionPattern.strided(),
    "sink1-local16": AttentionPattern(),
    "local16-stride16": AttentionPattern(sink_blocks=0, stride=16),
}


def once(call: Callable[[], None], device: str) -> tuple[float, float]:
    """Seconds on the clock, and seconds of processor time of all threads."""
    if device == "cuda":
        torch.cuda.synchronize()
    start, work = time.perf_counter(), time.process_time()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - work


def measure(args: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    p, dtype = PATTERNS[args.pattern], getattr(torch, args.dtype)
    q, k, v = (
        torch.randn(args.rows, heads, args.length, args.head_dim, dtype=dtype, device=args.device)
        for heads in (args.heads, args.kv_heads, args.kv_heads)
    )
    train = args.backward
    for x in (q, k, v):
        x.requires_grad_(train)
    seed = torch.randn_like(q)

    def sparse(impl: str) -> Callable[[], None]:
        def call() -> None:
            out = sparse_attention(q, k, v, p, impl=impl)
            if train:
                torch.autograd.grad(out, (q, k, v), seed)

        return call

    def dense() -> None:
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=args.heads != args.kv_heads)
        if train:
            torch.autograd.grad(out, (q, k, v), seed)

    calls = {"dense": dense} | {impl: sparse(impl) for impl in args.impl}
    times: dict[str, list[float]] = {name: [] for name in calls}
    work: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        print(f"warm up {name}", file=sys.stderr)
        if name != "dense" or args.device == "cuda":
            once(call, args.device)
    for _ in range(args.repeats):
        for name, call in calls.items():
            seconds, processor = once(call, args.device)
            times[name].append(seconds)
            work[name].append(processor)
    medians = {name: statistics.median(values) for name, values in times.items()}
    processors = {name: statistics.median(values) for name, values in work.items()}
    density = p.density(args.length, args.kv_heads)
    results = {
        name: {
            "seconds": round(value, 5),
            "best_seconds": round(min(times[name]), 5),
            "speedup": round(medians["dense"] / value, 3),
            "achieved_over_ideal": round(medians["dense"] / value * density, 3),
            "best_achieved_over_ideal": round(min(times["dense"]) / min(times[name]) * density, 3),
            "processor_achieved_over_ideal": round(processors["dense"] / processors[name] * density, 3),
        }
        for name, value in medians.items()
        if name != "dense"
    }
    return {
        "what": "forward + backward" if train else "forward",
        "pattern": args.pattern,
        "length_tokens": args.length,
        "rows_heads_kv_heads_dim": [args.rows, args.heads, args.kv_heads, args.head_dim],
        "dtype": args.dtype,
        "density": round(density, 5),
        "ideal_speedup": round(1 / density, 3),
        "dense_seconds": round(medians["dense"], 5),
        "results": results,
        "repeats": args.repeats,
        "hardware": torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pattern", choices=PATTERNS, default="sink-window")
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--impl", nargs="+", default=["cpu"])
    parser.add_argument("--backward", action="store_true", help="time forward and backward together")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the result there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    text = json.dumps(measure(args), indent=2)
    if args.json:
        args.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
