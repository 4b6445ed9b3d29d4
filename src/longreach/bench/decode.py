"""Measures tokens one by one after a long prompt: full and hybrid in turn, on reserved caches."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from longreach.bench.cases import DECODE_WARM_UP
from longreach.bench.subject import BenchSubject, share_saved
from longreach.bench.timing import Progress, Times, measure
from longreach.caches.retained import RetainedLayer
from longreach.errors import UsageError
from longreach.jsontext import JsonObject
from longreach.models.steps import Steps, empty_cache
from longreach.planning.plan import Shape

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


_FILL_TOKENS = 8192  # tokens written to a cache at a time

DEFINITIONS = {
    "steps": (
        "with graphs, full layers of both models attend with our own split-K kernel, which reads"
        " the length on the device; else with scaled_dot_product_attention"
    ),
    "bytes": (
        "all weights, and the keys and values that the model retains at this length, read once a"
        " token"
    ),
    "ideal_speedup": "the ratio of these bytes, full over hybrid (longreach plan)",
    "kv_bytes": "keys and values that the pattern retains, by arithmetic",
    "kv_allocated_bytes": "bytes of the tensors really held, with slots for the tokens to come",
    "cache": (
        "filled with random keys and values instead of a prompt; the last of its tokens is really"
        " read"
    ),
    "peak_memory_bytes": (
        "most GPU memory allocated during a step, both models' caches included; null on a CPU"
    ),
    "recorded": "whether a step is a CUDA graph",
    "compiled": (
        "whether torch.compile fused what lies between the products and attention, in both models"
    ),
}


@torch.no_grad()
def filled_cache(model: PreTrainedModel, length: int, rows: int = 1) -> Cache:
    """Returns a cache in the state that reading `length` tokens leaves, with random contents.

    A real prompt would take minutes on a CPU, and its values do not change what a step costs.
    Sparse layers are filled by their own storing path, chunk by chunk, with one query head for each
    KV head.

    Args:
        model: Full or hybrid.
        length: Tokens.
        rows: Rows of the batch.
    """
    cache: Any = empty_cache(model)
    sizes = Shape.of(model.config)
    for layer in cache.layers:
        sparse = isinstance(layer, RetainedLayer)
        # A dynamic layer copies itself at every update, so it is given everything at once.
        chunk = _FILL_TOKENS if sparse else max(1, length)
        for begin in range(0, length, chunk):
            shape = (rows, sizes.kv_heads, min(chunk, length - begin), sizes.head_dim)
            k = torch.randn(shape, dtype=model.dtype, device=model.device)
            v = torch.randn(shape, dtype=model.dtype, device=model.device)
            if sparse:
                layer.attend(k, k, v)
            else:
                layer.update(k, v)
    return cache


@torch.no_grad()
def decode(
    subject: BenchSubject,
    length: int,
    rows: int,
    new_tokens: int,
    graphs: bool | None,
    compile: bool,
    notes: list[str],
    progress: Progress,
) -> list[JsonObject]:
    """Returns the seconds and the traffic of a step after `length` tokens; see `DEFINITIONS`.

    Args:
        subject: The models.
        length: Tokens in the cache of each row when the first step begins.
        rows: Rows of the batch.
        new_tokens: Steps that are timed.
        graphs: With CUDA graphs, without, or (None) both where there is a GPU.
        compile: Run the steps of both models through torch.compile.
        notes: Gets what has to be known about the run.
        progress: Is told how far it is.

    Returns:
        One report with and one without graphs, or only one of them.

    Raises:
        UsageError: Graphs are asked for without a GPU, or cannot be recorded.
    """
    if graphs and subject.device.type != "cuda":
        raise UsageError("CUDA graphs need a GPU; leave --graphs out.")
    if graphs is not None:
        modes = [graphs]
    elif subject.device.type == "cuda":
        modes = [True, False]
    else:
        modes = [False]
    reports = []
    for mode in modes:
        try:
            reports.append(
                _decode(subject, length, rows, new_tokens, mode, compile, notes, progress)
            )
        except (UsageError, torch.OutOfMemoryError) as error:
            # What was asked for fails; of two ways that were not, one is enough.
            if len(modes) == 1:
                raise
            way = "with" if mode else "without"
            notes.append(f"decode {way} graphs did not run here ({error})")
        gc.collect()  # a failure's traceback holds both caches
    return reports


def _decode(
    subject: BenchSubject,
    length: int,
    rows: int,
    new_tokens: int,
    graph: bool,
    compile: bool,
    notes: list[str],
    progress: Progress,
) -> JsonObject:
    if subject.device.type == "cuda":
        # Graphs take memory of their own, which the allocator's reserve could crowd out.
        torch.cuda.empty_cache()
    last = torch.randint(subject.shape.vocab, (rows, 1), device=subject.device)
    tokens = torch.randint(subject.shape.vocab, (rows,), device=subject.device)
    # Warm-up steps write to the cache as well.
    most = length + DECODE_WARM_UP + new_tokens
    steps = {}
    calls = {}
    for name, model in (("full", subject.full), ("hybrid", subject.hybrid)):
        progress(f"filling the cache of the {name} model with {length:,} tokens")
        cache = filled_cache(model, length - 1, rows)
        one = Steps(model, most, cache=cache, graph=graph, compile=compile)
        # The last token is read for real, so that the model and its cache are known to agree.
        one.read(last)
        steps[name] = one
        calls[name] = partial(one.step, tokens)
    # A round is one step of each model, so both caches have the same length in every round.
    times = measure(calls, new_tokens, subject.device, warmup=DECODE_WARM_UP)
    found = {}
    for name, one in steps.items():
        # A figure must not pass for one with graphs where no graph could be recorded.
        if one.recorded != graph:
            what = "no CUDA graph could be" if graph else "a CUDA graph was"
            notes.append(f"decode, {name}: {what} recorded")
        found[name] = _figures(subject, length, rows, name, one, times)
    return {
        "graphs": graph,
        "compiled": compile,
        "new_tokens": new_tokens,
        "ideal_speedup": subject.ideal(length, rows).decode_speedup,
        "kv_reduction": share_saved(found, "kv_bytes"),
        "kv_allocated_reduction": share_saved(found, "kv_allocated_bytes"),
        "variants": found,
        "rounds_seconds": {name: entry.seconds for name, entry in times.items()},
        "definitions": DEFINITIONS,
    }


def _figures(
    subject: BenchSubject, length: int, rows: int, name: str, steps: Steps, times: dict[str, Times]
) -> JsonObject:
    mine = times[name]
    ideal = subject.ideal(length, rows)
    chosen = ideal.full if name == "full" else ideal.hybrid
    moved = chosen.weights_bytes + chosen.kv_bytes
    figures: JsonObject = {
        "recorded": steps.recorded,
        "seconds_per_token": mine.median,
        "best_seconds_per_token": mine.best,
        "tokens_per_second": rows / mine.median,
        "bytes": moved,
        "bytes_per_second": moved / mine.median,
        "kv_bytes": chosen.kv_bytes,
        "kv_block_bytes": subject.kv_bytes(name, length, rows, blocks=True),
        "kv_allocated_bytes": steps.kv_bytes,
        "peak_memory_bytes": mine.peak_bytes,
    }
    if name == "full":
        return figures
    speedup = mine.speedup(times["full"])
    return figures | {
        "speedup": speedup,
        "best_speedup": times["full"].best / mine.best,
        "achieved_over_ideal": speedup / ideal.decode_speedup,
    }
