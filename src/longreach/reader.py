"""Answers from a corpus: retrieve, assemble compressed and raw context, generate, stream, cite.

LLoCO (arXiv 2404.07979) prepends compressed passages to the question; REFRAG (arXiv 2509.01092) keeps the best few
raw. The prompt is [system ; vectors ; raw passages ; question] in the model's own chat template.
"""

import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch

from longreach.caches.prefix import PrefixCache
from longreach.corpus.retrieval import Method, Passage
from longreach.corpus.store import Corpus
from longreach.errors import ContextError, CorpusError, FingerprintMismatch, UsageError
from longreach.models.decoder import add_adapter, only_adapter, window_of
from longreach.models.fingerprint import base_fingerprint
from longreach.models.generate import Sampling, read_prefix, stop_tokens, write_tokens
from longreach.models.prompt import Prompt, PromptBuilder

Compressed = Literal["passages", "document", "none"]
DEFAULT_BUDGET = 2048


@dataclass(frozen=True)
class Policy:
    """What the reader reads for a question.

    Attributes:
        k: passages retrieved.
        raw: how many of them, best first, are read as raw text.
        compressed: what is read as vectors: the retrieved passages that are not read raw ("passages"), all of the best
            passage's document ("document", or "passages" where that does not fit), or nothing ("none").
        budget: positions of the whole prompt at most: template, vectors, raw text and question. None: 2048, or what
            the model's window leaves beside the answer where that is less.
        retriever: "bm25", "dense" or "hybrid".
    """

    k: int = 5
    raw: int = 2
    compressed: Compressed = "passages"
    budget: int | None = None
    retriever: str = "bm25"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k is {self.k}; at least 1 passage has to be retrieved.")
        if self.raw < 0:
            raise UsageError(f"raw is {self.raw}; it must be 0 or more passages.")
        if self.budget is not None and self.budget < 1:
            raise UsageError(f"The budget is {self.budget} positions; a prompt needs some hundreds (default 2048).")
        if self.retriever not in get_args(Method):
            raise UsageError(f"There is no retriever '{self.retriever}': use one of {', '.join(get_args(Method))}.")
        if self.compressed not in get_args(Compressed):
            raise UsageError(f"compressed is '{self.compressed}'; use one of {', '.join(get_args(Compressed))}.")


@dataclass(frozen=True)
class Citation(Passage):
    """A retrieved passage and how it was read: as "raw" text, as "vectors", or "not read" for want of room."""

    read_as: str


@dataclass(frozen=True)
class Usage:
    """Positions the model read, and where they came from.

    Attributes:
        positions: the whole prompt.
        vectors: positions that were summary vectors.
        raw_tokens: positions that were raw text of passages.
        cached: positions taken from the KV cache of an earlier question.
        source_tokens: tokens of source text behind the vectors and the raw text, each passage counted once.
        answer_tokens: tokens written.
    """

    positions: int
    vectors: int
    raw_tokens: int
    cached: int
    source_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds since the question was asked; questions asked together share those of their batch."""

    retrieved_seconds: float
    assembled_seconds: float
    first_token_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Answer:
    """What a question got: the text, the passages it may cite, what was read, and how long it took."""

    text: str
    passages: list[Citation]
    usage: Usage
    timings: Timings

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values for JSON."""
        return asdict(self)


class _Plan(NamedTuple):
    """A prompt, ready to be read, and the seconds it took to get there."""

    prompt: Prompt
    passages: list[Citation]
    source_tokens: int
    retrieved_seconds: float
    assembled_seconds: float


class AnswerStream:
    """The pieces of an answer's text as they are written; after the last one, `answer` holds the whole."""

    def __init__(self, pieces: Iterator[str | Answer]) -> None:
        self._pieces = pieces
        self.answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            if isinstance(piece, Answer):
                self.answer = piece
            else:
                yield piece


