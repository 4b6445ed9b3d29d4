"""A weighted pool that learns with the adapter that reads it.

Papers: mean pooling at many ratios with an adapter that learns to read it, arXiv 2510.20797; Ge et
al. 2023, ICAE (arXiv 2307.06945), where the model that reads stays as it is; here it learns most.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longreach.compressors.adapters import READER, read_lora, write_lora
from longreach.compressors.answering import AnswerObjective, rarity
from longreach.compressors.objective import LearnedText
from longreach.compressors.weighted_pool.compressor import WeightedPool, pooled, write_pool
from longreach.compressors.weighted_pool.recipe import WeightedPoolRecipe
from longreach.models.decoder import embedding_weight, note_base

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_RARER = 1.5  # the power of a token's rarity that its weight starts from


class PoolObjective(AnswerObjective):
    """Answers from weighted sums of embeddings. Trained: the LoRA that reads, and each loudness.

    Nothing is read to make vectors, so that the model as it is, adapter off, reads raw text as
    before. Arguments and errors are those of `AnswerObjective`.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        recipe: WeightedPoolRecipe,
        texts: Sequence[LearnedText],
    ) -> None:
        super().__init__(model, tokenizer, recipe, texts)
        self.recipe = recipe
        self._tokenizer = tokenizer
        start = _RARER * rarity(self.rows, len(self._head)).clamp(min=0.01).log()
        self.token_loudness = torch.nn.Parameter(start)

    @property
    def own(self) -> Tensor:
        """See `CompressorObjective.own`."""
        return self.token_loudness

    def vectors(
        self, segments: Sequence[Tensor], counts: Sequence[int], scaffold: float
    ) -> tuple[list[Tensor], dict[str, Tensor], Tensor]:
        """See `AnswerObjective.vectors`."""
        embed = self.model.get_input_embeddings()
        weight = embedding_weight(self.model)
        read = []
        for segment, count in zip(segments, counts, strict=True):
            # The ratio of a whole segment: a short one gets fewer vectors, as when it is ingested.
            ratio = -(-self.recipe.segment_tokens // count)
            vectors = pooled(embed(segment), self.token_loudness[segment], ratio, self._length)
            read.append(vectors.to(weight.dtype))
        return read, {}, torch.zeros((), device=weight.device)

    def save(self, folder: Path, model_ref: str) -> None:
        """See `CompressorObjective.save`; a few MB whatever the model's size."""
        settings = {"ratio": self.recipe.ratio, "segment_tokens": self.recipe.segment_tokens}
        write_lora(folder / READER, self.adapted, model_ref)
        note_base(folder / READER, self.base_fingerprint, model_ref)
        # Last: then it is whole.
        write_pool(folder, self.token_loudness, settings, model_ref, self.base_fingerprint)

    def load(self, folder: Path) -> None:
        """See `CompressorObjective.load`."""
        stored = WeightedPool.from_pretrained(folder, self.model, self._tokenizer)
        read_lora(folder / READER, self.adapted)
        with torch.no_grad():
            self.token_loudness.copy_(stored.token_loudness)
