"""Training on long sequences in little memory.

Losses do without all logits at once, layers without their activations.

Shapes: B rows, T positions, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from longreach.errors import ModelError, UsageError
from longreach.models.decoder import decoder_of, evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# The label of positions that do not count, as everywhere in torch and transformers.
IGNORED = -100


class Likeliest(NamedTuple):
    """The k likeliest next tokens of each position.

    Attributes:
        ids: [..., T, k].
        log_probs: Their log probabilities, [..., T, k].
    """

    ids: Tensor
    log_probs: Tensor


@torch.no_grad()
def head_weight(model: PreTrainedModel) -> Tensor:
    """Returns the matrix of a model's LM head, [V, d]."""
    head: Any = model.get_output_embeddings()
    weight: Tensor = head.weight
    return weight


def softcap_of(model: PreTrainedModel) -> float | None:
    """Returns what a model's logits are capped at (Gemma 2), for the losses below.

    Returns:
        None for most models.

    Raises:
        ModelError: Its head does more than these losses know, so that they would differ from the
            model's own.
    """
    # A few tokens through both ways: whatever a family's head does shows in the logits.
    ids = torch.arange(4, device=model.device)[None]
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    with evaluating(model):
        hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        own = model(ids, use_cache=False).logits.float()
    logits = _logits(hidden, head_weight(model), softcap)
    if not torch.allclose(logits, own, rtol=0.02, atol=0.02 * float(own.abs().max())):
        raise ModelError(
            f"The head of {type(model).__name__} is more than one matrix: its loss is not known"
            " here."
        )
    return softcap


