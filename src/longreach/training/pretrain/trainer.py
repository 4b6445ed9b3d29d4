"""The Trainer of a compressor: substeps, small checkpoints, and what stops it. Floor 5.

<output>/checkpoint-<step>/  adapter_model.safetensors, adapter_config.json, compressor.json: a
compressor as it is
                             optimizer.pt, scheduler.pt, rng_state.pth, trainer_state.json:
                             Trainer's own complete: written last; without it a checkpoint was cut
                             off and does not count
"""

import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback

from longreach.compressors.adapters import ADAPTER_CONFIG, adapter_folder
from longreach.compressors.objective import CompressorObjective
from longreach.compressors.recipe import Recipe
from longreach.compressors.shipped import SETTINGS_FILE
from longreach.errors import ModelError, TrainingError
from longreach.jsontext import parse_object
from longreach.training.common import run
from longreach.training.common.frame import clock, stderr
from longreach.training.common.trainer import StopAtBadGradients, not_finite

COMPLETE = "complete"
_ADVICE = "Train in another folder with a lower --learning-rate, or look at the data."


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint was written at."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    found = (path for path in folder.glob("checkpoint-*") if path.name.rsplit("-", 1)[1].isdigit())
    return sorted((path for path in found if (path / COMPLETE).is_file()), key=step_of)


def drop_incomplete(folder: Path) -> None:
    """Removes checkpoints that a killed process did not finish writing."""
    for path in set(folder.glob("checkpoint-*")) - set(checkpoints(folder)):
        shutil.rmtree(path, ignore_errors=True)


def load_compressor(objective: CompressorObjective, folder: Path) -> None:
    """Reads what `CompressorObjective.save` wrote, to go on training.

    Raises:
        ModelError: it is damaged, or of another shape.
    """
    with run.reading(folder):
        objective.load(folder)


