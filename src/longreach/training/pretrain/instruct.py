"""A compressor that learns from questions: texts come as vectors, answers are what is learned.

Papers: Ge et al. 2023, ICAE (arXiv 2307.06945), whose second stage this is; Tan et al. 2024, LLoCO
(arXiv 2404.07979), where only the reader learns. Here the gradient of the answers goes through the
vectors into the compressor. Segments are compressed alone (mode "independent"), so that vectors of
any passages can be read together.

Shapes: S tokens of a segment, k summary tokens, d hidden size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from longreach.datasets.texts import Text
from longreach.engine.prompt import PromptBuilder
from longreach.errors import UsageError
from longreach.models.decoder import decoder_of, length_of_embeddings, window_of
from longreach.models.loss import chunked_cross_entropy
from longreach.training.pretrain.lexical import lexical, parts, rarity, shares
from longreach.training.pretrain.objective import CompressorObjective, Substep
from longreach.training.pretrain.recipe import Recipe
from longreach.training.pretrain.trainer import CompressorTrainer, stop_unless_finite
from longreach.wording import counted

_MASKED = ("eager", "sdpa")  # attention that takes a mask of any shape


class InstructObjective(CompressorObjective):
    """Answers from vectors, in the very prompt of the reader; beside them the lexical loss and
    reconstruction.

    Args:
        model, tokenizer, recipe: see `CompressorObjective`; the recipe asks for `questions`.
        texts: what is learned from.

    Raises:
        UsageError: as there; or a text's vectors and a question about it do not fit the model's
            window.
    """

    def __init__(self, model: Any, tokenizer: Any, recipe: Recipe, texts: Sequence[Text]) -> None:
        super().__init__(model, tokenizer, recipe)
        self._prompts = PromptBuilder(self.model, tokenizer)  # not its scale: vectors come scaled
        self.parts = parts(
            recipe.summary_tokens, recipe.min_summary_tokens or recipe.summary_tokens
        )
        self.rows = [self._prompts.plain(text.text) for text in texts]
        self._check_window(texts)
        config = self.model.config.get_text_config()
        windows = getattr(config, "sliding_window", None) or getattr(
            config, "sparse_attention", None
        )
        self._branching = config._attn_implementation in _MASKED and not windows
        self._length = length_of_embeddings(self.model)  # once: they are frozen, and many
        self.weight: Tensor
        self.register_buffer("weight", rarity(self.rows, len(self._head)), persistent=False)

    def _check_window(self, texts: Sequence[Text]) -> None:
        window, plain = window_of(self.model), self._prompts.plain
        if window is None:
            return
        for text, ids in zip(texts, self.rows, strict=True):
            count = -(-len(ids) // self.recipe.segment_tokens)
            vectors = count * min(
                self.recipe.summary_tokens, max(1, self.recipe.most_vectors // count)
            )
            for asked in text.questions:
                # " " or not, and what ends it.
                longest = max(len(plain(answer)) for answer in asked.answers) + 2
                taken = (
                    self._prompts.vectors_cost(vectors)
                    + self._prompts.fixed(asked.question)
                    + longest
                )
                if taken > window:
                    raise UsageError(
                        f"The text that begins with '{text.text[:40]}' takes"
                        f" {counted(vectors, 'vector')}, {counted(taken, 'position')} with a"
                        f" question, and the model's window is {window:,}: cut it, or lower"
                        " --most-vectors."
                    )

    def forward(  # type: ignore[override]
        self,
        texts: Sequence[Tensor],
        asked: Sequence[Sequence[tuple[str, str]]],
        summary_tokens: int,
        scaffold: float = 0.0,
    ) -> Substep:
        """The loss of a batch.

        Args:
            texts: token ids, [T_i] each.
            asked: questions about each, with the answer to learn.
            summary_tokens: k.
            scaffold: share of the vectors that are read as the sums of embeddings they are to point
                to, so that reading is learned while there is nothing to read yet.
        """
        cut = [
            self._segments(text, bool(questions))
            for text, questions in zip(texts, asked, strict=True)
        ]
        segments = [segment for text in cut for segment in text]
        counts = [
            min(summary_tokens, max(1, self.recipe.most_vectors // len(text)))
            for text in cut
            for _ in text
        ]
        read, losses, loss = self.vectors(segments, counts, scaffold)
        each = iter(read)
        vectors = [[next(each) for _ in text] for text in cut]
        if any(asked):
            losses["answers"] = self._answers(vectors, asked)
            loss = loss + losses["answers"]
        if self.recipe.reconstruction:
            again = [
                pair
                for own, text, questions in zip(vectors, cut, asked, strict=True)
                if not (self.recipe.reading and questions)
                for pair in zip(own, text, strict=True)
            ]
            if again:
                losses["reconstruction"] = self._reproduced(again)
                loss = loss + self.recipe.reconstruction * losses["reconstruction"]
        return Substep(
            loss, {name: part.detach() for name, part in losses.items()}, loss.new_zeros(0)
        )

    def vectors(
        self, segments: Sequence[Tensor], counts: Sequence[int], scaffold: float
    ) -> tuple[list[Tensor], dict[str, Tensor], Tensor]:
        """What is read for each segment.

        Args:
            segments: token ids, [S_i] each.
            counts: vectors of each, at most.
            scaffold: see `forward`.

        Returns:
            The vectors [k_i, d] of each, scaled as they are read; the parts of the loss that they
            have of their own, and these weighted and added up.
        """
        most, embed = max(counts), self.model.get_input_embeddings()
        summary = self.embed_summary[:most].to(embed.weight.dtype)
        states = self._padded([torch.cat([embed(segment), summary]) for segment in segments])
        made = [
            state[len(segment) :][:count]
            for state, segment, count in zip(states, segments, counts, strict=True)
        ]
        read = [vectors * self.scale for vectors in made]
        loss = torch.zeros((), device=states.device)
        if not self.recipe.lexical:
            return read, {}, loss
        weights = [
            shares(segment, self.weight, self.parts[:count])
            for segment, count in zip(segments, counts, strict=True)
        ]
        found = lexical(made, segments, self._head, embed.weight, weights, length=self._length)
        loss = self.recipe.lexical * (found.naming + 3 * max(scaffold, 0.1) * found.pointing)
        instead = [torch.rand(count, 1, device=loss.device) < scaffold for count in counts]
        read = [torch.where(*each) for each in zip(instead, found.targets, read, strict=True)]
        return read, {"naming": found.naming, "pointing": found.pointing}, loss

    def _segments(self, text: Tensor, asked: bool) -> tuple[Tensor, ...]:
        """A text cut for compressing; where reading is learned and nothing is asked, one segment of
        it, at random."""
        cut = text.split(self.recipe.segment_tokens)
        if asked or not self.recipe.reading:
            return cut
        return (cut[int(torch.randint(len(cut), ()))],)

    def _answers(
        self, vectors: Sequence[Sequence[Tensor]], asked: Sequence[Sequence[tuple[str, str]]]
    ) -> Tensor:
        """Mean cross entropy of the answers to questions about texts that are read as vectors."""
        embed = self.model.get_input_embeddings()
        contexts, tails, answers = list[Tensor](), list[list[Tensor]](), list[Tensor]()
        for own, questions in zip(vectors, asked, strict=True):
            if not questions:
                continue
            said = [
                torch.tensor(self._prompts.answer(answer), device=self.cue.device)
                for _, answer in questions
            ]
            prompts = [self._prompts.build(own, [], question) for question, _ in questions]
            shared = prompts[0].boundaries[0]
            contexts.append(prompts[0].embeds[:shared])
            ends = zip(prompts, said, strict=True)
            tails.append(
                [torch.cat([prompt.embeds[shared:], embed(ids[:-1])]) for prompt, ids in ends]
            )
            answers += said
        if self._branching:
            states = self._branches(contexts, tails)
        else:
            rows = [
                torch.cat([context, tail])
                for context, ends in zip(contexts, tails, strict=True)
                for tail in ends
            ]
            states = [
                state[: len(row)] for state, row in zip(self._padded(rows), rows, strict=True)
            ]
        return self._told(states, answers)

    def _branches(
        self, contexts: Sequence[Tensor], tails: Sequence[Sequence[Tensor]]
    ) -> list[Tensor]:
        """The states of tails that each see their context and themselves: a context is read once
        for all of them.

        Args:
            contexts: [C_i, d].
            tails: those behind each, [T_ij, d].

        Returns:
            The states of each tail, [T_ij, d].
        """
        rows = [torch.cat([context, *ends]) for context, ends in zip(contexts, tails, strict=True)]
        inputs = pad_sequence(rows, batch_first=True)
        branch = torch.zeros(inputs.shape[:2], dtype=torch.long, device=inputs.device)
        positions = torch.arange(inputs.shape[1], device=inputs.device).repeat(len(rows), 1)
        for row, (context, ends) in enumerate(zip(contexts, tails, strict=True)):
            end = len(context)
            for number, tail in enumerate(ends, 1):
                branch[row, end : end + len(tail)] = number
                positions[row, end : end + len(tail)] = torch.arange(
                    len(tail), device=inputs.device
                ) + len(context)
                end += len(tail)
        seen = (branch[:, :, None] == branch[:, None]) | (branch[:, None] == 0)
        seen &= torch.ones(
            inputs.shape[1], inputs.shape[1], dtype=torch.bool, device=inputs.device
        ).tril()
        mask = torch.zeros_like(seen, dtype=inputs.dtype).masked_fill(
            ~seen, torch.finfo(inputs.dtype).min
        )
        states = decoder_of(self.model)(
            inputs_embeds=inputs,
            attention_mask=mask[:, None],
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        found = list[Tensor]()
        for state, context, ends in zip(states, contexts, tails, strict=True):
            lengths = [len(context), *map(len, ends)]
            found += state[: sum(lengths)].split(lengths)[1:]
        return found

    def _reproduced(self, again: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Mean cross entropy of segments [S_i] behind their own vectors [k_i, d] and the cue."""
        embed = self.model.get_input_embeddings()
        rows = [
            torch.cat([vectors, self.cue[None], embed(segment[:-1])]) for vectors, segment in again
        ]
        states = [state[: len(row)] for state, row in zip(self._padded(rows), rows, strict=True)]
        return self._told(states, [segment for _, segment in again])

    def _told(self, states: Sequence[Tensor], ends: Sequence[Tensor]) -> Tensor:
        """Mean cross entropy of `ends`, token ids [T_i], that the last of `states` [.., d] lead
        to."""
        last = [state[-len(end) :] for state, end in zip(states, ends, strict=True)]
        return chunked_cross_entropy(
            torch.cat(last),
            self._head,
            torch.cat(list(ends)),
            self.recipe.chunk_tokens,
            softcap=self._softcap,
        )

    def _padded(self, rows: Sequence[Tensor]) -> Tensor:
        """The states after the final norm of rows [T_i, d]; nothing real sees the padding behind
        it."""
        inputs = pad_sequence(list(rows), batch_first=True)
        return decoder_of(self.model)(inputs_embeds=inputs, use_cache=False).last_hidden_state