def chunked_cross_entropy(
    hidden: Tensor,
    lm_head_weight: Tensor,
    labels: Tensor,
    chunk_tokens: int = 1024,
    *,
    softcap: float | None = None,
) -> Tensor:
    """Returns the mean cross entropy, a chunk of positions at a time, forward and backward.

    Equals `cross_entropy(hidden @ lm_head_weight.T, labels)` in float32, but only the logits of one
    chunk exist at any time: at 128K tokens and a vocabulary of 32,000 all of them would take 17 GB.
    The backward pass computes them again.

    Args:
        hidden: [..., T, d], after the final norm.
        lm_head_weight: [V, d].
        labels: [..., T], what each position is to predict (already shifted); -100 does not count.
        chunk_tokens: Positions of a chunk.
        softcap: See `softcap_of`.

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
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for chunk, wanted in _chunks(chunk_tokens, hidden.flatten(0, -2), labels.flatten()):
        # The logits are computed again on the way back, so that no chunk's are kept.
        total = total + checkpoint(
            _cross_entropy, chunk, lm_head_weight, wanted, softcap, use_reentrant=False
        )
    # Divided once at the end, because chunks differ in how many of their labels count.
    return total / (labels != IGNORED).sum()


@torch.no_grad()
def chunked_losses(
    hidden: Tensor,
    lm_head_weight: Tensor,
    labels: Tensor,
    chunk_tokens: int = 1024,
    *,
    softcap: float | None = None,
) -> Tensor:
    """Returns the cross entropy of every position, without gradients: [..., T] in float32.

    It is 0 where a label does not count. Arguments as in `chunked_cross_entropy`.
    """
    parts = []
    for chunk, wanted in _chunks(chunk_tokens, hidden.flatten(0, -2), labels.flatten()):
        parts.append(_cross_entropy(chunk, lm_head_weight, wanted, softcap, "none"))
    return torch.cat(parts).view(labels.shape)


@torch.no_grad()
def chunked_hits(
    hidden: Tensor, lm_head_weight: Tensor, labels: Tensor, chunk_tokens: int = 1024
) -> Tensor:
    """Returns whether each label is the likeliest next token: bools [N].

    Args:
        hidden: [N, d], after the final norm.
        lm_head_weight: [V, d].
        labels: [N], what each position is to predict.
        chunk_tokens: Positions of a chunk.
    """
    parts = []
    for chunk, wanted in _chunks(chunk_tokens, hidden, labels):
        parts.append(_logits(chunk, lm_head_weight, None).argmax(-1) == wanted)
    return torch.cat(parts)


@torch.no_grad()
def likeliest(
    hidden: Tensor,
    lm_head_weight: Tensor,
    k: int,
    chunk_tokens: int = 1024,
    *,
    softcap: float | None = None,
) -> Likeliest:
    """Returns what a teacher expects at each position of `hidden`, without gradients.

    Args:
        hidden: [..., T, d], after the final norm.
        lm_head_weight: [V, d].
        k: Tokens to name at each position.
        chunk_tokens: Positions of a chunk.
        softcap: See `softcap_of`.
    """
    ids = []
    log_probs = []
    for (chunk,) in _chunks(chunk_tokens, hidden.flatten(0, -2)):
        top = _logits(chunk, lm_head_weight, softcap).log_softmax(-1).topk(k)
        ids.append(top.indices)
        log_probs.append(top.values)
    shape = (*hidden.shape[:-1], k)
    return Likeliest(torch.cat(ids).view(shape), torch.cat(log_probs).view(shape))


def chunked_divergence(
    hidden: Tensor,
    lm_head_weight: Tensor,
    teacher: Likeliest,
    chunk_tokens: int = 1024,
    *,
    softcap: float | None = None,
) -> Tensor:
    """Returns the mean KL(teacher || student) over the teacher's k likeliest tokens.

    It is computed a chunk of positions at a time. All other tokens count as one event, so that the
    divergence is never below 0, and is 0 where the student agrees.

    Args:
        hidden: The student's states after the final norm, [..., T, d].
        lm_head_weight: [V, d].
        teacher: Its expectations, [..., T, k].
        chunk_tokens: Positions of a chunk.
        softcap: See `softcap_of`.

    Returns:
        A number in nats, float32.
    """
    rows = hidden.flatten(0, -2)
    ids = teacher.ids.flatten(0, -2)
    log_probs = teacher.log_probs.flatten(0, -2)
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for chunk, wanted, expected in _chunks(chunk_tokens, rows, ids, log_probs):
        total = total + checkpoint(
            _diverged, chunk, lm_head_weight, wanted, expected, softcap, use_reentrant=False
        )
    return total / len(rows)


def checkpointing(model: PreTrainedModel, on: bool) -> None:
    """Turns gradient checkpointing on or off: backward computes each layer a second time."""
    # What newer releases of transformers 5 call it; the old name goes in 6.
    new = "activation_checkpointing"
    prefix = new if hasattr(model, f"{new}_enable") else "gradient_checkpointing"
    if on:
        getattr(model, f"{prefix}_enable")(**{f"{prefix}_kwargs": {"use_reentrant": False}})
    else:
        getattr(model, f"{prefix}_disable")()


def _chunks(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yields the tensors `size` rows at a time, all of them together."""
    # No rows are one empty chunk, so that results have their shapes.
    for start in range(0, max(1, tensors[0].shape[0]), size):
        yield tuple(tensor[start : start + size] for tensor in tensors)


def _logits(hidden: Tensor, weight: Tensor, softcap: float | None) -> Tensor:
    # In float32 from here on: half precision is too coarse for a sum over a vocabulary.
    logits = torch.nn.functional.linear(hidden, weight).float()
    return logits if softcap is None else (logits / softcap).tanh() * softcap


def _cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, softcap: float | None, reduction: str = "sum"
) -> Tensor:
    logits = _logits(hidden, weight, softcap)
    return torch.nn.functional.cross_entropy(
        logits, labels, ignore_index=IGNORED, reduction=reduction
    )


def _diverged(
    hidden: Tensor, weight: Tensor, ids: Tensor, log_probs: Tensor, softcap: float | None
) -> Tensor:
    student = _logits(hidden, weight, softcap).log_softmax(-1).gather(-1, ids)
    named = (log_probs.exp() * (log_probs - student)).sum()
    rest = _unnamed(log_probs)
    return named + (rest * (rest.log() - _unnamed(student).log())).sum()


def _unnamed(log_probs: Tensor) -> Tensor:
    """Returns the probability of all tokens that are not named, a little above 0."""
    # Rounding may bring the sum to 1, and what remains has to have a logarithm.
    return 1 - log_probs.exp().sum(-1).clamp(max=1 - 1e-6)
