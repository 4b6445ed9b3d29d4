"""LoRA layers that are trained: new ones, or those of a folder, in float32."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import LoraConfig, PeftModel, get_peft_model

from longreach.errors import UsageError
from longreach.models.hybrid.adapted import ADAPTER, read_json
from longreach.models.loading.lora import lay, lora_config, lora_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def base_of(trained: PeftModel) -> PreTrainedModel:
    """Returns the model that lies under an adapter, with the adapter's layers in it."""
    base: Any = trained.get_base_model()
    model: PreTrainedModel = base
    return model


def add_lora(
    model: PreTrainedModel,
    rank: int,
    *,
    alpha: int,
    dropout: float = 0.0,
    also: Sequence[str] = (),
    layers: Sequence[int] | None = None,
) -> PeftModel:
    """Returns the model under a new LoRA on its attention's projections.

    Args:
        model: A causal language model; its own weights become fixed.
        rank: Of the LoRA.
        alpha: Its scale, times the rank.
        dropout: Before it.
        also: Names of modules that are trained whole.
        layers: Indices of the layers that get the LoRA; None for all.

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
        layers_to_transform=None if layers is None else list(layers),
        modules_to_save=[*also] or None,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of tied embeddings, which are taken care of
        trained = get_peft_model(model, config)
    return _train_in_float32(trained)


def load_trainable_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Returns the model under the LoRA in `folder`, to be learned further.

    Raises:
        ModelError: The folder holds no such adapter.
    """
    weights = lora_weights(folder)
    config = lora_config(read_json(folder / ADAPTER), model, weights, folder)
    # Stored adapters are marked for inference only, which would have PEFT freeze them.
    config.inference_mode = False
    with warnings.catch_warnings():
        # PEFT asks transformers by a name that is going.
        warnings.filterwarnings(
            "ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning
        )
        return _train_in_float32(lay(model, config, weights, folder))


def _train_in_float32(trained: PeftModel) -> PeftModel:
    """Makes what is trained float32: the steps are smaller than bfloat16 can tell."""
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trained
