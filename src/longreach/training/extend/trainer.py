"""The Trainer of long rows, whose test is perplexity by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainingArguments

from longreach.models.perplexity import bucket_sums, buckets, perplexity
from longreach.training.common.progress import Progress
from longreach.training.common.trainer import RunTrainer
from longreach.training.extend.data import Samples, only
from longreach.training.extend.objective import Trained


class LongTrainer(RunTrainer):
    """A Trainer whose samples are whole batches and whose test is perplexity by position.

    Args:
        model: With the loss of `objective.chunked_loss`.
        args: Of transformers.
        samples: What is learned, in order.
        held_out: Token ids of documents that it is tested on, each one row.
        length: Target length in tokens.
        progress: Says how far it is.
    """

    advice = "Train in another folder with a lower --learning-rate, or look at the data there."

    def __init__(
        self,
        model: Trained,
        args: TrainingArguments,
        samples: Samples,
        held_out: Sequence[NDArray[np.int64]],
        length: int,
        progress: Progress,
    ) -> None:
        # Trainer wants a data set to test on; `evaluate` below reads rows.
        rows = [{"tokens": len(row)} for row in held_out]
        super().__init__(model, args, samples, only, progress, eval_dataset=rows)
        self._held_out = held_out
        self._length = length

    @torch.no_grad()
    def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        """Returns the perplexity on the held-out rows, by the position of the predicted token.

        Its names are `eval_loss`, `eval_perplexity`, and `eval_perplexity_0-1024`,
        `eval_perplexity_1024-2048`, ...
        """
        # Under FSDP weights are whole inside calls of the wrapped model only.
        model: Any = self.model_wrapped if self.is_in_train else self.model
        was_training = model.training
        model.eval()
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
        model.train(was_training)
        metrics = _perplexities(spans, sums.tolist())
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def _perplexities(spans: list[tuple[int, int]], sums: list[list[float]]) -> dict[str, float]:
    loss, count = np.sum(sums, axis=0).tolist()
    metrics = {"eval_loss": loss / count, "eval_perplexity": perplexity(loss, count)}
    for (start, stop), (part, tokens) in zip(spans, sums, strict=True):
        if tokens:
            metrics[f"eval_perplexity_{start}-{stop}"] = perplexity(part, tokens)
    return metrics
