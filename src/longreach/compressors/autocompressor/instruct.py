"""An AutoCompressor that learns from answers; its loss of its own is the lexical one.

Papers: Ge et al. 2023, ICAE (arXiv 2307.06945); Tan et al. 2024, LLoCO (arXiv 2404.07979).

Shapes: S tokens of a segment, k summary tokens, d hidden size.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longreach.compressors.answering import AnswerObjective, rarity
from longreach.compressors.autocompressor.lexical import lexical, parts, shares
from longreach.compressors.autocompressor.objective import SummaryTokens
from longreach.compressors.autocompressor.recipe import AutoCompressorRecipe, longest_segment
from longreach.compressors.objective import LearnedText
from longreach.models.decoder import embedding_weight, window_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class InstructObjective(SummaryTokens, AnswerObjective):
    """Answers from summary vectors; beside them the lexical loss and reconstruction.

    Arguments and errors are those of `AnswerObjective`.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        recipe: AutoCompressorRecipe,
        texts: Sequence[LearnedText],
    ) -> None:
        longest_segment(recipe, window_of(model))  # refuses what the window does not hold
        super().__init__(model, tokenizer, recipe, texts)
        self.recipe = recipe
        self.begin_summary(model, self.cue)
        self.parts = parts(recipe.summary_tokens, recipe.least_vectors)
        self.weight: Tensor
        self.register_buffer("weight", rarity(self.rows, len(self._head)), persistent=False)

    def scaffold_at(self, step: int) -> float:
        """See `AnswerObjective.scaffold_at`.

        It is 1 for the first half of the scaffold's steps, in which no gradient of reading reaches
        a vector; then less.
        """
        steps = self.recipe.scaffold
        if not steps:
            return 0.0
        return min(1.0, max(0.0, 2 - 2 * step / steps))

    def vectors(
        self, segments: Sequence[Tensor], counts: Sequence[int], scaffold: float
    ) -> tuple[list[Tensor], dict[str, Tensor], Tensor]:
        """See `AnswerObjective.vectors`.

        On the scaffold, sums of embeddings that the vectors are to point to are read instead.
        """
        embed = self.model.get_input_embeddings()
        weight = embedding_weight(self.model)
        # Segments share the most that any of them needs: under causal attention no vector sees the
        # summary tokens behind it.
        summary = self.embed_summary[: max(counts)].to(weight.dtype)
        states = self._padded([torch.cat([embed(segment), summary]) for segment in segments])
        made = []
        for state, segment, count in zip(states, segments, counts, strict=True):
            made.append(state[len(segment) :][:count])
        read = [vectors * self.scale for vectors in made]
        loss = torch.zeros((), device=states.device)
        if not self.recipe.lexical:
            return read, {}, loss
        weights = []
        for segment, count in zip(segments, counts, strict=True):
            weights.append(shares(segment, self.weight, self.parts[:count]))
        found = lexical(made, segments, self._head, weight, weights, length=self._length)
        loss = self.recipe.lexical * (found.naming + 3 * max(scaffold, 0.1) * found.pointing)
        # Drawn for each vector, so that a segment may be read partly from either.
        instead = [torch.rand(count, 1, device=loss.device) < scaffold for count in counts]
        read = [torch.where(*each) for each in zip(instead, found.targets, read, strict=True)]
        return read, {"naming": found.naming, "pointing": found.pointing}, loss
