"""Training on long sequences in little memory: the loss without all logits, layers without their activations."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from longreach.errors import UsageError

IGNORED = -100  # the label of positions that do not count, as everywhere in torch and transformers


def chunked_cross_entropy(hidden: Tensor, lm_head_weight: Tensor, labels: Tensor, chunk_tokens: int = 1024) -> Tensor:
    """Mean cross entropy, computed a chunk of positions at a time, forward and backward.

    Equals `cross_entropy(hidden @ lm_head_weight.T, labels)` in float32, but only the logits of one chunk exist at any
    time: at 128K tokens and a vocabulary of 32,000 all of them would take 17 GB. The backward pass computes them again.

    Args:
        hidden: [..., T, d], after the final norm.
        lm_head_weight: [V, d].
        labels: [..., T], what each position is to predict (already shifted); -100 does not count.
        chunk_tokens: Positions of a chunk.

    Returns:
        A number, float32; NaN where no label counts, as in torch.

    Raises:
        UsageError: Shapes do not fit, or chunk_tokens is below 1.
    """
    if chunk_tokens < 1:
        raise UsageError(f"chunk_tokens is {chunk_tokens}; give at least 1.")
    if hidden.shape[:-1] != labels.shape or hidden.shape[-1] != lm_head_weight.shape[1]:
        raise UsageError(
            f"hidden is {tuple(hidden.shape)}, labels {tuple(labels.shape)} and the weight "
            f"{tuple(lm_head_weight.shape)}; give [B, T, d], [B, T] and [V, d]."
        )
    rows, targets = hidden.flatten(0, -2), labels.flatten()
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for chunk, wanted in zip(rows.split(chunk_tokens), targets.split(chunk_tokens), strict=True):
        total = total + checkpoint(_summed, chunk, lm_head_weight, wanted, use_reentrant=False)
    return total / (targets != IGNORED).sum()


def checkpointing(model: Any, on: bool) -> None:
    """Turns gradient checkpointing of every layer on or off: backward computes each layer a second time."""
    new = "activation_checkpointing"  # what newer releases of transformers 5 call it; the old name goes in 6
    prefix = new if hasattr(model, f"{new}_enable") else "gradient_checkpointing"
    if on:
        getattr(model, f"{prefix}_enable")(**{f"{prefix}_kwargs": {"use_reentrant": False}})
    else:
        getattr(model, f"{prefix}_disable")()


def _summed(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight).float()
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
