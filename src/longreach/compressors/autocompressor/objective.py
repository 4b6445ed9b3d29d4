"""What an AutoCompressor learns from: text whose earlier parts the model sees as summary vectors
only.

Papers: Chevalier et al. 2023 (arXiv 2305.14788), random segments and truncated back-propagation; Ge
et al. 2023, ICAE (arXiv 2307.06945), reconstruction; Eyuboglu et al. 2025, Cartridges (arXiv
2506.06266), distillation from the text in view; Kusupati et al. 2022 (arXiv 2205.13147), prefixes
of one representation that are each usable.

Shapes: B rows, N tokens of a substep, k summary tokens drawn, K at most, P vectors so far, d hidden
size.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import torch
from peft import PeftModel
from torch import Tensor

from longreach.compressors.answering import draw_count
from longreach.compressors.autocompressor.checkpoint import read_peft, write_peft
from longreach.compressors.autocompressor.recipe import AutoCompressorRecipe, longest_segment
from longreach.compressors.objective import AdaptedObjective, Substep
from longreach.errors import UsageError
from longreach.models.decoder import decoder_of, evaluating, length_of_embeddings, window_of
from longreach.models.loss import (
    IGNORED,
    Likeliest,
    chunked_cross_entropy,
    chunked_divergence,
    likeliest,
)
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Draw(NamedTuple):
    """What chance decides for a batch.

    Attributes:
        summary_tokens: k.
        lengths: Those of the segments in tokens, substep by substep.
    """

    summary_tokens: int
    lengths: tuple[tuple[int, ...], ...]


def random_lengths(
    tokens: int, segments: int, longest: int, generator: torch.Generator
) -> tuple[int, ...]:
    """Returns lengths of segments cut at random, as published: none beyond `longest`.

    Breakpoints are drawn without replacement.

    Raises:
        UsageError: So few segments of that length do not hold so many tokens.
    """
    if longest * segments < tokens:
        raise UsageError(
            f"{segments} segments of {counted(longest, 'token')} do not hold {tokens}: raise"
            " longest_segment."
        )
    # Even where all the others are this short, the last segment is not beyond `longest`.
    shortest = max(math.ceil((tokens - longest) / (segments - 1)), 2) if segments > 1 else tokens
    free = tokens - shortest * segments
    if free < segments - 1:  # nowhere else to cut
        return tuple(tokens // segments + (i < tokens % segments) for i in range(segments))
    cuts = [
        0,
        *sorted(torch.randperm(free + 1, generator=generator)[: segments - 1].tolist()),
        free,
    ]
    return tuple(shortest + right - left for left, right in pairwise(cuts))


class SummaryTokens:
    """What both objectives of an AutoCompressor train beside the adapter: the summary embeddings.

    Mixed into an `AdaptedObjective`.
    """

    adapted: PeftModel
    recipe: AutoCompressorRecipe
    base_fingerprint: str
    embed_summary: torch.nn.Parameter
    scale: float

    def begin_summary(self, model: "PreTrainedModel", end: Tensor) -> None:
        """Makes summary embeddings that start as the EOS embedding [d]."""
        self.scale = self.recipe.scale or scale_to_embeddings(model)
        # Trained in float32, whatever the model is in: the steps are smaller than bfloat16 can
        # tell.
        start = end.float().expand(self.recipe.summary_tokens, -1).clone()
        self.embed_summary = torch.nn.Parameter(start)

    @property
    def own(self) -> Tensor:
        """See `CompressorObjective.own`."""
        return self.embed_summary

    def save(self, folder: Path, model_ref: str) -> None:
        """See `CompressorObjective.save`."""
        settings = {
            "method": self.recipe.method,
            "summary_tokens": self.recipe.summary_tokens,
            "segment_tokens": self.recipe.segment_tokens,
            "mode": self.recipe.mode,
            "scale": self.scale,
        }
        write_peft(
            folder, self.adapted, self.embed_summary, settings, model_ref, self.base_fingerprint
        )

    def load(self, folder: Path) -> None:
        """See `CompressorObjective.load`."""
        with torch.no_grad():
            self.embed_summary.copy_(read_peft(folder, self.adapted))


class _Loss(TypedDict):
    """How a loss is computed."""

    chunk_tokens: int
    softcap: float | None


class TextObjective(SummaryTokens, AdaptedObjective):
    """A causal language model with what an AutoCompressor trains: LoRA and summary embeddings.

    The model reads [vectors so far ; segment] and predicts the next token at every position of the
    segment, the last of which predicts the first of the next segment. Its vectors are those that
    `AutoCompressor.compress` gives.

    Args:
        model: The base model. LoRA layers are laid over it in place, its own weights frozen.
        tokenizer: Its tokenizer, for the EOS embedding, where summary tokens start.
        recipe: See `AutoCompressorRecipe`.

    Raises:
        UsageError: A sequence does not fit the model's window, or the tokenizer has no EOS token.
        ModelError: The model cannot be trained so.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        recipe: AutoCompressorRecipe,
    ) -> None:
        # What the window does not hold is refused before the model is changed.
        longest = longest_segment(recipe, window_of(model))
        super().__init__(model, tokenizer, recipe)
        self.recipe = recipe
        self.longest = longest
        self.begin_summary(model, self.cue)

    def draw(self, generator: torch.Generator) -> Draw:
        """Draws the number of summary tokens and the segments of a batch."""
        count = draw_count(self.recipe, self.recipe.whole, generator)
        lengths = []
        for _ in range(self.recipe.substeps):
            drawn = random_lengths(
                self.recipe.substep_tokens, self.recipe.segments, self.longest, generator
            )
            lengths.append(drawn)
        return Draw(count, tuple(lengths))

    def plan(
        self, batch: Mapping[str, Any], chance: torch.Generator, step: int
    ) -> list[dict[str, object]]:
        """See `CompressorObjective.plan`: one call for each substep of a sequence."""
        ids = batch["ids"]
        labels = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], IGNORED)], dim=1)
        draw = self.draw(chance)
        # The teacher reads a whole sequence at once, which the substeps then share.
        teacher = self.teach(ids) if self.recipe.distillation else None
        calls: list[dict[str, object]] = []
        for number, lengths in enumerate(draw.lengths):
            first = number * self.recipe.substep_tokens
            span = slice(first, first + self.recipe.substep_tokens)
            call: dict[str, object] = {
                "ids": ids[:, span],
                "labels": labels[:, span],
                "lengths": lengths,
                "summary_tokens": draw.summary_tokens,
            }
            if teacher:
                call["teacher"] = type(teacher)(*(part[:, span] for part in teacher))
            calls.append(call)
        return calls

    @torch.no_grad()
    def teach(self, ids: Tensor) -> Likeliest:
        """Returns what the model without its adapter expects at each position of `ids` [B, T].

        It has all text before that position in view.
        """
        with self.adapted.disable_adapter(), evaluating(self.adapted):
            states = decoder_of(self.model)(input_ids=ids, use_cache=False).last_hidden_state
        return likeliest(
            states, self._head, self.recipe.top_k, self.recipe.chunk_tokens, softcap=self._softcap
        )

    def forward(
        self,
        ids: Tensor,
        labels: Tensor,
        lengths: tuple[int, ...],
        summary_tokens: int,
        vectors: Tensor | None = None,
        teacher: Likeliest | None = None,
    ) -> Substep:
        """Computes the loss of one substep.

        Args:
            ids: [B, N] token ids.
            labels: [B, N], what each position predicts: the ids one further, -100 where nothing
                follows.
            lengths: Tokens of each segment.
            summary_tokens: k.
            vectors: [B, P, d] of the substeps before, detached; None at the start of a document.
            teacher: What to distill from, for these positions.
        """
        embed = self.model.get_input_embeddings()
        texts = embed(ids).split(list(lengths), dim=1)
        # The first k of K, because every prefix of the trained rows has to be usable by itself.
        summary = self.embed_summary[:summary_tokens].to(texts[0].dtype).expand(len(ids), -1, -1)
        # An empty tensor of the right dtype and device spares a case below.
        vectors = texts[0][:, :0] if vectors is None else vectors
        read = []
        own = []
        for text in texts:
            last = vectors[:, -summary_tokens:] if self.recipe.mode == "replace" else vectors
            before = self.scale * last
            # Read with the vectors, compressed without.
            if self.recipe.mode == "independent" and before.shape[1]:
                states = self._states(before, text)[:, before.shape[1] :]
                made = self._states(text, summary)[:, text.shape[1] :]
            else:
                states = self._states(before, text, summary)[:, before.shape[1] :]
                states, made = states.split([text.shape[1], summary_tokens], dim=1)
            read.append(states)
            own.append(made)
            vectors = torch.cat([vectors, made], dim=1)
        states = torch.cat(read, dim=1)
        options: _Loss = {
            "chunk_tokens": self.recipe.chunk_tokens,
            "softcap": self._softcap,
        }
        parts = {"lm": chunked_cross_entropy(states, self._head, labels, **options)}
        loss = parts["lm"]
        if self.recipe.reconstruction:
            parts["reconstruction"] = self._reconstruction(ids, texts, own, options)
            loss = loss + self.recipe.reconstruction * parts["reconstruction"]
        if teacher is not None:
            parts["distillation"] = chunked_divergence(states, self._head, teacher, **options)
            loss = loss + self.recipe.distillation * parts["distillation"]
        return Substep(loss, {name: part.detach() for name, part in parts.items()}, vectors)

    def _states(self, *parts: Tensor) -> Tensor:
        """Returns the states after the final norm of rows without padding, from position 0 on."""
        inputs = torch.cat(parts, dim=1)
        return decoder_of(self.model)(inputs_embeds=inputs, use_cache=False).last_hidden_state

    def _reconstruction(
        self, ids: Tensor, texts: tuple[Tensor, ...], own: list[Tensor], options: _Loss
    ) -> Tensor:
        """Returns the mean cross entropy of every segment's text after [its vectors ; the cue].

        Nothing else is in view.
        """
        cue = self.cue.expand(len(ids), 1, -1)
        states = []
        for vectors, text in zip(own, texts, strict=True):
            found = self._states(self.scale * vectors, cue, text[:, :-1])
            # From the cue on, each state predicts the next token of the segment.
            states.append(found[:, vectors.shape[1] :])
        return chunked_cross_entropy(torch.cat(states, dim=1), self._head, ids, **options)


@torch.no_grad()
def scale_to_embeddings(model: "PreTrainedModel") -> float:
    """Returns the factor that makes states after the final norm as long as embeddings are."""
    # A state after the norm is as long as the weight of the norm, about.
    decoder: Any = decoder_of(model)
    length = float(decoder.norm.weight.float().norm())
    return round(length_of_embeddings(model) / length, 4)
