"""LoRA on a model whose window is extended, with norms and embeddings where asked for; and back
into the model.

Paper: LongLoRA, "Efficient Fine-tuning of Long-Context Large Language Models", arXiv 2309.12307.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from longreach.errors import UsageError
from longreach.models.hybrid.adapted import ADAPTER, read_json
from longreach.models.loading.lora import lay, lora_config, lora_weights
from longreach.training.extend.settings import ExtendSettings

_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def attach(model: Any, settings: ExtendSettings, dtype: torch.dtype) -> Any:
    """The model under a new LoRA: its own weights in `dtype` and fixed, everything that is trained
    in float32.

    Raises:
        UsageError: The model's attention has no projections of the usual names.
    """
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    also = [name for name in sorted(names) if name.endswith("norm")] if settings.train_norms else []
    if settings.train_embeddings:
        # A tied head is the embedding: `objective` takes the trained one for both.
        tied = model.config.get_text_config().tie_word_embeddings
        also += ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    rank = settings.lora_rank
    return lora(model.to(dtype), rank, alpha=settings.lora_alpha or 2 * rank, also=also)


def lora(
    model: Any, rank: int, *, alpha: int, dropout: float = 0.0, also: Sequence[str] = ()
) -> Any:
    """The model under a new LoRA on its attention's projections; everything that is trained in
    float32.

    Args:
        model: A causal language model; its own weights become fixed.
        rank: Of the LoRA.
        alpha: Its scale, times the rank.
        dropout: Before it.
        also: Names of modules that are trained whole.

    Raises:
        UsageError: The model's attention has no projections of the usual names.
    """
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    if not names.issuperset(_TARGETS):
        raise UsageError(
            f"A {type(model).__name__} has no {', '.join(sorted({*_TARGETS} - names))} for LoRA:"
            " omit --lora-rank."
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_TARGETS,
        modules_to_save=[*also] or None,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of tied embeddings, which are taken care of
        trained = get_peft_model(model, config)
    return _in_float32(trained)


def begun(model: Any, folder: Path) -> Any:
    """The model under the LoRA in `folder`, to be learned further; everything that is trained in
    float32.

    Raises:
        ModelError: The folder holds no such adapter.
    """
    weights = lora_weights(folder)
    config = lora_config(read_json(folder / ADAPTER), model, weights, folder)
    config.inference_mode = False
    with warnings.catch_warnings():
        # PEFT asks transformers by a name that is going.
        warnings.filterwarnings(
            "ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning
        )
        return _in_float32(lay(model, config, weights, folder))


def _in_float32(trained: Any) -> Any:
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trained


def merge(trained: Any, folder: Path) -> Any:
    """Writes the adapter into `folder`, in PEFT's layout, and gives the model with it merged in."""
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    base = trained.get_base_model()
    config, dtype = base.config.get_text_config(), base.get_output_embeddings().weight.dtype
    tied = config.tie_word_embeddings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained.save_pretrained(aside)
        aside.rename(folder)
        model = trained.merge_and_unload()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    if tied:  # PEFT trained a copy of the embedding, and would leave the head as it was
        config.tie_word_embeddings = True
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    return model
