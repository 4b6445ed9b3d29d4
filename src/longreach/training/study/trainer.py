"""The loss of answers behind vectors, and the Trainer whose checkpoints hold the adapter only.

Papers: Tan et al. 2024, LLoCO (arXiv 2404.07979), loss on the answer; Eyuboglu et al. 2025,
Cartridges (arXiv 2506.06266), divergence from what the model expects with the text itself in view.

Shapes: R rows, T positions, d hidden size, A tokens of answers, k likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longreach.models.decoder import adapters_off, decoder_of, evaluating, only_adapter
from longreach.models.loading.lora import fill, lora_weights
from longreach.models.loss import (
    IGNORED,
    Likeliest,
    chunked_cross_entropy,
    chunked_divergence,
    head_weight,
    likeliest,
    softcap_of,
)
from longreach.training.common.adapter import base_of
from longreach.training.common.trainer import RunTrainer

if TYPE_CHECKING:
    from peft import PeftModel

_TOP_K = 20
# What PEFT calls the adapter that it saves into a folder itself, not below it.
ADAPTER_NAME = "default"


class StudyObjective(torch.nn.Module):
    """A model under its adapter, which gives the loss of the answers of a sample of `StudyData`.

    Args:
        adapted: The PEFT model.

    Raises:
        ModelError: The model's logits are not those of one matrix.
    """

    # Trainer then says how many answer tokens a step has, over all its parts.
    accepts_loss_kwargs = True

    def __init__(self, adapted: PeftModel) -> None:
        super().__init__()
        self.adapted = adapted
        base = base_of(adapted)
        with adapters_off(base):
            self._softcap = softcap_of(base)

    def forward(
        self,
        inputs_embeds: Tensor,
        labels: Tensor,
        teacher_ids: Tensor | None = None,
        teacher_log_probs: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Computes the loss of a sample, a mean over the tokens of its answers.

        It is their cross entropy, or the divergence from what a teacher expects.

        Args:
            inputs_embeds: [R, T, d].
            labels: [R, T], -100 where no token of an answer stands.
            teacher_ids: The tokens that a teacher finds likeliest, [A, k].
            teacher_log_probs: Their logarithmic probabilities, [A, k].
            num_items_in_batch: Tokens of answers in the whole step.
        """
        states = self._states(inputs_embeds, labels)
        if teacher_ids is None or teacher_log_probs is None:
            loss = chunked_cross_entropy(
                states, self._head, labels[labels != IGNORED], softcap=self._softcap
            )
        else:
            teacher = Likeliest(teacher_ids, teacher_log_probs)
            loss = chunked_divergence(states, self._head, teacher, softcap=self._softcap)
        # The parts of a step are added up, so each counts by its share of the step's answer tokens.
        if num_items_in_batch is not None:
            loss = loss * (len(states) / num_items_in_batch)
        return {"loss": loss}

    @torch.no_grad()
    def expect(self, embeds: Tensor, labels: Tensor) -> Likeliest:
        """What the model without its adapter expects at each token of the answers, [A, k]."""
        base = base_of(self.adapted)
        with adapters_off(base), evaluating(base):
            states = self._states(embeds, labels)
            return likeliest(
                states, self._head, min(_TOP_K, len(self._head) - 1), softcap=self._softcap
            )

    @property
    def _head(self) -> Tensor:
        return head_weight(base_of(self.adapted))

    def _states(self, embeds: Tensor, labels: Tensor) -> Tensor:
        """The states [A, d], after the final norm, that predict the tokens of the answers."""
        decoder = decoder_of(base_of(self.adapted))
        states = decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state
        # Only these states reach the head: logits of whole prompts would be the largest tensor of a
        # step.
        return states[:, :-1][labels[:, 1:] != IGNORED]


class StudyTrainer(RunTrainer):
    """See `RunTrainer`; what is saved and loaded is the adapter.

    The adapter is on, and dropout too, while a step is learned; between two steps other threads may
    use the model.
    """

    advice = "Run the same command with a lower --learning-rate, or look at the questions."

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As in Trainer: of all that is trained, which an adapter is only while it is on."""
        with self._learning():
            return super().create_optimizer(*args, **kwargs)

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, object],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """As in `RunTrainer`: forward and backward in one go."""
        with self._learning():
            return super().training_step(model, inputs, num_items_in_batch)

    @contextmanager
    def _learning(self) -> Iterator[None]:
        with only_adapter(base_of(self._adapted), ADAPTER_NAME):
            try:
                yield
            finally:
                # Dropout must be off again before another thread reads with the model.
                self._adapted.eval()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the adapter in PEFT's layout; the model stays where it is."""
        if self.args.should_save:
            folder = output_dir or str(self.args.output_dir)
            self._adapted.save_pretrained(folder, selected_adapters=[ADAPTER_NAME])

    @property
    def _adapted(self) -> PeftModel:
        objective: Any = self.model
        adapted: PeftModel = objective.adapted
        return adapted

    def load_weights(self, checkpoint: Path) -> None:
        """Reads the adapter out of a checkpoint."""
        fill(self._adapted, lora_weights(checkpoint))
