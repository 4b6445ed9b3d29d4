"""What an adapter learns from: questions behind the memory that the reader would read for them.

Shapes: R rows, T positions, d hidden size, A tokens of answers, k likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longreach.compressors.memory import embedded
from longreach.datasets.questions import Question
from longreach.engine.prompt import PromptBuilder
from longreach.errors import ContextError, CorpusError, NothingFound
from longreach.models.loss import IGNORED, Likeliest
from longreach.reading.planner import Plan, Planner
from longreach.reading.policy import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longreach.corpus.reading import CorpusReading

_LONGEST_ANSWER = 256  # tokens; of longer ones the beginning is learned

# What an adapter learns to read: the memory of the whole document, else of the best passages.
_LEARNED = Policy.compressed()
# What a teacher reads to say what is expected: as much text as fits of the passage asked about and
# of those retrieved.
_TAUGHT_FROM = Policy(raw=Policy().k + 1, compressed="none", cut=True)


class _KeptPassages:
    """A corpus as a planner asks it, with the passages of the documents asked about last."""

    def __init__(self, corpus: CorpusReading) -> None:
        self.name = corpus.name
        self.documents = corpus.documents
        self.search = corpus.search
        # Many questions are about one document, and its passages are read from the disk.
        self.passages = lru_cache(maxsize=64)(corpus.passages)


class StudyData(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Batches of questions, drawn anew for every epoch.

    The n-th is a function of the questions and the seed. A sample has inputs_embeds [R, T, d] and
    labels [R, T], padded on the right: -100 wherever no token of an answer stands. It needs no
    attention mask: under causal attention no real position sees padding behind it. With a teacher
    it has teacher_ids and teacher_log_probs [A, k] too: what is expected of the same answers behind
    the raw passages.

    Args:
        corpus: Where vectors come from.
        model: Embeds the tokens.
        tokenizer: Its tokenizer.
        questions: What is learned.
        batch: Questions of a step.
        accumulate: Parts that a step is learned in; a sample is one.
        epochs: How often each question comes.
        budget: Positions of a prompt at most.
        window: Positions of the model, prompt and answer together; None where it does not say.
        seed: Of the order.
        teacher: Gives what is expected at the labels [1, T] of inputs [1, T, d], asked once for
            each question.

    Attributes:
        unmatched: The number of questions that name no document and share no word with any
            passage; a reader would not answer them, and they are not learned.

    Raises:
        ContextError: A question does not fit the budget, or leaves no place for a vector.
        CorpusError: No question has a passage to be answered from.
    """

    def __init__(
        self,
        corpus: CorpusReading,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[Question],
        *,
        batch: int,
        accumulate: int,
        epochs: int,
        budget: int,
        window: int | None,
        seed: int,
        teacher: Callable[[Tensor, Tensor], Likeliest] | None = None,
    ) -> None:
        self._corpus = corpus
        self._seed = seed
        self._builder = PromptBuilder(model, tokenizer)
        embed: Any = model.get_input_embeddings()
        self._embed = embed
        self._budget = budget
        self._window = window
        self._memories = lru_cache(maxsize=64)(corpus.memories)
        self._planner = Planner(_KeptPassages(corpus), self._builder)
        self._expected: Callable[[int], Likeliest] | None = None
        if teacher is not None:
            # A teacher without the adapter says the same in every epoch, so it is asked once a
            # question.
            self._expected = lru_cache(maxsize=None)(partial(self._taught, teacher))
        self._questions: list[Question] = []
        self._plans: list[Plan] = []
        for question in questions if corpus.documents() else ():
            plan = self._plan(question, _LEARNED)
            if plan is not None:
                self._questions.append(question)
                self._plans.append(plan)
        self.unmatched = len(questions) - len(self._questions)
        if not self._questions:
            raise CorpusError(
                f"Corpus '{corpus.name}' holds nothing to answer '{questions[0].question}' from:"
                " name the documents of the questions, or give other questions."
            )
        self._answers = [self._builder.answer(question.answers[0]) for question in self._questions]
        self._batch = min(batch, len(self._questions))
        self.accumulate = min(accumulate, self._batch)
        self.steps_per_epoch = -(-len(self._questions) // self._batch)
        self.steps = epochs * self.steps_per_epoch

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rows = self.rows(index)
        answers = [self._answer(row) for row in rows]
        sample = self._padded([self._prompt(row) for row in rows], answers)
        if self._expected:
            expected = [self._expected(row) for row in rows]
            sample["teacher_ids"] = torch.cat([one.ids for one in expected])
            sample["teacher_log_probs"] = torch.cat([one.log_probs for one in expected])
        return sample

    def rows(self, index: int) -> list[int]:
        """Returns the numbers of the questions of a sample."""
        step, part = divmod(index, self.accumulate)
        epoch, turn = divmod(step, self.steps_per_epoch)
        # A function of seed and epoch alone: a resumed run draws the same order without a stored
        # state.
        chance = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._questions), generator=chance).tolist()
        # Every step learns as many, so some come once more.
        order += order[: -len(order) % self._batch]
        of_step = order[turn * self._batch : (turn + 1) * self._batch]
        start = part * self._batch // self.accumulate
        end = (part + 1) * self._batch // self.accumulate
        return of_step[start:end]

    def tokens(self, sample: int) -> int:
        """Returns the positions of a sample without padding."""
        positions = 0
        for row in self.rows(sample):
            positions += self._plans[row].positions + len(self._answer(row))
        return positions

    def tokens_of_step(self, step: int) -> int:
        """Returns the positions of all samples of a step; steps count from 1."""
        last = step * self.accumulate
        return sum(self.tokens(sample) for sample in range(last - self.accumulate, last))

    def _answer(self, row: int) -> list[int]:
        longest = _LONGEST_ANSWER
        if self._window:
            # The prompt may take the whole budget, so only the rest of the window is left for the
            # answer.
            longest = min(longest, self._window - self._budget)
        return self._answers[row][:longest]

    def _plan(self, question: Question, policy: Policy) -> Plan | None:
        """Returns what is read for a question; None where no passage matches it."""
        try:
            return self._planner.plan(
                question.question,
                replace(policy, budget=self._budget),
                document=question.document,
                about=question.passage if question.document else None,
            )
        except NothingFound:
            return None
        except ContextError as error:
            raise ContextError(
                f"The question '{question.question[:60]}' and one passage's vectors do not fit"
                f" {self._budget} positions: raise --budget."
            ) from error

    def _prompt(self, row: int) -> Tensor:
        plan = self._plans[row]
        memories = [self._memories(revision)[index] for revision, index in plan.memory]
        vectors = embedded(memories, self._embed.weight)
        return self._builder.build(vectors, [], plan.question).embeds

    def _taught(self, teacher: Callable[[Tensor, Tensor], Likeliest], row: int) -> Likeliest:
        """Returns what a teacher expects that reads the text of the best passages instead."""
        plan = self._plan(self._questions[row], _TAUGHT_FROM)
        assert plan is not None, "a question that is learned has passages"
        prompt = self._builder.build([], plan.text, plan.question).embeds
        sample = self._padded([prompt], [self._answer(row)])
        return teacher(sample["inputs_embeds"], sample["labels"])

    @torch.no_grad()
    def _padded(self, prompts: Sequence[Tensor], answers: Sequence[list[int]]) -> dict[str, Tensor]:
        """Returns prompts [T_i, d] and the answers behind them as one batch."""
        device = prompts[0].device
        rows: list[Tensor] = []
        labels: list[Tensor] = []
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = torch.tensor(answer, device=device)
            rows.append(torch.cat([prompt, self._embed(ids)]))
            labels.append(torch.cat([ids.new_full((len(prompt),), IGNORED), ids]))
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "inputs_embeds": pad(rows, batch_first=True),
            "labels": pad(labels, batch_first=True, padding_value=IGNORED),
        }
