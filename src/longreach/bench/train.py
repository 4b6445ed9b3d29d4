"""Measures training steps without their optimizer: full and hybrid in turn.

A step is forward and backward, with gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch

from longreach.bench import dense
from longreach.bench.prefill import drop_failing, variants
from longreach.bench.subject import BenchSubject
from longreach.bench.timing import Progress, Times, measure
from longreach.jsontext import JsonObject
from longreach.models.loss import checkpointing, chunked_cross_entropy
from longreach.planning.plan import Estimate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_CHUNK_TOKENS = 2048  # logits that exist at a time

DEFINITIONS = {
    "step": (
        "forward and backward of one batch, gradient checkpointing of every layer, cross entropy"
        f" in chunks of {_CHUNK_TOKENS} tokens; no optimizer"
    ),
    "flops": (
        "forward, and backward 2 times that for weights and 2.5 times for attention; without what"
        " checkpointing computes again (longreach plan)"
    ),
    "executed_flops": "with what checkpointing computes again",
    "ideal_speedup": "the ratio of flops of the full to the hybrid model",
    "ideal_speedup_executed": "the ratio of executed_flops",
    "peak_memory_bytes": (
        "most GPU memory allocated during the call, weights and gradients included; null on a CPU"
    ),
}


def train(
    subject: BenchSubject,
    length: int,
    rows: int,
    repeats: int,
    flex: bool,
    notes: list[str],
    progress: Progress,
) -> JsonObject:
    """Returns the seconds, the work and the memory of a step; see `DEFINITIONS`.

    Args:
        subject: The models.
        length: Tokens of a row.
        rows: Rows of a batch.
        repeats: Rounds.
        flex: Measure FlexAttention in the hybrid's sparse layers too, where it has gradients.
        notes: Gets what has to be known about the run.
        progress: Is told how far it is.
    """
    if flex and subject.device.type == "cpu":
        notes.append("train: flex omitted: it has no backward pass on a CPU")
        flex = False
    device = subject.device
    ids = torch.randint(subject.shape.vocab, (rows, length), device=device)

    def step(model: PreTrainedModel, options: dict[str, str]) -> torch.Tensor:
        # The decoder without its head: the logits of a long row would not fit, so the loss makes
        # them chunk by chunk.
        hidden = model.model(input_ids=ids, use_cache=False, **options).last_hidden_state
        loss = chunked_cross_entropy(
            hidden[:, :-1], model.lm_head.weight, ids[:, 1:], _CHUNK_TOKENS
        )
        # Nothing updates the weights: an optimizer costs the same in both models, and hides the
        # ratio.
        loss.backward()
        return loss.detach()

    # Dense layers of both models attend with the kernel that is fastest here.
    calls: dict[str, Callable[[], torch.Tensor]] = {}
    backend = _backend(subject, length, rows, notes, progress)
    for name, (model, options) in variants(subject, flex).items():
        model.train()
        checkpointing(model, True)
        calls[name] = dense.within(backend, partial(step, model, options), others=True)
    losses: dict[str, float] = {}

    def inspect(name: str, loss: torch.Tensor) -> None:
        losses[name] = float(loss)
        # The weights, and so their gradients, are those of the hybrid too.
        subject.full.zero_grad(set_to_none=True)

    try:
        # Trying FlexAttention leaves gradients, which would count as memory of the first step.
        drop_failing(calls, notes, progress)
        subject.full.zero_grad(set_to_none=True)
        times = measure(calls, repeats, device, inspect=inspect, progress=progress)
    finally:
        # The same models may decode next, in evaluation mode and without gradients in memory.
        for model in (subject.full, subject.hybrid):
            checkpointing(model, False)
            model.eval().zero_grad(set_to_none=True)
    ideal = subject.ideal(length, rows)
    executed_full = _executed(subject, ideal.full, length, rows)
    executed_hybrid = _executed(subject, ideal.hybrid, length, rows)
    found = {}
    for name in times:
        found[name] = _figures(subject, length, rows, name, times) | {"loss": losses[name]}
    return {
        "attention_backend": backend,
        "ideal_speedup": ideal.training_speedup,
        "ideal_speedup_executed": executed_full / executed_hybrid,
        "variants": found,
        "rounds_seconds": {name: entry.seconds for name, entry in times.items()},
        "definitions": DEFINITIONS,
    }


def _backend(
    subject: BenchSubject, length: int, rows: int, notes: list[str], progress: Progress
) -> str:
    """Returns the vendor's fastest kernel for attention of one layer, forward and backward."""
    s = subject.shape
    device = subject.device
    if device.type != "cuda":
        return dense.DEFAULT
    q = torch.randn(rows, s.heads, length, s.head_dim, dtype=subject.dtype, device=device)
    kv = torch.randn(rows, s.kv_heads, length, s.head_dim, dtype=subject.dtype, device=device)
    q.requires_grad_()
    kv.requires_grad_()

    def both() -> tuple[torch.Tensor, ...]:
        # Any gradient of the output's shape will do, as only the time counts.
        return torch.autograd.grad(dense.attend(q, kv, kv), (q, kv), q.detach())

    return next(iter(dense.fastest(both, device, notes, progress)))


def _executed(subject: BenchSubject, estimate: Estimate, length: int, rows: int) -> int:
    """Returns the FLOPs with the second forward pass: of the layers, and of all logits."""
    # The prefill's estimate has the logits of one position; those of the others are added.
    head = 2 * subject.shape.vocab * subject.shape.hidden * rows
    return estimate.training_flops + estimate.prefill_flops + head * (length - 1)


def _figures(
    subject: BenchSubject, length: int, rows: int, name: str, times: dict[str, Times]
) -> JsonObject:
    mine = times[name]
    ideal = subject.ideal(length, rows)
    estimate = ideal.full if name == "full" else ideal.hybrid
    executed = _executed(subject, estimate, length, rows)
    figures: JsonObject = {
        "seconds": mine.median,
        "best_seconds": mine.best,
        "tokens_per_second": rows * length / mine.median,
        "flops": estimate.training_flops,
        "flops_per_second": estimate.training_flops / mine.median,
        "executed_flops": executed,
        "executed_flops_per_second": executed / mine.median,
        "peak_memory_bytes": mine.peak_bytes,
    }
    if name == "full":
        return figures
    speedup = mine.speedup(times["full"])
    return figures | {
        "speedup": speedup,
        "best_speedup": times["full"].best / mine.best,
        "achieved_over_ideal": speedup / ideal.training_speedup,
    }
