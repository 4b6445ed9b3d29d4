"""transformers' Trainer as every training has it: no step from a bad loss, whole checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import TrainOutput

from longreach.errors import TrainingError
from longreach.training.common.checkpoints import drop, explain_unreadable
from longreach.training.common.progress import Progress


class Indexed(Protocol):
    """Samples by their numbers: a list, or a data set of torch."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> object: ...


class RunTrainer(Trainer):
    """A Trainer that stops before a step that would spoil the weights, and says how far it is.

    Args:
        model: What is trained; called with a sample, it gives a loss.
        args: Of transformers; see `make_arguments`.
        samples: What is learned.
        collate: Makes a batch of samples.
        progress: Says how far it is.
        **options: Others of `transformers.Trainer`.
    """

    advice: ClassVar[str] = "Train in another folder with a lower --learning-rate."
    """What to do where a loss or gradients are not finite."""

    in_order: ClassVar[bool] = True
    """Whether samples are learned in the order of the data set, or in one that the seed draws."""

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        samples: Indexed,
        collate: Callable[..., dict[str, object]],
        progress: Progress,
        **options: Any,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=samples,
            data_collator=collate,
            callbacks=[StopAtBadGradients(self.advice), progress],
            **options,
        )
        self.remove_callback(PrinterCallback)  # it would print on stdout
        self._samples = samples
        self._progress = progress

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> torch.utils.data.Sampler[int] | None:
        if self.in_order:
            # The data set has an order of its own, by which a run is resumed.
            return torch.utils.data.SequentialSampler(self._samples)
        return super()._get_train_sampler(*args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in Trainer; the display ends whatever happens."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self._progress.close()

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, object],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Runs forward and backward of a batch; returns its loss.

        Raises:
            TrainingError: The loss is not a finite number; nothing has been learned from it. A
                checkpoint whose weights gave it is deleted.
        """
        loss = self.learn(model, inputs, num_items_in_batch)
        # The gradients of a bad loss are bad too, and go when the run stops: no step was taken.
        bad = (~torch.isfinite(loss)).float()
        if self.args.world_size > 1:  # all ranks stop, or they would wait for each other
            bad = self.accelerator.reduce(bad, "sum")
        if bad > 0:
            if self.is_world_process_zero():
                drop(Path(str(self.args.output_dir)), self.state.global_step)
            raise TrainingError(explain_not_finite("loss", self.state.global_step, self.advice))
        return loss

    def learn(
        self,
        model: torch.nn.Module,
        inputs: dict[str, object],
        num_items_in_batch: Tensor | int | None,
    ) -> Tensor:
        """Runs forward and backward of a batch; returns its loss, which may be bad."""
        return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in Trainer, with tokens a second."""
        if "loss" in logs:
            logs["tokens_per_second"] = round(self._progress.tokens_per_second, 1)
        super().log(logs, start_time)

    def load_weights(self, checkpoint: Path) -> None:
        """Reads what is trained out of a checkpoint."""
        super()._load_from_checkpoint(str(checkpoint))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        checkpoint = Path(resume_from_checkpoint)
        with explain_unreadable(checkpoint):
            self.load_weights(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with explain_unreadable(Path(str(checkpoint))):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        # Trainer's state comes next and makes the checkpoint whole: all processes have written
        # their parts by then.
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()


class StopAtBadGradients(TrainerCallback):
    """Stops before gradients that are not finite, though the loss was, get into the weights."""

    def __init__(self, advice: str) -> None:
        self.advice = advice

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Raises TrainingError."""
        norms = []
        # One number a tensor, looked at once: each look would wait for the GPU.
        for parameter in kwargs["model"].parameters():
            if parameter.grad is not None:
                norms.append(_own_part(parameter.grad).float().norm())
        found = torch.stack(norms) if norms else torch.zeros(1, device=args.device)
        bad = (~torch.isfinite(found).all()).float()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Where gradients are cut over ranks, only one may see it.
            torch.distributed.all_reduce(bad)
        if bad > 0:
            raise TrainingError(explain_not_finite("gradient", state.global_step, self.advice))


def explain_not_finite(what: str, step: int, advice: str) -> str:
    """Returns what to say where a loss or gradients are not finite after `step` good steps."""
    return (
        f"The {what} of step {step + 1} is not a finite number: training stopped before that step"
        f" was taken, and the last checkpoint is good, where there is one. {advice}"
    )


def _own_part(tensor: Tensor) -> Tensor:
    """Returns the part of a tensor that this process has."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
