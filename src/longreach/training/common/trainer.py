"""transformers' Trainer for long rows: stops before a bad step, tests by position, says how far it
is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from longreach.errors import TrainingError
from longreach.models.perplexity import bucket_sums, buckets, perplexity
from longreach.training.common.frame import clock
from longreach.training.extend.data import only
from longreach.wording import printable


class LongTrainer(Trainer):
    """A Trainer whose samples are whole batches and whose test is perplexity by position.

    Args:
        model: With the loss of `objective.chunked_loss`.
        args: Of transformers.
        samples: What is learned, in order: a data set of whole batches, such as `Samples`.
        held_out: Token ids of documents that it is tested on, each one row.
        length: Target length in tokens.
        progress: Says how far it is.
    """

    advice = "Train in another folder with a lower --learning-rate, or look at the data there."

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        samples: Any,
        held_out: Sequence[NDArray[np.int64]],
        length: int,
        progress: Progress,
    ) -> None:
        self._samples = samples
        super().__init__(
            model=model,
            args=args,
            train_dataset=samples,
            # Trainer wants one; `evaluate` below reads rows.
            eval_dataset=[{"tokens": len(row)} for row in held_out],
            data_collator=only,
            callbacks=[StopAtBadGradients(self.advice), progress],
        )
        self.remove_callback(PrinterCallback)  # it would print on stdout
        self._held_out, self._length, self._progress = held_out, length, progress

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> torch.utils.data.Sampler[int]:
        """As they come: the order is in the samples."""
        return torch.utils.data.SequentialSampler(self._samples)

    def training_step(
        self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """As in Trainer.

        Raises:
            TrainingError: The loss is not a finite number; nothing has been learned from it.
        """
        loss = super().training_step(model, inputs, *args, **kwargs)
        bad = (~torch.isfinite(loss)).float()
        if self.args.world_size > 1:  # all ranks stop, or they would wait for each other
            bad = self.accelerator.reduce(bad, "sum")
        if bad > 0:
            raise TrainingError(not_finite("loss", self.state.global_step, self.advice))
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in Trainer, with tokens a second."""
        if "loss" in logs:
            logs["tokens_per_second"] = round(self._progress.tokens_per_second, 1)
        super().log(logs, *args, **kwargs)

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Perplexity on the held-out rows, by the position of the token that is predicted.

        Returns:
            `eval_loss`, `eval_perplexity`, and `eval_perplexity_0-1024`,
            `eval_perplexity_1024-2048`, ...
        """
        model: Any = self.model_wrapped if self.is_in_train else self.model
        was_training = model.training
        model.eval()
        ranks, rank = self.args.world_size, self.args.process_index
        spans = buckets(self._length)
        sums = torch.zeros(len(spans), 2, dtype=torch.float64, device=self.args.device)
        for turn in range(-(-len(self._held_out) // ranks)):
            index = turn * ranks + rank
            # Every rank makes the same number of calls, because FSDP's calls wait for each other.
            row = torch.from_numpy(self._held_out[min(index, len(self._held_out) - 1)])[None].to(
                self.args.device
            )
            losses = model(input_ids=row, labels=row, reduction="none")["losses"][0]
            if index < len(self._held_out):
                sums += bucket_sums(losses, spans)
        if ranks > 1:
            sums = self.accelerator.reduce(sums, "sum")
        model.train(was_training)
        metrics = _perplexities(spans, sums.tolist())
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def _perplexities(spans: list[tuple[int, int]], sums: list[list[float]]) -> dict[str, float]:
    total, count = (sum(column) for column in zip(*sums, strict=True))
    metrics = {"eval_loss": total / count, "eval_perplexity": perplexity(total, count)}
    for (start, stop), (loss, tokens) in zip(spans, sums, strict=True):
        if tokens:
            metrics[f"eval_perplexity_{start}-{stop}"] = perplexity(loss, tokens)
    return metrics


def not_finite(what: str, step: int, advice: str) -> str:
    """What to say where a loss or gradients are not finite after so many good steps."""
    return (
        f"The {what} of step {step + 1} is not a finite number: training stopped before that step"
        f" was taken, and the last checkpoint is good, where there is one. {advice}"
    )


class StopAtBadGradients(TrainerCallback):
    """Stops where gradients are not finite although the loss was, before they get into the
    weights."""

    def __init__(self, advice: str) -> None:
        self.advice = advice

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raises TrainingError."""
        found = [
            parameter.grad
            for parameter in kwargs["model"].parameters()
            if parameter.grad is not None
        ]
        norms = (
            torch.stack([_local(grad).float().norm() for grad in found])
            if found
            else torch.zeros(1, device=args.device)
        )
        bad = (~torch.isfinite(norms).all()).float().to(norms.device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Where gradients are cut over ranks, only one may see it.
            torch.distributed.all_reduce(bad)
        if bad > 0:
            raise TrainingError(not_finite("gradient", state.global_step, self.advice))


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class Counted(Protocol):
    """Says how many tokens each sample of a run learns."""

    def tokens(self, sample: int) -> int: ...  # noqa: D102


class Progress(TrainerCallback):
    """Says after steps and tests how things stand: loss, tokens a second, time left.

    Args:
        say: Is told a line at a time; None for stderr.
        order: Of the run, or what else counts its tokens.
        per_step: Samples of a step, all ranks together.
        every_seconds: Not more often, except for the last step and tests.
    """

    def __init__(
        self,
        say: Callable[[str], None] | None,
        order: Counted,
        per_step: int,
        every_seconds: float = 2.0,
    ):
        self._say = say or (lambda text: print(printable(text), file=sys.stderr, flush=True))
        self._order, self._per_step, self._every = order, per_step, every_seconds
        self._began = self._spoke = 0.0
        self._first = 0
        self.tokens_per_second = 0.0
        self.tokens = 0  # of this session

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._began, self._first = time.perf_counter(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Counts."""
        first = (state.global_step - 1) * self._per_step
        self.tokens += sum(self._order.tokens(first + index) for index in range(self._per_step))
        self.tokens_per_second = self.tokens / (time.perf_counter() - self._began)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Speaks."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        now, done = time.perf_counter(), state.global_step
        if now - self._spoke < self._every and done < state.max_steps:
            return
        self._spoke = now
        left = (now - self._began) / max(1, done - self._first) * (state.max_steps - done)
        self._say(
            f"step {done}/{state.max_steps}  loss {logs['loss']:.4f}  {self.tokens_per_second:,.0f}"
            f" tokens/s  lr {logs.get('learning_rate', 0):.2e}  {clock(left)} left"
        )

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Speaks."""
        if state.is_world_process_zero and metrics:
            parts = [
                f"{key.rsplit('_', 1)[1]}: {value:.2f}"
                for key, value in metrics.items()
                if "-" in key
            ]
            self._say(
                f"step {state.global_step}  perplexity {metrics['eval_perplexity']:.2f} "
                f" ({', '.join(parts)})"
            )
