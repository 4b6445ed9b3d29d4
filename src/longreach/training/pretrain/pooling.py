"""A weighted pool that learns with the adapter that reads it. Floor 5.

Papers: mean pooling at many ratios with a reader that learns it, arXiv 2510.20797; Ge et al. 2023,
ICAE (arXiv 2307.06945), whose reader stays as it is, where here it is the reader that learns most.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longreach.compressors.adapters import READER, read_lora, write_lora
from longreach.compressors.weighted_pool.compressor import WeightedPool, pooled, write_pool
from longreach.datasets.texts import Text
from longreach.models.decoder import note_base
from longreach.training.pretrain.instruct import InstructObjective
from longreach.training.pretrain.lexical import rarity
from longreach.training.pretrain.recipe import Recipe

_RARER = 1.5  # the power of a token's rarity that its weight starts from


class PoolObjective(InstructObjective):
    """Answers from weighted sums of embeddings. Trained: the LoRA that reads, and how loud each
    token is.

    Nothing is read to make vectors, so that the model as it is, adapter off, reads raw text as
    before. Arguments and errors as of `InstructObjective`.
    """

    def __init__(self, model: Any, tokenizer: Any, recipe: Recipe, texts: Sequence[Text]) -> None:
        super().__init__(model, tokenizer, recipe, texts)
        self._tokenizer = tokenizer
        del self.embed_summary
        self.scale = 1.0
        start = _RARER * rarity(self.rows, len(self._head)).clamp(min=0.01).log()
        self.token_loudness = torch.nn.Parameter(start)

    @property
    def own(self) -> Tensor:
        """See `CompressorObjective.own`."""
        return self.token_loudness

    def vectors(
        self, segments: Sequence[Tensor], counts: Sequence[int], scaffold: float
    ) -> tuple[list[Tensor], dict[str, Tensor], Tensor]:
        """See `InstructObjective.vectors`."""
        embed, read = self.model.get_input_embeddings(), list[Tensor]()
        for segment, count in zip(segments, counts, strict=True):
            ratio = -(-self.recipe.segment_tokens // count)
            vectors = pooled(embed(segment), self.token_loudness[segment], ratio, self._length)
            read.append(vectors.to(embed.weight.dtype))
        return read, {}, torch.zeros((), device=embed.weight.device)

    def save(self, folder: Path, model_ref: str) -> None:
        """Writes the pool and its reader, a few MB whatever the model's size."""
        settings = {"ratio": -(-self.recipe.segment_tokens // self.recipe.summary_tokens)}
        settings["segment_tokens"] = self.recipe.segment_tokens
        write_lora(folder / READER, self.adapted, model_ref)
        note_base(folder / READER, self.base_fingerprint, model_ref)
        # Last: then it is whole.
        write_pool(folder, self.token_loudness, settings, model_ref, self.base_fingerprint)

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote."""
        stored = WeightedPool.from_pretrained(folder, self.model, self._tokenizer)
        read_lora(folder / READER, self.adapted)
        with torch.no_grad():
            self.token_loudness.copy_(stored.token_loudness)
