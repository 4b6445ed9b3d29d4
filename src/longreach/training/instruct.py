"""A compressor that learns from questions: texts come as vectors, answers are what is learned.

Papers: Ge et al. 2023, ICAE (arXiv 2307.06945), whose second stage this is; Tan et al. 2024, LLoCO (arXiv 2404.07979),
where only the reader learns. Here the gradient of the answers goes through the vectors into the compressor. Segments
are compressed alone (mode "independent"), so that vectors of any passages can be read together.

Shapes: S tokens of a segment, k summary tokens, d hidden size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from longreach.errors import UsageError
from longreach.models.decoder import decoder_of, window_of
from longreach.models.loss import chunked_cross_entropy
from longreach.models.prompt import PromptBuilder
from longreach.training.compressor import CompressorObjective, Recipe, Substep, length_of_embeddings
from longreach.training.compressor_trainer import CompressorTrainer, stop_unless_finite
from longreach.training.lexical import lexical, parts, rarity, shares
from longreach.training.texts import Text


class InstructObjective(CompressorObjective):
    """Answers from vectors, in the very prompt of the reader; beside them the lexical loss and reconstruction.

    Args:
        model, tokenizer, recipe: see `CompressorObjective`; the recipe asks for `questions`.
        texts: what is learned from.

    Raises:
        UsageError: as there; or a text's vectors and a question about it do not fit the model's window.
    """

    def __init__(self, model: Any, tokenizer: Any, recipe: Recipe, texts: Sequence[Text]) -> None:
        super().__init__(model, tokenizer, recipe)
        self._prompts = PromptBuilder(self.model, tokenizer)  # not its scale: vectors come scaled
        self.parts = parts(recipe.summary_tokens, recipe.min_summary_tokens or recipe.summary_tokens)
        self.rows = [self._prompts.plain(text.text) for text in texts]
        self._check_window(texts)
        self._length = length_of_embeddings(self.model)  # once: they are frozen, and many
        self.weight: Tensor
        self.register_buffer("weight", rarity(self.rows, len(self._head)), persistent=False)

    def _check_window(self, texts: Sequence[Text]) -> None:
        window, plain = window_of(self.model), self._prompts.plain
        if window is None:
            return
        for text, ids in zip(texts, self.rows, strict=True):
            vectors = -(-len(ids) // self.recipe.segment_tokens) * self.recipe.summary_tokens
            for asked in text.questions:
                longest = max(len(plain(answer)) for answer in asked.answers) + 2  # " " or not, and what ends it
                taken = self._prompts.vectors_cost(vectors) + self._prompts.fixed(asked.question) + longest
                if taken > window:
                    raise UsageError(
                        f"The text that begins with '{text.text[:40]}' takes {vectors:,} vectors, {taken:,} positions "
                        f"with a question, and the model's window is {window:,}: cut it, or raise --min-ratio."
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
            scaffold: share of the vectors that are read as the sums of embeddings they are to point to, so that
                reading is learned while there is nothing to read yet.
        """
        cut = [text.split(self.recipe.segment_tokens) for text in texts]
        segments = [segment for text in cut for segment in text]
        embed = self.model.get_input_embeddings()
        summary = self.embed_summary[:summary_tokens].to(embed.weight.dtype)
        states = self._padded([torch.cat([embed(segment), summary]) for segment in segments])
        made = [state[len(segment) :][:summary_tokens] for state, segment in zip(states, segments, strict=True)]
        read = [vectors * self.scale for vectors in made]
        losses, loss = dict[str, Tensor](), torch.zeros((), device=states.device)
        if self.recipe.lexical:
            counts = [shares(segment, self.weight, self.parts[:summary_tokens]) for segment in segments]
            found = lexical(made, segments, self._head, embed.weight, counts, length=self._length)
            losses |= {"naming": found.naming, "pointing": found.pointing}
            loss = loss + self.recipe.lexical * (found.naming + 3 * max(scaffold, 0.1) * found.pointing)
            instead = (torch.rand(len(made), summary_tokens, 1, device=loss.device) < scaffold).unbind()
            read = [torch.where(*each) for each in zip(instead, found.targets, read, strict=True)]
        own = iter(read)
        rows, answers = list[Tensor](), list[Tensor]()
        for segmented, questions in zip(cut, asked, strict=True):
            vectors = [next(own) for _ in segmented]
            for question, answer in questions:
                answers.append(torch.tensor(self._prompts.answer(answer), device=loss.device))
                rows.append(torch.cat([self._prompts.build(vectors, [], question).embeds, embed(answers[-1][:-1])]))
        if rows:
            losses["answers"] = self._told(rows, answers)
            loss = loss + losses["answers"]
        if self.recipe.reconstruction:
            pairs = zip(read, segments, strict=True)
            again = [torch.cat([vectors, self.cue[None], embed(segment[:-1])]) for vectors, segment in pairs]
            losses["reconstruction"] = self._told(again, segments)
            loss = loss + self.recipe.reconstruction * losses["reconstruction"]
        return Substep(loss, {name: part.detach() for name, part in losses.items()}, states[:0])

    def _told(self, rows: Sequence[Tensor], ends: Sequence[Tensor]) -> Tensor:
        """Mean cross entropy of `ends`, token ids [T_i], that the last positions of `rows` [.., d] lead to."""
        states = self._padded(rows)
        last = [state[len(row) - len(end) : len(row)] for state, row, end in zip(states, rows, ends, strict=True)]
        return chunked_cross_entropy(
            torch.cat(last), self._head, torch.cat(list(ends)), self.recipe.chunk_tokens, softcap=self._softcap
        )

    def _padded(self, rows: Sequence[Tensor]) -> Tensor:
        """The states after the final norm of rows [T_i, d]; nothing real sees the padding behind it."""
        inputs = pad_sequence(list(rows), batch_first=True)
        return decoder_of(self.model)(inputs_embeds=inputs, use_cache=False).last_hidden_state


class InstructTrainer(CompressorTrainer):
    """Which questions are asked, and which of their answers is learned, is drawn from (seed, step) as k is."""

    @property
    def _scaffold(self) -> float:
        """1 for the first half of the scaffold's steps, in which no gradient of reading reaches a vector; then less."""
        steps = self.objective.recipe.scaffold
        return min(1.0, max(0.0, 2 - 2 * self.state.global_step / steps)) if steps else 0.0

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of a batch of texts; returns its loss."""
        model.train()
        chance = self._generator()
        draw = self.objective.draw(chance, self._scaffold)
        texts, asked = self._prepare_inputs({"texts": inputs["texts"]})["texts"], list[list[tuple[str, str]]]()
        for questions in inputs["questions"]:
            chosen = torch.randperm(len(questions), generator=chance)[: self.objective.recipe.questions].tolist()
            drawn = [questions[i] for i in chosen]
            answers = [int(torch.randint(len(each.answers), (), generator=chance)) for each in drawn]
            asked.append([(each.question, each.answers[n]) for each, n in zip(drawn, answers, strict=True)])
        with self.compute_loss_context_manager():
            done = model(texts, asked, draw.summary_tokens, self._scaffold)
        stop_unless_finite(done.loss, self.args, self.state)
        share = 1 / self.current_gradient_accumulation_steps
        self.accelerator.backward(done.loss * share)
        self.count(done.parts)
        return done.loss.detach() * share
