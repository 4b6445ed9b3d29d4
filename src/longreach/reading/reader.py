"""Answers from a corpus: retrieve, assemble compressed and raw context, generate, stream, cite.

LLoCO (arXiv 2404.07979) prepends compressed passages to the question; REFRAG (arXiv 2509.01092)
keeps the best few raw. The prompt is [system ; vectors ; raw passages ; question] in the model's
own chat template.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from longreach.caches.prefix import PrefixCache
from longreach.compressors.memory import embedded
from longreach.corpus.store import Corpus
from longreach.engine.adapters import adapted
from longreach.engine.engine import engine_of
from longreach.engine.prompt import Prompt, PromptBuilder
from longreach.engine.request import Handle, Request, Written, stop_tokens
from longreach.engine.sampling import Sampling
from longreach.engine.turns import Turn
from longreach.errors import (
    FingerprintMismatch,
    NothingFound,
    UsageError,
)
from longreach.models.decoder import add_adapter, embedding_weight, window_of
from longreach.models.fingerprint import base_fingerprint
from longreach.models.sharing import decode, decode_stream
from longreach.reading.answer import Answer, AnswerStream, Cancellation, Timings, Usage
from longreach.reading.planner import Plan, Planner
from longreach.reading.policy import DEFAULT_BUDGET, Policy
from longreach.reading.remembered import Before, Remembered
from longreach.reading.scorecard import scorecard_of
from longreach.reading.view import DocumentsAmong, View

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class _Planned(NamedTuple):
    """A plan and its prompt, ready to be read, and the seconds it took to get there."""

    plan: Plan
    prompt: Prompt
    before: Before | None
    assembled_seconds: float


class _Asked(NamedTuple):
    """A question with all that is said about it; see `Reader.ask_many`."""

    question: str
    document: str | None
    policy: Policy
    words: str | None


class Reader:
    """Answers questions from a corpus.

    Threads may share one reader, and any number of readers, with different adapters, may share one
    model: each gives what it gives alone, streams that are read slowly or left alone halfway
    included. Documents may be added, and the model's adapters trained, meanwhile. All readers of a
    model share its engine: what they write at the same time is written together, and contexts that
    are alike are read once. Code of your own that runs the model beside them goes under
    `longreach.models.sharing.exclusive(model)`.

    Args:
        corpus: The corpus; its vectors must have been made for this model.
        model: A causal language model, as `longreach.load` gives it.
        tokenizer: Its tokenizer.
        adapter: Folder of a PEFT adapter; None takes the one stored with the corpus, if there is
            one. It is switched on only while this reader reads and writes.
        policy: What to read for a question, unless a call says otherwise; None takes what the
            corpus' scorecard found best with this adapter, else `Policy()`.
        hot_bytes: Memory for KV caches of contexts read before, so that the next question about
            them skips reading.
        hot: Such caches that readers of the same model share; None keeps some for this one alone.

    Raises:
        FingerprintMismatch: The corpus was made, or the adapter trained, for another model.
        ModelError: The adapter does not fit the model.
    """

    def __init__(
        self,
        corpus: Corpus,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        adapter: str | Path | None = None,
        *,
        policy: Policy | None = None,
        hot_bytes: int = 512 << 20,
        hot: PrefixCache | None = None,
    ) -> None:
        # Memory means something to the model that made it only; any other would answer from noise.
        if base_fingerprint(model, tokenizer) != corpus.settings.model_fingerprint:
            raise FingerprintMismatch(
                f"The vectors of corpus '{corpus.name}' were made for another model"
                f" ({corpus.settings.model_ref or corpus.settings.model_fingerprint}): load that"
                " one, or ingest the documents into a new corpus with this one."
            )
        self.corpus = corpus
        self.model = model
        self.tokenizer = tokenizer
        folder = Path(adapter) if adapter is not None else corpus.adapter_path
        self.adapter: str | None = None
        if folder is not None:
            self.adapter = add_adapter(model, folder, corpus.settings.model_fingerprint)
        self.scorecard = None if policy else scorecard_of(corpus, self.adapter)
        measured = self.scorecard.best.policy if self.scorecard else None
        self.policy = policy or measured or Policy()
        self._builder = PromptBuilder(model, tokenizer)
        self._planner = Planner(corpus, self._builder, window_of(model))
        self._window = window_of(model)
        # An empty cache is false, so it has to be compared with None.
        self._hot = PrefixCache(hot_bytes) if hot is None else hot
        self._remembered = Remembered(corpus, model, self._hot)
        self._stops = stop_tokens(model, tokenizer)

    def ask(
        self,
        question: str,
        *,
        document: str | None = None,
        policy: Policy | None = None,
        sampling: Sampling | None = None,
    ) -> Answer:
        """Answers one question.

        Args:
            question: The question.
            document: The document it is about; None leaves finding it to the retriever. Where no
                passage of it matches ("Sum it up."), it is read from its start, as far as the
                budget goes.
            policy: What to read for it; None takes the reader's own.
            sampling: How to write.

        Raises:
            UsageError: There is no such document.
            NothingFound: No passage matches the question, and no document is named.
            ContextError: The question, or no passage beside it, fits the budget; or the prompt and
                the answer do not fit the model's window.
            CorpusError: The corpus holds no documents, or stored vectors are damaged.
        """
        stream = self.stream(question, document=document, policy=policy, sampling=sampling)
        for _ in stream:
            pass
        assert stream.answer is not None
        return stream.answer

    def stream(
        self,
        question: str,
        *,
        document: str | None = None,
        policy: Policy | None = None,
        sampling: Sampling | None = None,
        history: Sequence[Turn] = (),
        among: Collection[str] | None = None,
    ) -> AnswerStream:
        """Answers like `ask`, and gives the text piece by piece while it is written.

        Errors come with the first piece.

        Args:
            question: See `ask`.
            document: See `ask`.
            policy: See `ask`.
            sampling: See `ask`.
            history: Earlier turns of the conversation. The budget does not count them.
            among: Names of the documents in which passages are looked for; None for all.
        """
        view = View(history, among)
        cancellation = Cancellation()
        pieces = self._stream(
            question, document, policy or self.policy, sampling or Sampling(), view, cancellation
        )
        return AnswerStream(pieces, cancellation)

    def ask_many(
        self,
        questions: Sequence[str],
        *,
        documents: Sequence[str | None] | None = None,
        policy: Policy | Sequence[Policy] | None = None,
        words: Sequence[str] | None = None,
        sampling: Sampling | None = None,
        batch_size: int = 8,
    ) -> list[Answer]:
        """Answers questions in batches, each as `ask` would. Errors as there.

        One error stops nothing: where no passage matches a question, its answer is empty, and so
        are its passages.

        Args:
            questions: The questions, as the retriever gets them.
            documents: The document of each, or None.
            policy: What to read, for all of them or for each.
            words: What the model is told after the context for each, with the question in it; None
                for the reader's own words.
            sampling: How to write.
            batch_size: Questions answered together.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}; it must be at least 1.")
        chosen = policy or self.policy
        policies = [chosen] * len(questions) if isinstance(chosen, Policy) else chosen
        unnamed: list[str | None] = [None] * len(questions)
        named = unnamed if documents is None else documents
        asked: list[_Asked] = []
        for parts in zip(questions, named, policies, words or unnamed, strict=True):
            asked.append(_Asked(*parts))
        answers: list[Answer] = []
        for first in range(0, len(asked), batch_size):
            batch = asked[first : first + batch_size]
            answers += self._answer_together(batch, sampling or Sampling())
        return answers

    def _answer_together(self, asked: Sequence[_Asked], sampling: Sampling) -> list[Answer]:
        """Returns the answers to questions that are written in one batch."""
        # The timings of each answer count from when all of them were asked for.
        began = time.perf_counter()
        # A question without an answer keeps its place, so that answers come in order.
        waiting: list[tuple[_Planned, Handle] | None] = []
        for one in asked:
            try:
                planned = self._plan(one.question, one.document, one.policy, sampling, one.words)
            except NothingFound:
                waiting.append(None)
                continue
            # All are submitted before one is waited for, so that the engine writes them together.
            waiting.append((planned, self._submit(planned, sampling, began)))
        answers: list[Answer] = []
        for one, under_way in zip(asked, waiting, strict=True):
            if under_way is None:
                seconds = time.perf_counter() - began
                answers.append(Answer.unanswered(one.policy.name, seconds))
            else:
                planned, handle = under_way
                answers.append(self._answer(planned, handle.result()))
        return answers

    def _stream(
        self,
        question: str,
        document: str | None,
        policy: Policy,
        sampling: Sampling,
        view: View,
        cancellation: Cancellation,
    ) -> Iterator[str | Answer]:
        began = time.perf_counter()
        planned = self._plan(question, document, policy, sampling, view=view)
        handle = self._submit(planned, sampling, began)
        cancellation.attach(handle)
        yield from decode_stream(self.tokenizer, handle, skip_special_tokens=True)
        yield self._answer(planned, handle.result())

    def _submit(self, planned: _Planned, sampling: Sampling, began: float) -> Handle:
        """Hands a prompt to the model's engine."""
        request = Request(
            planned.prompt.embeds,
            sampling,
            self._stops,
            self._adapter_of(planned.plan.policy),
            cuts=planned.prompt.cuts,
            prefixes=self._hot if self._hot.max_bytes else None,
            began=began,
        )
        before = planned.before
        if before is not None:
            request = replace(
                request, after=before.cache, after_name=before.name, position=before.position
            )
        return engine_of(self.model).submit(request)

    def _adapter_of(self, policy: Policy) -> str | None:
        return self.adapter if policy.adapter else None

    def _plan(
        self,
        question: str,
        document: str | None,
        policy: Policy,
        sampling: Sampling,
        words: str | None = None,
        view: View | None = None,
    ) -> _Planned:
        """Plans what is read and how, and assembles it in document order."""
        began = time.perf_counter()
        builder = self._builder
        planner = self._planner
        if view is not None and (view.history or view.among is not None):
            builder = builder.following(view.history)
            planner = Planner(DocumentsAmong(self.corpus, view.among), builder, self._window)
            policy = self._allow_for(policy, builder, sampling)
        plan = planner.plan(
            question,
            policy,
            document=document,
            words=words,
            max_new_tokens=sampling.max_new_tokens,
        )
        memories, before = self._remembered.take(plan.memory)
        with adapted(self.model, [self._adapter_of(policy)]):
            if before is not None:
                prompt = builder.build_behind(plan.text, plan.question, plan.request)
                prompt = replace(prompt, vectors=before.entries)
            else:
                vectors = embedded(memories, embedding_weight(self.model))
                prompt = builder.build(vectors, plan.text, plan.question, plan.request)
        return _Planned(plan, prompt, before, time.perf_counter() - began)

    def _allow_for(self, policy: Policy, builder: PromptBuilder, sampling: Sampling) -> Policy:
        """Returns the policy with what earlier turns take added to its budget."""
        earlier = builder.fixed("") - self._builder.fixed("")
        budget = (policy.budget or DEFAULT_BUDGET) + earlier
        if self._window is not None:
            # As without earlier turns, a budget that was not asked for gives way to the answer.
            most = max(self._window - sampling.max_new_tokens, 1)
            budget = min(budget, max(most, policy.budget or 1))
        return replace(policy, budget=budget)

    def _answer(self, planned: _Planned, written: Written) -> Answer:
        plan, prompt, before, assembled_seconds = planned
        positions = len(prompt.embeds)
        cached = written.cached
        if before is not None:
            positions += before.entries
            if before.hot:
                cached += before.entries
        usage = Usage(
            positions=positions,
            vectors=prompt.vectors,
            raw_tokens=prompt.raw_tokens,
            cached=cached,
            source_tokens=plan.source_tokens,
            answer_tokens=len(written.tokens),
            kv_bytes=written.kv_bytes,
        )
        timings = Timings(
            plan.retrieved_seconds,
            assembled_seconds,
            written.first_token_seconds,
            written.seconds,
        )
        text = decode(self.tokenizer, written.tokens, skip_special_tokens=True).strip()
        return Answer(text, list(plan.citations), usage, timings, plan.policy.name)