class InstructTrainer(CompressorTrainer):
    """Which questions are asked, and which of their answers is learned, is drawn from (seed, step)
    as k is."""

    @property
    def _scaffold(self) -> float:
        """1 for the first half of the scaffold's steps, in which no gradient of reading reaches a
        vector; then less."""
        steps = self.objective.recipe.scaffold
        return min(1.0, max(0.0, 2 - 2 * self.state.global_step / steps)) if steps else 0.0

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward of a batch of texts; returns its loss."""
        model.train()
        chance = self._generator()
        draw = self.objective.draw(chance, self._scaffold)
        texts, asked = (
            self._prepare_inputs({"texts": inputs["texts"]})["texts"],
            list[list[tuple[str, str]]](),
        )
        for questions in inputs["questions"]:
            if self.state.global_step < self.objective.recipe.reading:
                questions = ()
            chosen = torch.randperm(len(questions), generator=chance)[
                : self.objective.recipe.questions
            ].tolist()
            drawn = [questions[i] for i in chosen]
            answers = [
                int(torch.randint(len(each.answers), (), generator=chance)) for each in drawn
            ]
            asked.append(
                [(each.question, each.answers[n]) for each, n in zip(drawn, answers, strict=True)]
            )
        with self.compute_loss_context_manager():
            done = model(texts, asked, draw.summary_tokens, self._scaffold)
        stop_unless_finite(done.loss, self.args, self.state)
        share = 1 / self.current_gradient_accumulation_steps
        self.accelerator.backward(done.loss * share)
        self.count(done.parts)
        return done.loss.detach() * share
