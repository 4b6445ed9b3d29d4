"""Training on long sequences in little memory: losses without all logits, layers without their
activations."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from longreach.errors import ModelError, UsageError
from longreach.models.decoder import decoder_of, evaluating

IGNORED = -100  # the label of positions that do not count, as everywhere in torch and transformers


class Likeliest(NamedTuple):
    """The k likeliest next tokens of each position: their `ids` and `log_probs`, [..., T, k]
    each."""

    ids: Tensor
    log_probs: Tensor


@torch.no_grad()
def softcap_of(model: Any) -> float | None:
    """What a model's logits are capped at (Gemma 2), for the losses below; None for most.

    Raises:
        ModelError: Its head does more than these losses know, so that they would differ from the
            model's own.
    """
    ids = torch.arange(4, device=model.device)[None]
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    with evaluating(model):
        hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        own = model(ids, use_cache=False).logits.float()
    logits = _logits(hidden, model.get_output_embeddings().weight, softcap)
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
    """Mean cross entropy, computed a chunk of positions at a time, forward and backward.

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
    rows, targets = hidden.flatten(0, -2), labels.flatten()
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for chunk, wanted in zip(rows.split(chunk_tokens), targets.split(chunk_tokens), strict=True):
        total = total + checkpoint(
            _cross_entropy, chunk, lm_head_weight, wanted, softcap, use_reentrant=False
        )
    return total / (targets != IGNORED).sum()


@torch.no_grad()
def chunked_losses(
    hidden: Tensor,
    lm_head_weight: Tensor,
    labels: Tensor,
    chunk_tokens: int = 1024,
    *,
    softcap: float | None = None,
) -> Tensor:
    """The cross entropy of every position, [..., T] in float32, without gradients; 0 where a label
    does not count.

    Arguments as in `chunked_cross_entropy`.
    """
    rows, targets = hidden.flatten(0, -2), labels.flatten()
    parts = [
        _cross_entropy(chunk, lm_head_weight, wanted, softcap, "none")
        for chunk, wanted in zip(rows.split(chunk_tokens), targets.split(chunk_tokens), strict=True)
    ]
    return torch.cat(parts).view(labels.shape)


@torch.no_grad()
def likeliest(
    hidden: Tensor,
    lm_head_weight: Tensor,
    k: int,
    chunk_tokens: int = 1024,
    *,
    softcap: float | None = None,
) -> Likeliest:
    """What a teacher expects at each position of `hidden` [..., T, d], without gradients, a chunk
    at a time."""
    found = [
        _logits(chunk, lm_head_weight, softcap).log_softmax(-1).topk(k)
        for chunk in hidden.flatten(0, -2).split(chunk_tokens)
    ]
    shape = (*hidden.shape[:-1], k)
    log_probs, ids = (torch.cat([part[i] for part in found]).view(shape) for i in (0, 1))
    return Likeliest(ids, log_probs)


def chunked_divergence(
    hidden: Tensor,
    lm_head_weight: Tensor,
    teacher: Likeliest,
    chunk_tokens: int = 1024,
    *,
    softcap: float | None = None,
) -> Tensor:
    """Mean KL(teacher || student) over the teacher's k likeliest tokens, a chunk of positions at a
    time.

    All other tokens count as one event, so that the divergence is never below 0 and is 0 where the
    student agrees.

    Args:
        hidden: The student's states after the final norm, [..., T, d].
        lm_head_weight: [V, d].
        teacher: Its expectations, [..., T, k].
        chunk_tokens: Positions of a chunk.
        softcap: See `softcap_of`.

    Returns:
        A number in nats, float32.
    """
    rows, ids, log_probs = (
        hidden.flatten(0, -2),
        teacher.ids.flatten(0, -2),
        teacher.log_probs.flatten(0, -2),
    )
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    parts = zip(
        rows.split(chunk_tokens),
        ids.split(chunk_tokens),
        log_probs.split(chunk_tokens),
        strict=True,
    )
    for chunk, wanted, expected in parts:
        total = total + checkpoint(
            _diverged, chunk, lm_head_weight, wanted, expected, softcap, use_reentrant=False
        )
    return total / len(rows)


def checkpointing(model: Any, on: bool) -> None:
    """Turns gradient checkpointing of every layer on or off: backward computes each layer a second
    time."""
    # What newer releases of transformers 5 call it; the old name goes in 6.
    new = "activation_checkpointing"
    prefix = new if hasattr(model, f"{new}_enable") else "gradient_checkpointing"
    if on:
        getattr(model, f"{prefix}_enable")(**{f"{prefix}_kwargs": {"use_reentrant": False}})
    else:
        getattr(model, f"{prefix}_disable")()


def _logits(hidden: Tensor, weight: Tensor, softcap: float | None) -> Tensor:
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
    rest, rest_of_student = (1 - x.exp().sum(-1).clamp(max=1 - 1e-6) for x in (log_probs, student))
    return named + (rest * (rest.log() - rest_of_student.log())).sum()