def begin_with(objective: CompressorObjective, recipe: Recipe, folder: Path) -> None:
    """Starts from what an earlier run trained.

    Raises:
        ModelError: the folder holds no compressor of this shape for this model.
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
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise ModelError(
            f"{refused} ({reason}): give one of the same model, summary tokens and LoRA."
        ) from error


class CompressorTrainer(transformers.Trainer):
    """Backward after every substep; k and the cuts drawn from (seed, step), so that a resumed run
    draws the same.

    Args:
        objective: what is trained.
        model_ref: the base model, for the checkpoints.
        row_tokens: tokens of one row of a batch, on average.
        summary_lr: learning rate of the summary embeddings.
        progress: show tokens, tokens per second, time left and loss on stderr.
        **options: of `transformers.Trainer`.
    """

    def __init__(
        self,
        objective: CompressorObjective,
        *,
        model_ref: str,
        row_tokens: int,
        summary_lr: float,
        progress: bool,
        **options: Any,
    ) -> None:
        super().__init__(model=objective, **options)
        self.row_tokens, self.summary_lr = row_tokens, summary_lr
        self.objective: CompressorObjective = objective
        self.model_ref = model_ref
        self._parts: dict[str, list[torch.Tensor]] = {}
        self._drawn = (-1, 0)
        self.remove_callback(PrinterCallback)  # it prints on stdout
        self.add_callback(StopAtBadGradients(_ADVICE))
        self.add_callback(_Marker())
        self._progress = _Progress(self, progress)
        self.add_callback(self._progress)

    @property
    def tokens_a_step(self) -> int:
        """Tokens of all rows of one optimiser step, over all processes."""
        args = self.args
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return rows * self.row_tokens

    def create_optimizer(self, *args: Any, **options: Any) -> Any:
        """As in `transformers.Trainer`, without weight decay, and with a learning rate of their own
        for embeddings."""
        if self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args)
            own = self.objective.own
            adapter = [p for p in self.objective.parameters() if p.requires_grad and p is not own]
            self.optimizer = kind(
                [{"params": adapter}, {"params": [own], "lr": self.summary_lr}], **settings
            )
        return self.optimizer

    def train(self, *args: Any, **options: Any) -> Any:
        """As in `transformers.Trainer`; the bar ends its line whatever happens."""
        try:
            return super().train(*args, **options)
        finally:
            self._progress.close()

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Runs forward and backward of all calls of a batch; returns their mean loss."""
        model.train()
        batch = {name: self._on_device(value) for name, value in inputs.items()}
        calls = self.objective.plan(batch, self._generator(), self.state.global_step)
        share = 1 / (len(calls) * self.current_gradient_accumulation_steps)
        total = torch.zeros((), device=self.args.device)
        before: dict[str, torch.Tensor] = {}
        for number, call in enumerate(calls):
            last = number == len(calls) - 1
            # Processes meet once a batch.
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    done = model(**call, **before)
                stop_unless_finite(done.loss, self.args, self.state)
                self.accelerator.backward(done.loss * share)
            before = {"vectors": done.vectors.detach()}
            total = total + done.loss.detach() * share
            self.count(done.parts)
        return total

    def _on_device(self, value: Any) -> Any:
        """Returns tensors, alone or in a list, on the device of the model; all else as it is."""
        tensors = value[:1] if isinstance(value, list) else [value]
        if all(isinstance(tensor, torch.Tensor) for tensor in tensors):
            return self._prepare_input(value)
        return value

    def count(self, parts: dict[str, torch.Tensor]) -> None:
        """Takes the parts of a loss into the means that are logged next."""
        for name, part in parts.items():
            self._parts.setdefault(name, []).append(part)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss, each a mean since the last time, to what is logged."""
        if "loss" in logs:
            # Another process may have had a part that this one had not; all reduce the same ones in
            # the same order.
            names = sorted(set(gather_object([*self._parts])))
            for name in names if len(names) > 1 else ():
                parts = self._parts.get(name, [])
                found = torch.tensor(
                    [sum(map(float, parts)), float(len(parts))], device=self.args.device
                )
                total, count = self.accelerator.reduce(found, "sum").tolist()
                logs[name] = total / count
        self._parts.clear()
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the adapter and the summary embeddings; the base model stays where it is."""
        if self.args.should_save:
            self.objective.save(Path(output_dir or str(self.args.output_dir)), self.model_ref)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_compressor(self.objective, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with run.reading(Path(str(checkpoint))):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _generator(self) -> torch.Generator:
        """Chance for one batch, whenever its step is run, and on however many processes that share
        its batches."""
        step, batch = self._drawn
        self._drawn = (self.state.global_step, batch + 1 if step == self.state.global_step else 0)
        number = self._drawn[1] * self.args.world_size + self.args.process_index
        seed = (self.args.seed * 1_000_003 + self._drawn[0]) * 100_003 + number
        return torch.Generator().manual_seed(seed % 2**63)


def stop_unless_finite(loss: torch.Tensor, args: Any, state: Any) -> None:
    """Raises TrainingError before a bad loss gets into the weights, and drops the checkpoint that
    gave it."""
    if not torch.isfinite(loss):
        gave = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        (gave / COMPLETE).unlink(missing_ok=True)
        if state.is_world_process_zero:  # who may still be writing it
            shutil.rmtree(gave, ignore_errors=True)
        raise TrainingError(not_finite("loss", state.global_step, _ADVICE))


class _Marker(TrainerCallback):
    """Marks checkpoints that were written to the end."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


class _Progress(TrainerCallback):
    """A bar in tokens on stderr: tokens per second, time left, loss; a line now and then where that
    is no terminal."""

    every_seconds = 2.0

    def __init__(self, trainer: CompressorTrainer, shown: bool) -> None:
        self.trainer, self.shown = trainer, shown
        self.bar: tqdm | None = None
        self._began = self._spoke = 0.0
        self._first = 0

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        tokens = self.trainer.tokens_a_step
        self.shown = self.shown and state.is_world_process_zero
        self._began, self._first = time.perf_counter(), state.global_step
        self.bar = tqdm(
            total=state.max_steps * tokens,
            initial=state.global_step * tokens,
            unit="tok",
            unit_scale=True,
            desc="pretrain",
            file=sys.stderr,
            # None: shown on a terminal only.
            disable=None if self.shown else True,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.bar is not None
        self.bar.update(self.trainer.tokens_a_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if self.bar is not None and logs and "loss" in logs:
            said = f"step {state.global_step} loss {logs['loss']:.4f}"
            self.bar.set_postfix_str(said)
            if self.bar.disable and self.shown:
                self._say(said, state)

    def _say(self, said: str, state: Any) -> None:
        now, done = time.perf_counter(), state.global_step - self._first
        if now - self._spoke < self.every_seconds and state.global_step < state.max_steps:
            return
        self._spoke = now
        rate = done * self.trainer.tokens_a_step / max(1e-9, now - self._began)
        left = (now - self._began) / max(1, done) * (state.max_steps - state.global_step)
        stderr(
            f"pretrain: {said} of {state.max_steps:,} steps, {rate:,.0f} tok/s, {clock(left)} left"
        )
