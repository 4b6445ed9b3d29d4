"""What a compressor learns from: the contract between a method and `pretrain`.

A method's objective is a torch module around the base model. The trainer asks it which calls a
batch takes, calls it that often, goes backward after each call, and has it write what was trained.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from longreach.compressors.recipe import ADAPTED, Recipe
from longreach.errors import ModelError, UsageError
from longreach.models.fingerprint import base_fingerprint
from longreach.models.loss import head_weight, softcap_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Asked(Protocol):
    """A question and every answer that is right."""

    @property
    def question(self) -> str: ...  # noqa: D102

    @property
    def answers(self) -> Sequence[str]: ...  # noqa: D102


class LearnedText(Protocol):
    """A text, and what is asked about it."""

    @property
    def text(self) -> str: ...  # noqa: D102

    @property
    def questions(self) -> Sequence[Asked]: ...  # noqa: D102


class Substep(NamedTuple):
    """What comes of one call.

    Attributes:
        loss: What to go backward from; the sum of the parts, weighted.
        parts: Each loss by name, a mean over the tokens that it counts, detached.
        vectors: All vectors of the document so far, [B, P, d], for the next call of the batch;
            empty where it needs none.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    vectors: Tensor


class CompressorObjective(torch.nn.Module, ABC):
    """A model with what a method trains on it.

    Args:
        model: The base model.
        tokenizer: Its tokenizer.
        recipe: How it is trained.

    Attributes:
        base_fingerprint: Of the model, before anything is laid over it.
        rows: Token ids of each text, where it learns from texts with questions.
    """

    rows: Sequence[Sequence[int]] = ()

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", recipe: Recipe
    ) -> None:
        super().__init__()
        self.base_fingerprint = base_fingerprint(model, tokenizer)

    @property
    @abstractmethod
    def own(self) -> Tensor:
        """What is trained beside the model's adapter, at a learning rate of its own."""

    @abstractmethod
    def save(self, folder: Path, model_ref: str) -> None:
        """Writes what was trained, as `from_pretrained` of the compressor reads it.

        `compressor.json` comes last: a folder that has it is whole. It names the `method`, the
        base `model` and its `base_fingerprint`.

        Args:
            folder: Made where it is missing.
            model_ref: The base model, as `longreach.load` takes it.
        """

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Reads what `save` wrote, to resume training.

        Raises:
            Exception: Of any type, where it is damaged or of another shape.
        """

    @abstractmethod
    def plan(
        self, batch: Mapping[str, Any], chance: torch.Generator, step: int
    ) -> list[dict[str, object]]:
        """Returns the arguments of `forward` for each call that a batch takes.

        From the second call on `vectors` is added: those of the call before, detached.

        Args:
            batch: `ids` [B, T], rows of tokens; or `texts`, token ids [T_i] of each text, and
                `questions` about each.
            chance: Everything random comes from it, so that a resumed run draws the same.
            step: Of the optimizer.
        """


class AdaptedObjective(CompressorObjective):
    """A model that learns through LoRA layers, which are laid over it in place.

    Its own weights are frozen. Arguments are those of `CompressorObjective`.

    Attributes:
        adapted: The model with its LoRA layers.
        cue: What asks for a text that was read as vectors: the EOS embedding [d] before training.

    Raises:
        UsageError: The tokenizer has no EOS token.
        ModelError: The model cannot be trained so.
    """

    adapted: PeftModel
    cue: Tensor

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", recipe: Recipe
    ) -> None:
        super().__init__(model, tokenizer, recipe)
        if tokenizer.eos_token_id is None:
            raise UsageError("The tokenizer has no EOS token: give it one.")
        self._softcap = softcap_of(model)
        self.adapted = lay_lora(model, recipe)
        embed: Any = model.get_input_embeddings()
        end = embed.weight[tokenizer.eos_token_id]
        self.register_buffer("cue", end.detach().clone(), persistent=False)

    @property
    def model(self) -> "PreTrainedModel":
        """The causal language model, adapted."""
        base: Any = self.adapted.get_base_model()
        model: PreTrainedModel = base
        return model

    @property
    def _head(self) -> Tensor:
        return head_weight(self.model)


def lay_lora(model: "PreTrainedModel", recipe: Recipe) -> PeftModel:
    """Lays LoRA layers over a model, in place; its own weights are frozen.

    Raises:
        ModelError: The model carries adapters already, or has no such layers.
    """
    # A LoRA over another one could not be told from it when it is saved.
    if getattr(model, "peft_config", None):
        raise ModelError("The model carries PEFT adapters: merge or delete them before training.")
    lora = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=list(ADAPTED[recipe.lora_targets]),
        modules_to_save=None,
    )
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that is going.
            warnings.filterwarnings(
                "ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning
            )
            adapted: Any = get_peft_model(model, lora)
    except ValueError as error:
        names = ", ".join(ADAPTED[recipe.lora_targets])
        raise ModelError(f"{type(model).__name__} has no {names} to adapt: use another.") from error
    # Autocast does it, where PEFT would go through float32.
    if next(model.parameters()).dtype == torch.bfloat16:
        for module in adapted.modules():
            if isinstance(module, BaseTunerLayer):
                module.cast_input_dtype_enabled = False  # type: ignore[attr-defined]
    return adapted
