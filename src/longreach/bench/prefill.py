"""Measures reading a prompt: full and hybrid in turn, and the cache that each leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from longreach.bench import dense
from longreach.bench.subject import BenchSubject, share_saved
from longreach.bench.timing import Progress, Result, Times, measure
from longreach.caches.prefix import cache_bytes
from longreach.jsontext import JsonObject
from longreach.models.cached import cache_in

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


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


class Variant(NamedTuple):
    """A model, and what its forward is called with."""

    model: PreTrainedModel
    options: dict[str, str]


def variants(subject: BenchSubject, flex: bool) -> dict[str, Variant]:
    """Returns, by name, a model and what its forward is called with."""
    found: dict[str, Variant] = {
        "full": Variant(subject.full, {}),
        "hybrid": Variant(subject.hybrid, {}),
    }
    if flex:
        found[FLEX] = Variant(subject.hybrid, {"impl": "flex"})
    return found


def drop_failing(
    calls: dict[str, Callable[[], Result]], notes: list[str], progress: Progress
) -> None:
    """Removes FlexAttention from the calls where it does not run; a note says so."""
    if FLEX not in calls:
        return
    progress("compiling FlexAttention")

    def try_it() -> bool:
        calls[FLEX]()
        return True

    if dense.attempt(try_it, FLEX, notes) is None:
        del calls[FLEX]


@torch.no_grad()
def prefill(
    subject: BenchSubject,
    length: int,
    rows: int,
    repeats: int,
    flex: bool,
    notes: list[str],
    progress: Progress,
) -> JsonObject:
    """Returns the seconds, the work and the memory of reading prompts; see `DEFINITIONS`.

    Args:
        subject: The models.
        length: Tokens of a prompt.
        rows: Prompts of a batch, read with an empty cache.
        repeats: Rounds.
        flex: Measure FlexAttention in the hybrid's sparse layers too.
        notes: Gets what has to be known about the run.
        progress: Is told how far it is.
    """
    s = subject.shape
    device = subject.device
    ids = torch.randint(s.vocab, (rows, length), device=device)

    def read(model: PreTrainedModel, options: dict[str, str]) -> Cache:
        # A prompt is read for its cache and its next token; the logits of every position would
        # add work that no generation does.
        return cache_in(model(input_ids=ids, use_cache=True, logits_to_keep=1, **options))

    # Dense attention of one layer, timed in the same rounds: what an ideal hybrid saves.
    q = torch.randn(rows, s.heads, length, s.head_dim, dtype=subject.dtype, device=device)
    kv = torch.randn(rows, s.kv_heads, length, s.head_dim, dtype=subject.dtype, device=device)
    probe = partial(dense.attend, q, kv, kv)
    backends = dense.fastest(probe, device, notes, progress)
    chosen = next(iter(backends))
    calls: dict[str, Callable[[], Cache | torch.Tensor]] = {_ATTENTION: dense.within(chosen, probe)}
    for name, (model, options) in variants(subject, flex).items():
        calls[name] = dense.within(chosen, partial(read, model, options), others=True)
    drop_failing(calls, notes, progress)
    allocated: dict[str, int] = {}

    # The probe gives attention's output; only the models leave a cache.
    def inspect(name: str, result: Cache | torch.Tensor) -> None:
        if not isinstance(result, torch.Tensor):
            allocated[name] = cache_bytes(result)

    times = measure(calls, repeats, device, inspect=inspect, progress=progress)
    attention = times.pop(_ATTENTION)
    limits = _limits(subject, length, rows, times["full"], attention)
    found = {}
    rounds = {_ATTENTION: attention.seconds}
    for name, entry in times.items():
        figures = _figures(subject, length, rows, name, times, limits)
        figures["kv_allocated_bytes"] = allocated[name]
        if entry.peak_bytes:
            # The probe's tensors were there all the time, and belong to neither model.
            figures["peak_memory_bytes"] = entry.peak_bytes - q.nbytes - kv.nbytes
        found[name] = figures
        rounds[name] = entry.seconds
    return {
        "attention_backend": chosen,
        "attention_of_one_layer_seconds": attention.median,
        "ideal_speedup_flops": limits.flops,
        "ideal_speedup_equal_kernels": limits.equal_kernels,
        "kv_reduction": share_saved(found, "kv_bytes"),
        "kv_allocated_reduction": 1 - allocated["hybrid"] / allocated["full"],
        "variants": found,
        "rounds_seconds": rounds,
        "definitions": DEFINITIONS,
    }


class PrefillLimits(NamedTuple):
    """Ideal speed-ups: by FLOPs, and with sparse kernels as efficient as the dense one.

    The second is None where noise is larger than what would remain.
    """

    flops: float
    equal_kernels: float | None


def _limits(
    subject: BenchSubject, length: int, rows: int, full: Times, attention: Times
) -> PrefillLimits:
    """Returns the ideal speed-ups of this run; see `DEFINITIONS`."""
    heads = subject.shape.kv_heads
    saved_layers = 0.0
    for layer in subject.layers.sparse:
        saved_layers += 1 - subject.pattern.density(length, heads, layer)
    rest = full.median - attention.median * saved_layers
    # Noise can make the attention that is saved look longer than the whole model.
    equal = full.median / rest if rest > 0 else None
    return PrefillLimits(subject.ideal(length, rows).prefill_speedup, equal)


def _figures(
    subject: BenchSubject,
    length: int,
    rows: int,
    name: str,
    times: dict[str, Times],
    limits: PrefillLimits,
) -> JsonObject:
    mine = times[name]
    ideal = subject.ideal(length, rows)
    estimate = ideal.full if name == "full" else ideal.hybrid
    flops = estimate.prefill_flops
    figures: JsonObject = {
        "seconds": mine.median,
        "best_seconds": mine.best,
        "tokens_per_second": rows * length / mine.median,
        "flops": flops,
        "flops_per_second": flops / mine.median,
        "kv_bytes": subject.kv_bytes(name, length, rows),
        "kv_block_bytes": subject.kv_bytes(name, length, rows, blocks=True),
        "peak_memory_bytes": None,
    }
    # The baseline has nothing to be compared with.
    if name == "full":
        return figures
    speedup = mine.speedup(times["full"])
    over_equal = speedup / limits.equal_kernels if limits.equal_kernels else None
    return figures | {
        "speedup": speedup,
        "best_speedup": times["full"].best / mine.best,
        "achieved_over_ideal_flops": speedup / limits.flops,
        "achieved_over_ideal_equal_kernels": over_equal,
    }
