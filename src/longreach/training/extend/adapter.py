"""LoRA on a model whose window is extended, with norms and embeddings where asked for; merging it.

Paper: LongLoRA, "Efficient Fine-tuning of Long-Context Large Language Models", arXiv 2309.12307.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel

from longreach.errors import UsageError
from longreach.models.hybrid.sparse import plan_of
from longreach.training.common.adapter import add_lora
from longreach.training.extend.settings import ExtendSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def attach(model: PreTrainedModel, settings: ExtendSettings, dtype: torch.dtype) -> PeftModel:
    """Returns the model under a new LoRA: its own weights fixed, in `dtype`, all else in float32.

    Raises:
        UsageError: The model's attention has no projections of the usual names.
    """
    also = list[str]()
    layers = None
    if settings.train_layers == "full":
        layers = full_layers(model)
    if settings.train_norms and layers is not None:
        for name, _ in model.get_decoder().named_modules():
            # The final norm stands behind all layers, and belongs to none of them.
            if name.endswith("norm") and name.startswith(tuple(f"layers.{n}." for n in layers)):
                also.append(name)
    elif settings.train_norms:
        names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
        also += sorted(name for name in names if name.endswith("norm"))
    if settings.train_embeddings:
        also.append("embed_tokens")
        # A tied head is the embedding: `objective` takes the trained one for both.
        if not model.config.get_text_config().tie_word_embeddings:
            also.append("lm_head")
    based: Any = model.to(dtype)  # type: ignore[arg-type]
    rank = settings.lora_rank
    return add_lora(based, rank, alpha=settings.lora_alpha or 2 * rank, also=also, layers=layers)


def full_layers(model: PreTrainedModel) -> tuple[int, ...]:
    """Returns the indices of a hybrid's full layers.

    Raises:
        UsageError: The model is no hybrid, or has no full layer.
    """
    if not getattr(model.config, "sparse_attention", None):
        raise UsageError(
            "--train-layers is full and the model is no hybrid: convert it first, or train all"
            " layers."
        )
    found = plan_of(model.config).full
    if not found:
        raise UsageError("--train-layers is full and the model has no full layer: train all.")
    return tuple(found)


def train_full_layers(model: PreTrainedModel) -> None:
    """Fixes all weights of a hybrid but those of its full layers."""
    layers: Any = model.get_decoder().layers
    model.requires_grad_(False)
    for index in full_layers(model):
        layers[index].requires_grad_(True)


def merge(trained: PeftModel, folder: Path) -> PreTrainedModel:
    """Writes the adapter into `folder`, in PEFT's layout; returns the model with it merged in."""
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    base: Any = trained.get_base_model()
    config = base.config.get_text_config()
    dtype = base.get_output_embeddings().weight.dtype
    tied = config.tie_word_embeddings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained.save_pretrained(str(aside))
        aside.rename(folder)
        model: Any = trained.merge_and_unload()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    if tied:  # PEFT trained a copy of the embedding, and would leave the head as it was
        config.tie_word_embeddings = True
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    return model
