"""Mean pooling: the baseline that every learned compressor has to beat (arXiv 2510.20797)."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from longreach.compressors.base import Compressor
from longreach.compressors.jobs import Job, SegmentMemory
from longreach.compressors.untrained import MEAN_POOL
from longreach.errors import UsageError
from longreach.jsontext import JsonObject
from longreach.models.decoder import hidden_states, window_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class MeanPool(Compressor):
    """Every `ratio` consecutive tokens of a segment become the mean of their hidden states.

    Needs no training; segments are independent of each other.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        ratio: Tokens a vector stands for; the last vector of a segment may stand for fewer.
        segment_tokens: Tokens read together; also the size of a passage.
        layer: -1 pools the states after the final norm, l > 0 those after layer l, 0 the input
            embeddings.
    """

    method = MEAN_POOL.name

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        ratio: int = 30,
        *,
        segment_tokens: int = 240,
        layer: int = -1,
    ) -> None:
        super().__init__(model, tokenizer, segment_tokens=segment_tokens)
        if ratio < 1:
            raise UsageError(f"ratio is {ratio}; it must be at least 1 token a vector.")
        layers = model.config.get_text_config().num_hidden_layers
        if not -1 <= layer < layers:
            raise UsageError(f"layer is {layer}; it must lie in -1..{layers - 1}.")
        window = window_of(model)
        if window and segment_tokens > window:
            raise UsageError(
                f"segment_tokens is {segment_tokens}, more than the model's window of {window}:"
                " lower it."
            )
        self.ratio = ratio
        self.layer = layer

    def describe(self) -> JsonObject:
        """See `Compressor.describe`."""
        return {
            "method": self.method,
            "ratio": self.ratio,
            "segment_tokens": self.segment_tokens,
            "layer": self.layer,
        }

    def vectors_in(self, tokens: int) -> int:
        """Returns one for every `ratio` tokens begun."""
        return -(-tokens // self.ratio)

    def stream(
        self, jobs: Iterable[Job], *, batch_size: int | None = None
    ) -> Iterator[SegmentMemory]:
        """See `Compressor.stream`."""
        return self.stream_segments(jobs, batch_size, self._encode)

    def _encode(self, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        """Returns the vectors [n_i, d] of segments given as embeddings [T_i, d]."""
        # Layer 0 means the input embeddings themselves, which take no forward pass.
        states = hidden_states(self.model, rows, self.layer) if self.layer else rows
        found = []
        for state, row in zip(states, rows, strict=True):
            # What lies behind a row is padding.
            chunks = state[: len(row)].split(self.ratio)
            found.append(torch.stack([chunk.mean(0) for chunk in chunks]))
        return found
