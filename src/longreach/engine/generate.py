"""Whole answers of several prompts, by the engine of their model."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from longreach.engine.engine import engine_of
from longreach.engine.request import Handle, Request, Written
from longreach.engine.sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def write_all(
    model: "PreTrainedModel",
    prompts: Sequence[torch.Tensor],
    stops: frozenset[int],
    sampling: Sampling,
    *,
    adapter: str | None = None,
    began: float | None = None,
    chunk_tokens: int | None = None,
) -> list[Written]:
    """Returns the answers to prompts that are worked on together, in their order.

    Args:
        model: A causal language model.
        prompts: Embeddings, [T_i, d] each.
        stops: Token ids that end an answer.
        sampling: How tokens are chosen.
        adapter: Name of the adapter that is on; None for none.
        began: When the answers were asked for, on `time.perf_counter`; None for now.
        chunk_tokens: Positions of a prompt read at a time at most.
    """
    began = time.perf_counter() if began is None else began
    engine = engine_of(model)
    handles: list[Handle] = []
    for prompt in prompts:
        request = Request(prompt, sampling, stops, adapter, chunk_tokens=chunk_tokens, began=began)
        handles.append(engine.submit(request))
    return [handle.result() for handle in handles]
