"""The loss of a causal language model at its own forward, without the logits of all positions.

The loss is computed inside the model's call, and not by whoever calls it, because DDP, FSDP,
autocast and PEFT all hang on that call: reaching past it to the decoder would train without them.

Shapes: R rows, T tokens, d hidden size.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils.generic import ModelOutput

from longreach.errors import ModelError
from longreach.models.decoder import decoder_of
from longreach.models.loss import (
    IGNORED,
    Likeliest,
    chunked_cross_entropy,
    chunked_divergence,
    chunked_hits,
    chunked_losses,
    likeliest,
)
from longreach.training.common.adapter import base_of

TEACHER_TOP = 20
_CHUNK_TOKENS = 1024
# Reductions that look at labels alone.
_REPLIES = ("replies", "likeliest")

Trained = PreTrainedModel | PeftModel
"""A causal language model that is trained, bare or under PEFT."""


@contextmanager
def chunked_loss(model: Trained, chunk_tokens: int = _CHUNK_TOKENS) -> Iterator[Trained]:
    """Gives the model, whose call with `labels` returns the loss alone while this lasts.

    `model(input_ids=, labels=, num_items_in_batch=)` gives an output with `loss`: the sum over
    labels divided by `num_items_in_batch`, or their mean; with `reduction="none"` {"losses": [R,
    T]} without gradients, where the t-th is that of predicting token t + 1 and what does not count
    is 0. Under sequence parallelism `shift_labels` come instead.

    Of labels alone, N in all, `reduction="replies"` gives {"losses": [N], "hits": [N]} (whether
    they are the likeliest tokens) and `reduction="likeliest"` the fields of a `Likeliest`, both
    without gradients. What the latter gave of another way of attending comes back as `teacher`, and
    the divergence from it is added to the loss, times `teacher_weight`.

    Args:
        model: A causal language model, bare or under PEFT.
        chunk_tokens: Positions whose logits exist at a time.

    Raises:
        ModelError: The model's logits are not just its LM head's.
    """
    inner = _bare(model)
    _check(inner)
    stock = inner.forward

    def forward(
        self: PreTrainedModel,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        reduction: str = "mean",
        teacher: Mapping[str, Tensor] | None = None,
        teacher_weight: float = 0.0,
        **kwargs: Any,
    ) -> ModelOutput | dict[str, Tensor]:
        if labels is None and shift_labels is None:
            return stock(input_ids=input_ids, **kwargs)
        # A KV cache would be held beside all that backward needs, and nobody reads it.
        kwargs["use_cache"] = False
        hidden = decoder_of(self)(input_ids=input_ids, **kwargs).last_hidden_state
        if shift_labels is None:
            assert labels is not None
            # Labels are moved, not states: these would be copied.
            shift_labels = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        weight = _head(self)
        if reduction == "none":
            return {"losses": chunked_losses(hidden, weight, shift_labels, chunk_tokens)}
        if reduction in _REPLIES or teacher is not None or _is_sparse(shift_labels):
            # A vocabulary of 49,000 is a fifth of a small model: no logits where no label counts.
            counts = shift_labels != IGNORED
            hidden = hidden[counts]
            shift_labels = shift_labels[counts]
        if reduction == "likeliest":
            return likeliest(hidden, weight, TEACHER_TOP, chunk_tokens)._asdict()
        if reduction == "replies":
            return {
                "losses": chunked_losses(hidden, weight, shift_labels, chunk_tokens),
                "hits": chunked_hits(hidden, weight, shift_labels, chunk_tokens),
            }
        loss = chunked_cross_entropy(hidden, weight, shift_labels, chunk_tokens)
        if teacher is not None:
            apart = chunked_divergence(hidden, weight, Likeliest(**teacher), chunk_tokens)
            loss = loss + teacher_weight * apart
        if num_items_in_batch is not None:
            # From a mean over these labels to their share of the whole step.
            loss = loss * ((shift_labels != IGNORED).sum() / num_items_in_batch)
        return CausalLMOutput(loss=loss)

    # On the instance, not on its class: other models of the class keep their own.
    inner.forward = types.MethodType(forward, inner)
    try:
        yield model
    finally:
        del inner.forward


def _is_sparse(labels: Tensor) -> bool:
    """Returns whether so few labels count that their states are better copied."""
    return 2 * int((labels != IGNORED).sum()) < labels.numel()


def put_together(model: Trained, whole: Mapping[str, Tensor]) -> None:
    """Gives a model that was cut over processes its whole weights again, to be saved.

    It cannot be called any more.

    Args:
        model: Bare or under PEFT.
        whole: Its state dict, gathered.
    """
    for name, tensor in whole.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if leaf in module._parameters:  # not by load_state_dict, whose hooks want the parts
            module._parameters[leaf] = torch.nn.Parameter(tensor, requires_grad=False)
    inner = _bare(model)
    # Each of the two was replaced by itself, and they would be saved as different tensors.
    if inner is model and inner.config.get_text_config().tie_word_embeddings:
        inner.get_output_embeddings().weight = inner.get_input_embeddings().weight


def _bare(model: Trained) -> PreTrainedModel:
    """Returns the model itself, without PEFT around it."""
    return base_of(model) if isinstance(model, PeftModel) else model


def _head(model: PreTrainedModel) -> Tensor:
    """Returns what makes logits.

    Tied to the embedding, it is what PEFT trains in that embedding's place.
    """
    tied = model.config.get_text_config().tie_word_embeddings
    head: Any = model.get_input_embeddings() if tied else model.get_output_embeddings()
    for part in head.modules():
        # Under PEFT a unit of its own, whole inside its own call only.
        if isinstance(part, FSDPModule):
            part.unshard()
    weight: Tensor = head.weight
    return weight


def _check(model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    reason = ""
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if not reason and getattr(config, name, None):
            reason = f" ({name})"
    head = None
    if hasattr(model, "get_output_embeddings"):
        head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None or reason:
        raise ModelError(
            f"A {type(model).__name__} cannot be trained here: its logits are not plain products"
            f" with its LM head{reason}; give a Llama, Mistral or Qwen model."
        )
