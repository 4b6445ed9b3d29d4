"""The Trainer of a compressor: a batch in several calls, checkpoints of what is trained alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainingArguments

from longreach.compressors.adapters import ADAPTER_CONFIG, adapter_folder
from longreach.compressors.objective import CompressorObjective
from longreach.compressors.recipe import Recipe
from longreach.compressors.shipped import SETTINGS_FILE
from longreach.errors import ModelError
from longreach.jsontext import parse_object
from longreach.training.common.checkpoints import explain_unreadable
from longreach.training.common.progress import Progress
from longreach.training.common.trainer import Indexed, RunTrainer


def load_compressor(objective: CompressorObjective, folder: Path) -> None:
    """Reads what `CompressorObjective.save` wrote, to resume training.

    Raises:
        ModelError: It is damaged, or of another shape.
    """
    with explain_unreadable(folder):
        objective.load(folder)


def begin_with(objective: CompressorObjective, recipe: Recipe, folder: Path) -> None:
    """Starts from what an earlier run trained.

    Raises:
        ModelError: The folder holds no compressor of this shape for this model.
    """
    refused = f"'{folder}' holds no compressor to start from"
    try:
        settings = parse_object((folder / SETTINGS_FILE).read_bytes())
        if settings["base_fingerprint"] != objective.base_fingerprint:
            raise ValueError("it was trained on another model")
        if settings["method"] != recipe.method:
            raise ValueError(f"it is of the method {settings['method']}")
        adapter = adapter_folder(folder) / ADAPTER_CONFIG
        lora = parse_object(adapter.read_bytes(), wide=True) if adapter.is_file() else {}
        if lora.get("lora_alpha", recipe.lora_alpha) != recipe.lora_alpha:
            raise ValueError(f"its lora_alpha is {lora['lora_alpha']}")
        load_compressor(objective, folder)
    except Exception as error:
        # The error of a checkpoint advises to delete it, which is wrong here: its cause is what
        # counts.
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise ModelError(
            f"{refused} ({reason}): give one of the same model, summary tokens and LoRA."
        ) from error


class CompressorTrainer(RunTrainer):
    """Goes backward after every call of a batch; all chance is drawn from (seed, step).

    A run that is resumed therefore draws the same.

    Args:
        objective: What is trained.
        args: Of transformers.
        samples: What is learned.
        collate: Makes a batch of samples.
        progress: Says how far it is.
        model_ref: The base model, for the checkpoints.
        own_rate: Learning rate of what is trained beside the adapter.
    """

    advice = "Train in another folder with a lower --learning-rate, or look at the data."
    in_order = False

    def __init__(
        self,
        objective: CompressorObjective,
        args: TrainingArguments,
        samples: Indexed,
        collate: Callable[..., dict[str, object]],
        progress: Progress,
        *,
        model_ref: str,
        own_rate: float,
    ) -> None:
        super().__init__(objective, args, samples, collate, progress)
        self.objective: CompressorObjective = objective
        self._model_ref = model_ref
        self._own_rate = own_rate
        self._parts: dict[str, list[Tensor]] = {}
        self._drawn = (-1, 0)

    def create_optimizer(self, *args: object, **options: object) -> torch.optim.Optimizer:
        """As in `transformers.Trainer`, without weight decay, and with `own_rate`."""
        if self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args)
            own = self.objective.own
            adapter = []
            for parameter in self.objective.parameters():
                if parameter.requires_grad and parameter is not own:
                    adapter.append(parameter)
            groups = [{"params": adapter}, {"params": [own], "lr": self._own_rate}]
            self.optimizer = kind(groups, **settings)
        return self.optimizer

    def learn(
        self,
        model: torch.nn.Module,
        inputs: dict[str, object],
        num_items_in_batch: Tensor | int | None,
    ) -> Tensor:
        """Runs forward and backward of all calls of a batch; returns their mean loss."""
        model.train()
        batch = {name: self._on_device(value) for name, value in inputs.items()}
        calls = self.objective.plan(batch, self._generator(), self.state.global_step)
        # Gradients add up, and are to be the mean over all calls and batches of a step.
        share = 1 / (len(calls) * self.current_gradient_accumulation_steps)
        total = torch.zeros((), device=self.args.device)
        before: dict[str, Tensor] = {}
        for number, call in enumerate(calls):
            last = number == len(calls) - 1
            # Processes meet once a batch.
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    done = model(**call, **before)
                self.accelerator.backward(done.loss * share)
            # Detached, so that the graph of a call is freed before the next one.
            before = {"vectors": done.vectors.detach()}
            total = total + done.loss.detach() * share
            for name, part in done.parts.items():
                self._parts.setdefault(name, []).append(part)
        return total

    def _on_device(self, value: object) -> object:
        """Returns tensors, alone or in a list, on the device of the model; all else as it is."""
        tensors = value[:1] if isinstance(value, list) else [value]
        if all(isinstance(tensor, Tensor) for tensor in tensors):
            return self._prepare_input(value)
        return value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss, each a mean since the last time, to what is logged."""
        if "loss" in logs:
            # Another process may have had a part that this one had not; all reduce the same ones in
            # the same order.
            names = sorted(set(gather_object([*self._parts])))
            # A single part would repeat the loss.
            if len(names) > 1:
                for name in names:
                    logs[name] = self._mean_part(name)
        self._parts.clear()
        super().log(logs, start_time)

    def _mean_part(self, name: str) -> float:
        """Returns the mean of a part of the loss over all processes, since it was last logged."""
        parts = [float(part) for part in self._parts.get(name, [])]
        found = torch.tensor([sum(parts), float(len(parts))], device=self.args.device)
        total, count = self.accelerator.reduce(found, "sum").tolist()
        return total / count

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes what was trained; the base model stays where it is."""
        if self.args.should_save:
            self.objective.save(Path(output_dir or str(self.args.output_dir)), self._model_ref)

    def load_weights(self, checkpoint: Path) -> None:
        """Reads what was trained out of a checkpoint."""
        self.objective.load(checkpoint)

    def _generator(self) -> torch.Generator:
        """Returns the chance of one batch.

        It is the same whenever the batch's step is run, and on however many processes that share
        the batches of a step.
        """
        step, batch = self._drawn
        again = step == self.state.global_step
        self._drawn = (self.state.global_step, batch + 1 if again else 0)
        number = self._drawn[1] * self.args.world_size + self.args.process_index
        seed = (self.args.seed * 1_000_003 + self._drawn[0]) * 100_003 + number
        return torch.Generator().manual_seed(seed % 2**63)
