"""Answers from several vector stores: the text of the best passages of each.

Scores of different corpora do not compare, so that their rankings are merged by rank. Memory and
adapters belong to one corpus each, and are not read.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from longreach.errors import NothingFound
from longreach.models.decoder import window_of
from longreach.reading.answer import Answer, Timings, Usage
from longreach.reading.planner import Plan, Planner
from longreach.reading.policy import DEFAULT_K, Policy
from longreach.serving.answering.plain import PromptDraft

if TYPE_CHECKING:
    from longreach.corpus.schema import DocumentInfo, PassageInfo
    from longreach.corpus.search.retrieval import Passage
    from longreach.engine.prompt import Prompt
    from longreach.serving.answering.citations import Quote, Quoter
    from longreach.serving.answering.question import Question
    from longreach.serving.answering.writing import Outcome
    from longreach.serving.members import Member
    from longreach.serving.pool import SharedModel
    from longreach.session.session import Session

_SEPARATOR = "\0"


@dataclass(frozen=True)
class Source:
    """One of the vector stores.

    Attributes:
        session: Its corpus.
        members: Its files by the names of their documents.
        among: The documents in which passages are looked for; None for all.
    """

    session: Session
    members: Mapping[str, Member]
    among: Collection[str] | None


class _Joined:
    """Several corpora as the planner asks one; documents are named by their corpus too."""

    name = "of these vector stores"

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    def documents(self) -> list[DocumentInfo]:
        """Returns the documents of all of them."""
        found = []
        for source in self._sources:
            found += source.session.documents()
        return found

    def passages(self, name: str) -> list[PassageInfo]:
        """Returns the passages of a document in order."""
        corpus, _, document = name.partition(_SEPARATOR)
        for source in self._sources:
            if source.session.name == corpus:
                return source.session.corpus.passages(document)
        raise AssertionError(f"no corpus {corpus!r} was searched")

    def search(self, query: str, k: int, retriever: str, document: str | None) -> list[Passage]:
        """Returns the best passages: the first ones of each ranking, then the second ones."""
        ranked: list[tuple[int, int, Passage]] = []
        for order, source in enumerate(self._sources):
            corpus = source.session.corpus
            found = corpus.search(query, k, retriever, among=source.among)
            for rank, passage in enumerate(found):
                named = f"{corpus.name}{_SEPARATOR}{passage.document}"
                ranked.append((rank, order, replace(passage, document=named)))
        ranked.sort(key=lambda item: item[:2])
        return [passage for _, _, passage in ranked[:k]]


class JoinedDraft(PromptDraft):
    """An answer from several vector stores, while it is written.

    Args:
        shared: The model that reads all of them.
        sources: The vector stores.
        question: The question.
        quoter: Verifies the citations.
    """

    def __init__(
        self,
        shared: SharedModel,
        sources: Sequence[Source],
        question: Question,
        quoter: Quoter,
    ) -> None:
        began = time.perf_counter()
        builder = shared.builder.following(question.history)
        reading = question.reading
        policy = Policy.passages(reading.k or DEFAULT_K, budget=reading.budget, adapter=False)
        planner = Planner(_Joined(sources), builder, window_of(shared.model))
        most = question.sampling.max_new_tokens
        self._plan: Plan = planner.plan(question.text, policy, max_new_tokens=most)
        if not self._plan.text:
            raise NothingFound("No passage of these vector stores fits the question.")
        self._prompt: Prompt = builder.build(
            [], self._plan.text, self._plan.question, self._plan.request
        )
        self._assembled_seconds = time.perf_counter() - began
        self._sources = sources
        self._quoter = quoter
        super().__init__(shared, self._prompt, question.sampling, began)

    def sum_up(self, text: str, stopped: bool) -> Outcome:
        """Returns what it came to; see `Draft.sum_up`."""
        outcome = super().sum_up(text, stopped)
        usage = Usage(
            positions=outcome.prompt_tokens,
            vectors=0,
            raw_tokens=self._prompt.raw_tokens,
            cached=outcome.cached_tokens,
            source_tokens=self._plan.source_tokens,
            answer_tokens=outcome.completion_tokens,
            kv_bytes=0,
        )
        timings = Timings(
            self._plan.retrieved_seconds,
            self._assembled_seconds,
            outcome.first_token_seconds,
            outcome.seconds,
        )
        answer = Answer(text, list(self._plan.citations), usage, timings, self._plan.policy.name)
        return replace(outcome, answer=answer, quotes=self._quote())

    def _quote(self) -> list[Quote]:
        """Returns the passages that quote exactly, in the order of their ranks."""
        quotes = []
        for citation in self._plan.citations:
            corpus, _, document = citation.document.partition(_SEPARATOR)
            for source in self._sources:
                if source.session.name == corpus:
                    own = replace(citation, document=document)
                    opened = source.session.corpus
                    quotes += self._quoter.quote(opened, [own], source.members)
        return quotes