class Reader:
    """Answers questions from a corpus.

    Args:
        corpus: the corpus; its vectors must have been made for this model.
        model: a causal language model, as `longreach.load` gives it.
        tokenizer: its tokenizer.
        adapter: folder of a PEFT adapter; None takes the one stored with the corpus, if there is one. It is switched
            on only while this reader reads and writes.
        policy: what to read for a question, unless a call says otherwise.
        hot_bytes: memory for KV caches of contexts read before, so that the next question about them skips reading.

    Raises:
        FingerprintMismatch: the corpus was made for another model.
        ModelError: the adapter does not fit the model.
    """

    def __init__(
        self,
        corpus: Corpus,
        model: Any,
        tokenizer: Any,
        adapter: str | Path | None = None,
        *,
        policy: Policy | None = None,
        hot_bytes: int = 512 << 20,
    ) -> None:
        if base_fingerprint(model, tokenizer) != corpus.settings.model_fingerprint:
            raise FingerprintMismatch(
                f"The vectors of corpus '{corpus.name}' were made for another model "
                f"({corpus.settings.model_ref or corpus.settings.model_fingerprint}): load that one, or ingest the "
                "documents into a new corpus with this one."
            )
        self.corpus = corpus
        self.model = model
        self.tokenizer = tokenizer
        self.policy = policy or Policy()
        folder = Path(adapter) if adapter is not None else corpus.adapter_path
        self.adapter = add_adapter(model, folder) if folder else None
        self._builder = PromptBuilder(model, tokenizer)
        self._hot = PrefixCache(hot_bytes)
        self._stops = stop_tokens(model, tokenizer)

    def ask(self, question: str, *, policy: Policy | None = None, sampling: Sampling | None = None) -> Answer:
        """Answers one question.

        Raises:
            ContextError: the question, or no passage beside it, fits the budget; or the prompt and the answer do not
                fit the model's window.
            CorpusError: the corpus holds no documents, or stored vectors are damaged.
        """
        stream = self.stream(question, policy=policy, sampling=sampling)
        for _ in stream:
            pass
        assert stream.answer is not None
        return stream.answer

    def stream(self, question: str, *, policy: Policy | None = None, sampling: Sampling | None = None) -> AnswerStream:
        """Like `ask`, but gives the text piece by piece while it is written. Errors come with the first piece."""
        return AnswerStream(self._stream(question, policy or self.policy, sampling or Sampling()))

    def ask_many(
        self,
        questions: Sequence[str],
        *,
        policy: Policy | None = None,
        sampling: Sampling | None = None,
        batch_size: int = 8,
    ) -> list[Answer]:
        """Answers questions in batches, each as `ask` would, whatever the lengths of contexts. Errors as there."""
        sampling, answers = sampling or Sampling(), list[Answer]()
        for first in range(0, len(questions), batch_size):
            began = time.perf_counter()
            plans = [self._plan(q, policy or self.policy, sampling) for q in questions[first : first + batch_size]]
            steps, first_token = list[list[int | None]](), None
            with only_adapter(self.model, self.adapter):
                for step in write_tokens(self.model, [plan.prompt.embeds for plan in plans], self._stops, sampling):
                    first_token = first_token or time.perf_counter() - began
                    steps.append(step)
            for plan, written in zip(plans, zip(*steps, strict=True) if steps else [()] * len(plans), strict=True):
                tokens = [token for token in written if token is not None]
                answers.append(self._answer(plan, tokens, 0, first_token, time.perf_counter() - began))
        return answers

    def _stream(self, question: str, policy: Policy, sampling: Sampling) -> Iterator[str | Answer]:
        began = time.perf_counter()
        plan = self._plan(question, policy, sampling)
        tokens, shown, first_token = list[int](), "", None
        cache, past, cached = self._read_context(plan.prompt)
        steps = write_tokens(self.model, [plan.prompt.embeds[past:]], self._stops, sampling, cache)
        while True:
            with only_adapter(self.model, self.adapter):  # not while the caller holds the generator
                step = next(steps, None)
            if step is None or step[0] is None:
                break
            first_token = first_token or time.perf_counter() - began
            tokens.append(step[0])
            text = self._decode(tokens)
            if not text.endswith("\ufffd"):  # else half a character: wait for its other bytes
                yield text[len(shown) :]
                shown = text
        yield self._decode(tokens)[len(shown) :]
        yield self._answer(plan, tokens, cached, first_token, time.perf_counter() - began)

    def _plan(self, question: str, policy: Policy, sampling: Sampling) -> _Plan:
        """Chooses what is read as raw text and what as vectors, and assembles it in document order."""
        began = time.perf_counter()
        budget = self._budget(policy, sampling)
        room = budget - self._builder.fixed(question)
        if room <= 0:
            left = "" if policy.budget or budget == DEFAULT_BUDGET else " (what the answer leaves of the window)"
            raise ContextError(
                f"The question takes {budget - room} positions, the budget is {budget}{left}: shorten it, raise the "
                f"budget, or ask for fewer than {sampling.max_new_tokens} new tokens."
            )
        found = self.corpus.search(question, policy.k, policy.retriever)
        if not found:  # a question without a word of the corpus ("Sum it up."): read from the start
            found = [Passage(**asdict(info), score=0.0) for info in self.corpus.passages()[: policy.k]]
        if not found:
            raise CorpusError(f"Corpus '{self.corpus.name}' holds no documents: add some with ingest first.")
        retrieved = time.perf_counter() - began
        document = [info for info in self.corpus.passages(found[0].document)] if policy.compressed == "document" else []
        whole = self._builder.vectors_cost(sum(info.n_vectors for info in document))
        as_vectors = [(info.revision, info.index, info.tokens) for info in document] if whole <= room else []
        room -= whole if as_vectors else 0
        as_raw: dict[tuple[str, int], list[int]] = {}
        for passage in found[: policy.raw]:
            ids = self._builder.raw(passage.text)
            if len(ids) <= room:
                as_raw[passage.revision, passage.index] = ids
                room -= len(ids)
        if policy.compressed != "none" and not as_vectors:
            room -= self._builder.vectors_cost(1) - 1
            for passage in found:
                if (passage.revision, passage.index) not in as_raw and passage.n_vectors <= room:
                    as_vectors.append((passage.revision, passage.index, passage.tokens))
                    room -= passage.n_vectors
        if not as_raw and not as_vectors:
            raise ContextError(
                f"No passage fits the {budget} positions of the budget beside the question: raise the budget."
            )
        chosen = {(revision, index) for revision, index, _ in as_vectors}
        vectors: list[torch.Tensor] = []
        for revision in sorted({revision for revision, _ in chosen}):
            vectors += self.corpus.vectors(revision, sorted(index for owner, index in chosen if owner == revision))
        prompt = self._builder.build(vectors, [as_raw[key] for key in sorted(as_raw)], question)
        keys = [(passage.revision, passage.index) for passage in found]
        how = ["raw" if key in as_raw else "vectors" if key in chosen else "not read" for key in keys]
        source = {
            (passage.revision, passage.index): passage.tokens
            for passage in found
            if (passage.revision, passage.index) in as_raw
        }
        source |= {(revision, index): tokens for revision, index, tokens in as_vectors}
        citations = [Citation(**vars(passage), read_as=read_as) for passage, read_as in zip(found, how, strict=True)]
        return _Plan(prompt, citations, sum(source.values()), retrieved, time.perf_counter() - began)

    def _budget(self, policy: Policy, sampling: Sampling) -> int:
        """The positions a prompt may take, so that the answer fits the window after it."""
        window = window_of(self.model) or sys.maxsize
        left = window - sampling.max_new_tokens
        if left < (policy.budget or 1):
            asked = f"A prompt of {policy.budget or 1} positions and {sampling.max_new_tokens} new tokens"
            raise ContextError(f"{asked} exceed the model's window of {window}: lower one of them.")
        return policy.budget or min(DEFAULT_BUDGET, left)

    def _read_context(self, prompt: Prompt) -> tuple[Any, int, int]:
        """The KV cache after the part that does not depend on the question, its length, and how much of it was hot."""
        keys = [_content_key(prompt.embeds[:end]) for end in prompt.boundaries]
        cache, past = None, 0
        for end, key in reversed(list(zip(prompt.boundaries, keys, strict=True))):
            cache = self._hot.get(key)
            if cache is not None:
                past = end
                break
        cached = past
        for end, key in zip(prompt.boundaries, keys, strict=True):
            if end > past:
                with only_adapter(self.model, self.adapter):
                    cache = read_prefix(self.model, prompt.embeds[past:end], cache)
                self._hot.put(key, cache)
                past = end
        return cache, past, cached

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _answer(
        self, plan: _Plan, tokens: Sequence[int], cached: int, first_token: float | None, total: float
    ) -> Answer:
        prompt = plan.prompt
        usage = Usage(len(prompt.embeds), prompt.vectors, prompt.raw_tokens, cached, plan.source_tokens, len(tokens))
        timings = Timings(plan.retrieved_seconds, plan.assembled_seconds, first_token or total, total)
        return Answer(self._decode(tokens).strip(), plan.passages, usage, timings)


def _content_key(embeds: torch.Tensor) -> bytes:
    """Names a prefix by its content, so that a changed document can never meet an old cache."""
    return hashlib.sha256(embeds.contiguous().cpu().view(torch.uint8).numpy().data).digest()
