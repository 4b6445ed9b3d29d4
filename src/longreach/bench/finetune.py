"""Measures fine-tuning on compressed documents beside fine-tuning on their full text.

Both have the same model, questions and machine. A step reads vectors and does not make them: the
method compresses a document once, offline (LLoCO, arXiv 2404.07979, whose figure is 11.52x). What
that takes is measured as well, and spread over epochs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor

from longreach.bench.cases import FinetuneCase, check_source
from longreach.bench.timing import Progress, Times, measure
from longreach.compressors.autocompressor.compressor import AutoCompressor
from longreach.jsontext import JsonObject
from longreach.models.decoder import decoder_of, evaluating
from longreach.models.hybrid.convert import lengthen
from longreach.models.hybrid.sparse import pattern_of, plan_of
from longreach.models.loss import checkpointing, chunked_cross_entropy
from longreach.models.untrained import random_llama
from longreach.pattern import AttentionPattern, LayerPlan
from longreach.planning.plan import BACKWARD_ATTENTION, Shape
from longreach.planning.plan import shape as published
from longreach.training.extend import adapter
from longreach.training.extend.settings import ExtendSettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


GOAL = 11.5
PAPER = 11.52
_LORA = 8
_EPOCHS = (1, 3, 10)
_SEGMENT_TOKENS = 1536  # at most, as the published compressors read
# Of the free memory, for activations: others use a machine too.
_MEMORY_SHARE = 0.5

DEFINITIONS = {
    "step": (
        "forward, backward and AdamW of a LoRA of rank 8 on q, k, v, o; a question and its answer a"
        " document, whose tokens alone are predicted"
    ),
    "full": "the document's tokens before them",
    "vectors": "the document's summary vectors before them, made beforehand",
    "checkpointing": (
        "every layer computed again on the way back, in both or in neither: where the activations"
        " of full would take more than half of the free memory"
    ),
    "compression": "all vectors of the documents of a step, by an AutoCompressor on the same model",
    "flops": (
        "what a step executes: matrices twice (fixed weights get no gradients), attention 3.5"
        " times, LoRA and the LM head of predicted positions 3 times a forward pass, and what"
        " checkpointing computes again"
    ),
    "ideal_speedup": "the ratio of flops",
    "processor_speedup": (
        "the ratio of processor time, which others on a machine disturb less; of no meaning on"
        " a GPU"
    ),
    "epochs_to_pay": (
        "steps on each document, and so epochs with one question a document, after which"
        " compressing it has cost no more than it saved; null where it saves nothing"
    ),
    "speedup_after_epochs": "documents a second over those of full, the compression counted in",
    "peak_memory_bytes": (
        "most GPU memory allocated during the call, weights included; null on a CPU"
    ),
}


def run(
    case: FinetuneCase,
    *,
    shape: str | None = None,
    model: str | None = None,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress = lambda text: None,
) -> JsonObject:
    """Returns the times of steps on full texts, on vectors, and of compressing; see `DEFINITIONS`.

    Args:
        case: What is measured.
        shape: A published shape, with random weights.
        model: Or a model to load, full or hybrid.
        dtype: Of the weights; what is trained is float32.
        device: Where it runs.
        progress: Is told of each round.

    Raises:
        UsageError: Not exactly one of shape and model, or a number out of range.
    """
    check_source(shape, model)
    torch.manual_seed(0)
    base = _load(shape, model, case.window, dtype, device)
    sizes = Shape.of(base.config)
    compressor = _compressor(base, case)
    ids = torch.randint(sizes.vocab, (case.rows, case.whole), device=device)
    documents = ids[:, : case.length].tolist()
    # Made before anything is timed: a corpus has them from its ingest.
    with evaluating(base):
        vectors = torch.stack(compressor.compress(documents))
    again = _needs_checkpointing(sizes, case, dtype, device)
    trained = adapter.attach(
        base, ExtendSettings(length=case.window, lora_rank=_LORA), dtype
    ).train()
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-4)
    answers = ids[:, case.length :]
    embed = base.get_input_embeddings()
    inputs: dict[str, Callable[[], Tensor]] = {
        "full": lambda: embed(ids),
        "vectors": lambda: torch.cat([vectors, embed(answers)], dim=1),
    }

    def step(make: Callable[[], Tensor]) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            # Logits of the answer alone: nothing else is predicted.
            hidden = decoder_of(base)(inputs_embeds=make(), use_cache=False).last_hidden_state
            predicting = hidden[:, -1 - case.qa_tokens : -1]
            loss = chunked_cross_entropy(predicting, base.get_output_embeddings().weight, answers)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    def compress() -> None:
        with evaluating(base):
            compressor.compress(documents)

    losses: dict[str, float] = {}

    # Compressing has no loss.
    def inspect(name: str, result: Tensor | None) -> None:
        if result is not None:
            losses[name] = float(result)

    calls: dict[str, Callable[[], Tensor | None]] = {
        "full": partial(step, inputs["full"]),
        "vectors": partial(step, inputs["vectors"]),
        "compression": compress,
    }
    checkpointing(base, again)
    times = measure(calls, case.repeats, device, inspect=inspect, progress=progress)
    full = times["full"]
    ours = times["vectors"]
    once = times["compression"]
    positions = {"full": case.whole, "vectors": vectors.shape[1] + case.qa_tokens}
    flops = {}
    variants = {}
    for name, count in positions.items():
        flops[name] = case.rows * _flops(base.config, count, case.qa_tokens, again)
        variants[name] = _figures(times[name], case.rows) | {
            "positions": count,
            "flops": flops[name],
            "flops_per_second": flops[name] / times[name].median,
            "loss": losses[name],
        }
    ideal = flops["full"] / flops["vectors"]
    speedup = ours.speedup(full)
    variants["vectors"] |= {
        "speedup": speedup,
        "best_speedup": full.best / ours.best,
        "processor_speedup": ours.processor_speedup(full),
        "ideal_speedup": ideal,
        "achieved_over_ideal": speedup / ideal,
    }
    return {
        "bench": "finetune",
        "source": shape or model,
        "shape": asdict(sizes),
        "weights_bytes": sum(p.nbytes for p in base.parameters() if not p.requires_grad),
        "trained_parameters": sum(p.numel() for p in base.parameters() if p.requires_grad),
        "length_tokens": case.length,
        "qa_tokens": case.qa_tokens,
        "vectors": vectors.shape[1],
        "ratio": case.length / vectors.shape[1],
        "rows": case.rows,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "repeats": case.repeats,
        "checkpointing": again,
        "compressor": compressor.describe(),
        "goal": GOAL,
        "paper": PAPER,
        "variants": variants,
        "compression": _figures(once, case.rows) | amortised(full, ours, once),
        "rounds_seconds": {name: entry.seconds for name, entry in times.items()},
        "definitions": DEFINITIONS,
        "notes": [],
    }


def amortised(full: Times, ours: Times, once: Times) -> JsonObject:
    """Returns after how many epochs compressing has paid for itself, and what is gained by then.

    Both are medians over the rounds.
    """
    # Times of one round share its noise, since other load on the machine hits all three alike.
    rounds = list(zip(full.seconds, ours.seconds, once.seconds, strict=True))
    saved = statistics.median((f - o) / c for f, o, c in rounds)
    gained = {}
    for epochs in _EPOCHS:
        ratios = [epochs * f / (c + epochs * o) for f, o, c in rounds]
        gained[str(epochs)] = statistics.median(ratios)
    return {
        "epochs_to_pay": 1 / saved if saved > 0 else None,
        "speedup_after_epochs": gained,
    }


def _figures(times: Times, rows: int) -> JsonObject:
    return {
        "seconds": times.median,
        "best_seconds": times.best,
        "documents_per_second": rows / times.median,
        "peak_memory_bytes": times.peak_bytes,
    }


def _load(
    shape: str | None, model: str | None, window: int, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    if shape is not None:
        return random_llama(published(shape), window, dtype=dtype, device=device)
    from longreach.models.loading.load import load

    loaded, _ = load(str(model), device=str(device), dtype=dtype)
    lengthen(loaded, window)
    return loaded


def _compressor(model: PreTrainedModel, case: FinetuneCase) -> AutoCompressor:
    """Returns a compressor whose segments are equally long.

    A short last one would give as many vectors as any other, and spoil the ratio.
    """
    segments = math.ceil(case.length / _SEGMENT_TOKENS)
    tokens = math.ceil(case.length / segments)
    summary = max(1, round(tokens / case.ratio))
    # Untrained: speed does not depend on them.
    start = torch.randn(summary, model.config.hidden_size) * 0.02
    return AutoCompressor(
        model,
        None,  # type: ignore[arg-type]  # nothing is tokenized
        summary,
        tokens,
        embed_summary=start,
    )


def _needs_checkpointing(
    sizes: Shape, case: FinetuneCase, dtype: torch.dtype, device: torch.device
) -> bool:
    """Returns whether what backward needs of full texts would fill the memory."""
    gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if gpu else psutil.virtual_memory().available
    return (
        case.rows * case.whole * sizes.layers * sizes.layer_activations * dtype.itemsize
        > _MEMORY_SHARE * free
    )


def _flops(config: PretrainedConfig, positions: int, predicted: int, again: bool) -> int:
    """Returns the FLOPs that a step executes on one row; see `DEFINITIONS`."""
    s = Shape.of(config)
    # Checkpointing computes the forward pass of each layer again on the way back.
    forward = 2 if again else 1
    # Of a full model the pattern does not matter: no layer has it.
    layers = LayerPlan.make(s.layers, s.layers)
    pattern = AttentionPattern.sink_window()
    if getattr(config, "sparse_attention", None) is not None:
        layers = plan_of(config)
        pattern = pattern_of(config)
    attention = sum(layers.attention_flops(pattern, positions, s.heads, s.kv_heads, s.head_dim))
    # A multiplication and an addition for each weight.
    linear = 2 * s.layer_parameters * positions
    # q and o are between hidden and all heads, k and v between hidden and the KV heads.
    lora = 4 * _LORA * s.layers * (2 * s.hidden + s.head_dim * (s.heads + s.kv_heads)) * positions
    head = 3 * 2 * s.vocab * s.hidden * predicted  # its chunks are always computed again
    return round(
        linear * (forward + 1)
        + lora * (forward + 2)
        + attention * (forward + BACKWARD_ATTENTION)
        + head
    )
