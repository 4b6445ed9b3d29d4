"""Learning from answers: texts come as vectors, and answers are what is learned.

Papers: Ge et al. 2023, ICAE (arXiv 2307.06945), whose second stage this is; Tan et al. 2024, LLoCO
(arXiv 2404.07979), where only the adapter that reads learns. Here the gradient of the answers goes
through the vectors into the compressor. Segments are compressed alone, so that vectors of any
passages can be read together.

Shapes: S tokens of a segment, k vectors of it, d hidden size, V vocabulary.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from longreach.compressors.objective import AdaptedObjective, LearnedText, Substep
from longreach.compressors.recipe import AnswerRecipe
from longreach.engine.prompt import PromptBuilder
from longreach.errors import UsageError
from longreach.models.decoder import decoder_of, length_of_embeddings, window_of
from longreach.models.loss import chunked_cross_entropy
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MASKED = ("eager", "sdpa")  # attention that takes a mask of any shape

Pairs = Sequence[tuple[str, str]]
"""Questions about a text, each with the answer to learn."""


def rarity(rows: Iterable[Sequence[int]], vocabulary: int) -> Tensor:
    """Returns how much each token counts, [V]: the logarithm of how seldom it is in `rows`.

    Its mean over their tokens is 1.
    """
    count = torch.zeros(vocabulary)
    for row in rows:
        count += torch.bincount(torch.as_tensor(row, dtype=torch.long), minlength=vocabulary)
    # A token that never comes is weighted as one that comes once.
    weight = (count.sum() / count.clamp(min=1)).log()
    return weight / ((weight * count).sum() / count.sum()).clamp(min=1e-6)


def draw_count(recipe: AnswerRecipe, whole: float, generator: torch.Generator) -> int:
    """Returns the number of vectors a segment, drawn uniformly in its logarithm.

    Args:
        recipe: Says from where to where.
        whole: Share of the draws that take the most.
        generator: Where chance comes from.
    """
    most = recipe.summary_tokens
    least = recipe.least_vectors
    share = float(torch.rand((), generator=generator, dtype=torch.float64))
    # The outermost numbers get as much space as the others.
    lowest = math.log(least - 0.5)
    exponent = lowest + share * (math.log(most + 0.5) - lowest)
    if whole and float(torch.rand((), generator=generator)) < whole:
        exponent = math.log(most)
    return min(max(round(math.exp(exponent)), least), most)


class AnswerObjective(AdaptedObjective):
    """Answers from vectors, in the very prompt of the `Reader`, beside reconstruction.

    A method says in `vectors` what it makes of segments. LoRA layers are laid over the model in
    place, its own weights frozen.

    Args:
        model: The base model.
        tokenizer: Its tokenizer, with an EOS token.
        recipe: Asks for `questions`.
        texts: What is learned from.

    Raises:
        UsageError: A text's vectors and a question about it do not fit the model's window, or the
            tokenizer has no EOS token.
        ModelError: The model cannot be trained so.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        recipe: AnswerRecipe,
        texts: Sequence[LearnedText],
    ) -> None:
        super().__init__(model, tokenizer, recipe)
        self.answering = recipe
        self._prompts = PromptBuilder(self.model, tokenizer)
        self.rows = [self._prompts.plain(text.text) for text in texts]
        self._check_window(texts)
        config = self.model.config.get_text_config()
        sliding = getattr(config, "sliding_window", None)
        windows = sliding or getattr(config, "sparse_attention", None)
        # A sliding window or a sparse pattern brings a mask of its own, which ours would replace.
        self._branching = config._attn_implementation in _MASKED and not windows
        self._length = length_of_embeddings(self.model)  # once: they are frozen, and many

    def _check_window(self, texts: Sequence[LearnedText]) -> None:
        window = window_of(self.model)
        if window is None:
            return
        recipe = self.answering
        # Refused before the first step, not in the middle of a night.
        for text, ids in zip(texts, self.rows, strict=True):
            count = -(-len(ids) // recipe.segment_tokens)
            vectors = count * self._most(count, recipe.summary_tokens)
            for asked in text.questions:
                lengths = [len(self._prompts.plain(answer)) for answer in asked.answers]
                # " " or not before an answer, and what ends it.
                longest = max(lengths) + 2
                taken = self._prompts.vectors_cost(vectors) + longest
                taken += self._prompts.fixed(asked.question)
                if taken > window:
                    raise UsageError(
                        f"The text that begins with '{text.text[:40]}' takes"
                        f" {counted(vectors, 'vector')}, {counted(taken, 'position')} with a"
                        f" question, and the model's window is {window:,}: cut it, or lower"
                        " --most-vectors."
                    )

    @abstractmethod
    def vectors(
        self, segments: Sequence[Tensor], counts: Sequence[int], scaffold: float
    ) -> tuple[list[Tensor], dict[str, Tensor], Tensor]:
        """Makes what is read for each segment.

        Args:
            segments: Token ids, [S_i] each.
            counts: Vectors of each, at most.
            scaffold: See `forward`.

        Returns:
            The vectors [k_i, d] of each, scaled as they are read; the parts of the loss that they
            have of their own, and these weighted and added up.
        """

    def scaffold_at(self, step: int) -> float:
        """Returns the share of vectors that something else stands in for at a step."""
        return 0.0

    def plan(
        self, batch: Mapping[str, Any], chance: torch.Generator, step: int
    ) -> list[dict[str, object]]:
        """See `CompressorObjective.plan`: draws k, the questions, and one answer to each."""
        recipe = self.answering
        scaffold = self.scaffold_at(step)
        count = draw_count(recipe, max(recipe.whole, scaffold), chance)
        asked: list[list[tuple[str, str]]] = []
        for questions in batch["questions"]:
            # First it learns to read, from reconstruction alone.
            there = () if step < recipe.reading else questions
            order = torch.randperm(len(there), generator=chance)[: recipe.questions].tolist()
            drawn = [there[index] for index in order]
            pairs = []
            for each in drawn:
                number = int(torch.randint(len(each.answers), (), generator=chance))
                pairs.append((each.question, each.answers[number]))
            asked.append(pairs)
        call = {"texts": batch["texts"], "asked": asked, "summary_tokens": count}
        return [call | {"scaffold": scaffold}]

    def forward(
        self,
        texts: Sequence[Tensor],
        asked: Sequence[Pairs],
        summary_tokens: int,
        scaffold: float = 0.0,
    ) -> Substep:
        """Computes the loss of a batch.

        Args:
            texts: Token ids, [T_i] each.
            asked: Questions about each, with the answer to learn.
            summary_tokens: k.
            scaffold: Share of the vectors that something else stands in for, so that reading is
                learned while there is nothing to read yet.
        """
        cut = []
        for text, questions in zip(texts, asked, strict=True):
            cut.append(self._segments(text, bool(questions)))
        segments: list[Tensor] = []
        counts: list[int] = []
        for own in cut:
            segments += own
            counts += [self._most(len(own), summary_tokens)] * len(own)
        read, losses, loss = self.vectors(segments, counts, scaffold)
        # One after the other, as the segments of all texts were handed over.
        vectors: list[list[Tensor]] = []
        first = 0
        for own in cut:
            vectors.append(read[first : first + len(own)])
            first += len(own)
        if any(asked):
            losses["answers"] = self._answers(vectors, asked)
            loss = loss + losses["answers"]
        if self.answering.reconstruction:
            again: list[tuple[Tensor, Tensor]] = []
            for made, own, questions in zip(vectors, cut, asked, strict=True):
                if not (self.answering.reading and questions):
                    again += zip(made, own, strict=True)
            if again:
                losses["reconstruction"] = self._reproduced(again)
                loss = loss + self.answering.reconstruction * losses["reconstruction"]
        parts = {name: part.detach() for name, part in losses.items()}
        return Substep(loss, parts, loss.new_zeros(0))

    def _most(self, segments: int, drawn: int) -> int:
        """Returns the vectors of each of a text's segments, so that all together stay in bounds."""
        return min(drawn, max(1, self.answering.most_vectors // segments))

    def _segments(self, text: Tensor, asked: bool) -> tuple[Tensor, ...]:
        """Cuts a text for compressing.

        Where reading is learned and nothing is asked, it is one segment of it, at random.
        """
        cut = text.split(self.answering.segment_tokens)
        if asked or not self.answering.reading:
            return cut
        return (cut[int(torch.randint(len(cut), ()))],)

    def _answers(self, vectors: Sequence[Sequence[Tensor]], asked: Sequence[Pairs]) -> Tensor:
        """Returns the mean cross entropy of the answers about texts that are read as vectors."""
        embed = self.model.get_input_embeddings()
        contexts: list[Tensor] = []
        tails: list[list[Tensor]] = []
        answers: list[Tensor] = []
        for own, questions in zip(vectors, asked, strict=True):
            if not questions:
                continue
            ends: list[Tensor] = []
            for question, answer in questions:
                ids = torch.tensor(self._prompts.answer(answer), device=self.cue.device)
                prompt = self._prompts.build(own, [], question)
                shared = prompt.boundaries[0]
                # What comes before the question is the same for all questions about a text.
                if not ends:
                    contexts.append(prompt.embeds[:shared])
                # The last token of an answer is predicted, and nothing behind it reads it.
                ends.append(torch.cat([prompt.embeds[shared:], embed(ids[:-1])]))
                answers.append(ids)
            tails.append(ends)
        # Where attention takes any mask, a text is read once for all questions about it.
        if self._branching:
            states = self._branches(contexts, tails)
        else:
            rows = []
            for context, ends in zip(contexts, tails, strict=True):
                rows += [torch.cat([context, tail]) for tail in ends]
            states = self._read(rows)
        return self._entropy(states, answers)

    def _branches(
        self, contexts: Sequence[Tensor], tails: Sequence[Sequence[Tensor]]
    ) -> list[Tensor]:
        """Returns the states of tails that each see their context and themselves.

        A context is read once for all of them.

        Args:
            contexts: [C_i, d].
            tails: Those behind each, [T_ij, d].

        Returns:
            The states of each tail, [T_ij, d].
        """
        rows = [torch.cat([context, *ends]) for context, ends in zip(contexts, tails, strict=True)]
        inputs = pad_sequence(rows, batch_first=True)
        device = inputs.device
        branch = torch.zeros(inputs.shape[:2], dtype=torch.long, device=device)
        positions = torch.arange(inputs.shape[1], device=device).repeat(len(rows), 1)
        for row, (context, ends) in enumerate(zip(contexts, tails, strict=True)):
            end = len(context)
            for number, tail in enumerate(ends, 1):
                place = slice(end, end + len(tail))
                branch[row, place] = number
                # Each tail stands right behind the context, as if the other tails were not there.
                positions[row, place] = torch.arange(len(tail), device=device) + len(context)
                end += len(tail)
        # A position sees its own branch and the context, branch 0, as far as they lie before it.
        seen = (branch[:, :, None] == branch[:, None]) | (branch[:, None] == 0)
        length = inputs.shape[1]
        seen &= torch.ones(length, length, dtype=torch.bool, device=device).tril()
        blocked = torch.finfo(inputs.dtype).min
        mask = torch.zeros_like(seen, dtype=inputs.dtype).masked_fill(~seen, blocked)
        states = decoder_of(self.model)(
            inputs_embeds=inputs,
            attention_mask=mask[:, None],
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        found: list[Tensor] = []
        for state, context, ends in zip(states, contexts, tails, strict=True):
            lengths = [len(context), *map(len, ends)]
            # The context predicts nothing that is learned, and behind the tails is padding.
            found += state[: sum(lengths)].split(lengths)[1:]
        return found

    def _reproduced(self, again: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Returns the mean cross entropy of segments [S_i] behind their vectors and the cue."""
        embed = self.model.get_input_embeddings()
        rows = []
        for vectors, segment in again:
            # The state at the cue predicts the first token, so the last one need not be read.
            rows.append(torch.cat([vectors, self.cue[None], embed(segment[:-1])]))
        return self._entropy(self._read(rows), [segment for _, segment in again])

    def _entropy(self, states: Sequence[Tensor], ends: Sequence[Tensor]) -> Tensor:
        """Returns the mean cross entropy of token ids [T_i] that the last of `states` lead to."""
        last = [state[-len(end) :] for state, end in zip(states, ends, strict=True)]
        return chunked_cross_entropy(
            torch.cat(last),
            self._head,
            torch.cat(list(ends)),
            self.answering.chunk_tokens,
            softcap=self._softcap,
        )

    def _read(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Returns the states after the final norm of each row [T_i, d]."""
        states = self._padded(rows)
        return [state[: len(row)] for state, row in zip(states, rows, strict=True)]

    def _padded(self, rows: Sequence[Tensor]) -> Tensor:
        """Returns the same for all rows at once; nothing real sees the padding behind it."""
        inputs = pad_sequence(list(rows), batch_first=True)
        return decoder_of(self.model)(inputs_embeds=inputs, use_cache=False).last_hidden_state
