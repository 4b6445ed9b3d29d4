"""The Trainer of long rows, whose test is perplexity by position, and replies where rows ask."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import TrainingArguments

from longreach.models.hybrid.switched import all_full, narrowed
from longreach.models.loss import Likeliest
from longreach.models.perplexity import bucket_sums, buckets, perplexity
from longreach.training.common.progress import Progress
from longreach.training.common.trainer import RunTrainer
from longreach.training.extend.data import only
from longreach.training.extend.objective import Trained
from longreach.training.extend.schedule import ScheduledSamples, TestRow, label_replies


class LongTrainer(RunTrainer):
    """A Trainer whose samples are whole batches and whose test is perplexity by position.

    Args:
        model: With the loss of `objective.chunked_loss`.
        args: Of transformers.
        samples: What is learned, in order.
        held_out: Token ids of documents that it is tested on, each one row.
        length: Target length in tokens.
        progress: Says how far it is.
        tests: Rows whose replies it is tested on.
        teacher_weight: Of the divergence from the untrained model with all layers full.
        alike: Whether each sample counts the same, instead of each label.
    """

    advice = "Train in another folder with a lower --learning-rate, or look at the data there."

    def __init__(
        self,
        model: Trained,
        args: TrainingArguments,
        samples: ScheduledSamples,
        held_out: Sequence[NDArray[np.int64]],
        length: int,
        progress: Progress,
        *,
        tests: Sequence[TestRow] = (),
        teacher_weight: float = 0.0,
        alike: bool = False,
    ) -> None:
        # Trainer wants a data set to test on; `evaluate` below reads rows.
        rows = [{"tokens": len(row)} for row in held_out]
        rows += [{"tokens": len(test.row.ids)} for test in tests]
        super().__init__(model, args, samples, only, progress, eval_dataset=rows)
        self._held_out = held_out
        self._length = length
        self._tests = tests
        self._teacher_weight = teacher_weight
        self._alike = alike

    def learn(
        self,
        model: torch.nn.Module,
        inputs: dict[str, object],
        num_items_in_batch: Tensor | int | None,
    ) -> Tensor:
        """Runs forward and backward of a sample, with its own window; returns its loss."""
        known = _take_known(inputs)
        if known.asked and self._teacher_weight:
            # Its tensors by name, because Trainer takes tuples apart.
            inputs |= {"teacher": self._teach(model, inputs)._asdict()}
            inputs["teacher_weight"] = self._teacher_weight
        if self._alike:
            # A mean of each sample: ten replies count as much as a thousand tokens of prose.
            num_items_in_batch = None
        # Backward is inside: checkpointed layers attend again there.
        with _windowed(self.model, known.window):
            return super().learn(model, inputs, num_items_in_batch)

    def _teach(self, model: torch.nn.Module, inputs: dict[str, object]) -> Likeliest:
        """Returns what the untrained model expects of replies with all layers full."""
        trained: Any = self.model
        given = self._prepare_inputs(inputs)
        with (
            torch.no_grad(),
            all_full(trained),
            trained.disable_adapter(),
            self.compute_loss_context_manager(),
        ):
            return Likeliest(**model(**given, reduction="likeliest"))

    @torch.no_grad()
    def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        """Returns the perplexity on the held-out rows, by the position of the predicted token.

        Its names are `eval_loss`, `eval_perplexity`, and `eval_perplexity_0-1024`,
        `eval_perplexity_1024-2048`, ...; where rows ask, also `eval_reply_loss` and
        `eval_replies_right`.
        """
        # Under FSDP weights are whole inside calls of the wrapped model only.
        model: Any = self.model_wrapped if self.is_in_train else self.model
        was_training = model.training
        model.eval()
        metrics = dict[str, float]()
        if self._held_out:
            metrics |= self._measure_perplexity(model)
        if self._tests:
            metrics |= self._measure_replies(model)
        model.train(was_training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _measure_perplexity(self, model: Any) -> dict[str, float]:
        ranks = self.args.world_size
        spans = buckets(self._length)
        sums = torch.zeros(len(spans), 2, dtype=torch.float64, device=self.args.device)
        for turn in range(-(-len(self._held_out) // ranks)):
            index = turn * ranks + self.args.process_index
            # Every rank makes the same number of calls, because FSDP's calls wait for each other.
            row = self._held_out[min(index, len(self._held_out) - 1)]
            ids = torch.from_numpy(row)[None].to(self.args.device)
            losses = model(input_ids=ids, labels=ids, reduction="none")["losses"][0]
            # The row of a rank that has none left was read for company, and counts nothing.
            if index < len(self._held_out):
                sums += bucket_sums(losses, spans)
        if ranks > 1:
            sums = self.accelerator.reduce(sums, "sum")
        return _perplexities(spans, sums.tolist())

    def _measure_replies(self, model: Any) -> dict[str, float]:
        """Returns the mean loss of a reply's tokens, and the share of replies that are all right.

        Every rank reads all rows, which are few.
        """
        losses = list[float]()
        right = list[bool]()
        for row, window in self._tests:
            ids = torch.from_numpy(row.ids)[None].to(self.args.device)
            labels = label_replies(row)[None].to(self.args.device)
            with (
                _windowed(self.model, window),
                self.compute_loss_context_manager(),
            ):
                found = model(input_ids=ids, labels=labels, reduction="replies")
            losses += found["losses"].tolist()
            hits = found["hits"].tolist()
            for reply in row.replies:
                tokens = reply.tokens.stop - reply.tokens.start
                right.append(all(hits[:tokens]))
                del hits[:tokens]
        return {
            "eval_reply_loss": sum(losses) / len(losses),
            "eval_replies_right": sum(right) / len(right),
        }


class _Known(NamedTuple):
    """What a sample says of itself, beside its tensors."""

    window: int
    asked: bool


def _take_known(inputs: dict[str, object]) -> _Known:
    """Takes out of a sample what its model must not get."""
    window: Any = inputs.pop("window")
    asked: Any = inputs.pop("asked")
    return _Known(int(window), bool(asked))


def _windowed(model: object, window: int) -> AbstractContextManager[None]:
    """Gives sparse layers a window of so many tokens while it lasts; their own where it is 0."""
    return narrowed(model, window) if window else nullcontext()


def _perplexities(spans: list[tuple[int, int]], sums: list[list[float]]) -> dict[str, float]:
    loss, count = np.sum(sums, axis=0).tolist()
    metrics = {"eval_loss": loss / count, "eval_perplexity": perplexity(loss, count)}
    for (start, stop), (part, tokens) in zip(spans, sums, strict=True):
        if tokens:
            metrics[f"eval_perplexity_{start}-{stop}"] = perplexity(part, tokens)
    return metrics
