"""What is read for a question: retrieves passages, chooses what fits, and says how each is read.

The planner knows no model: a price list says what the parts of a prompt cost. A reader, a study and
an evaluation plan with the same code, so that an adapter learns from what will be read with it.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from longreach.corpus.documents.encodings.decode import is_encodable
from longreach.corpus.schema import DocumentInfo, PassageInfo
from longreach.corpus.search.retrieval import Passage
from longreach.engine.sampling import REQUEST
from longreach.errors import ContextError, CorpusError, LongreachError, NothingFound, UsageError
from longreach.reading.answer import Citation
from longreach.reading.choice import Choice, Key, Prices, choose
from longreach.reading.policy import DEFAULT_BUDGET, Policy
from longreach.wording import counted


class Documents(Protocol):
    """What the planner asks a corpus. `Corpus` is one."""

    @property
    def name(self) -> str:
        """Returns the name of the corpus."""

    def documents(self) -> Sequence[DocumentInfo]:
        """Returns the documents."""

    def passages(self, name: str) -> Sequence[PassageInfo]:
        """Returns the passages of a document in order."""

    def search(self, query: str, k: int, retriever: str, document: str | None) -> Sequence[Passage]:
        """Returns the `k` passages nearest to a question, best first."""


@dataclass(frozen=True)
class Plan:
    """What is read for a question.

    Attributes:
        policy: The policy that it follows.
        question: What the model is told last.
        request: What it is told between the context and the question.
        memory: Passages read as memory, in document order.
        text: Token ids of the passages read as text, in document order, as the price list gave
            them. A whole document is one entry.
        citations: The passages retrieved, best first, and how each is read.
        positions: Positions of the prompt at most.
        source_tokens: Tokens of source text behind memory and text, each passage counted once.
        retrieved_seconds: Seconds until the passages were found.
    """

    policy: Policy
    question: str
    request: str
    memory: tuple[Key, ...]
    text: tuple[list[int], ...]
    citations: tuple[Citation, ...]
    positions: int
    source_tokens: int
    retrieved_seconds: float


class Planner:
    """Plans what is read for questions about a corpus.

    Args:
        corpus: The corpus.
        prices: What the parts of a prompt cost.
        window: Positions of the model, prompt and answer together; None where it does not say.
    """

    def __init__(self, corpus: Documents, prices: Prices, window: int | None = None) -> None:
        self._corpus = corpus
        self._prices = prices
        self._window = window

    def plan(
        self,
        question: str,
        policy: Policy,
        *,
        document: str | None = None,
        words: str | None = None,
        max_new_tokens: int = 0,
        about: int | None = None,
    ) -> Plan:
        """Returns what is read for a question: retrieved, chosen and in document order.

        Args:
            question: The question, as the retriever gets it.
            policy: What to read.
            document: The document it is about; None leaves finding it to the retriever. Where no
                passage of it matches, it is read from its start.
            words: What the model is told after the context, with the question in it; None for the
                question behind the usual request.
            max_new_tokens: Positions that the answer needs in the window.
            about: Number of the passage of `document` that the question is known to be about: it
                comes first, whatever the retriever says.

        Raises:
            UsageError: There is no such document, or the question is not text.
            NothingFound: No passage matches the question, and no document is named.
            ContextError: The question, or no passage beside it, fits the budget; or the prompt and
                the answer do not fit the window.
            CorpusError: The corpus holds no documents.
        """
        began = time.perf_counter()
        if not is_encodable(question):
            raise UsageError("The question holds bytes that are not text: write it in UTF-8.")
        last, request = (question, REQUEST) if words is None else (words, "")
        budget = self._budget(policy, max_new_tokens)
        fixed = self._prices.fixed(last, request)
        # Checked before the search, because nothing that it finds could be read.
        if fixed >= budget:
            raise _question_too_long(fixed, budget, policy, max_new_tokens)

        found, from_start = self._retrieve(question, policy, document, about)
        retrieved_seconds = time.perf_counter() - began

        followed = policy
        if from_start and policy.name == "raw":
            # No passage is better than another: not the best few are read, but as many as fit.
            followed = replace(policy, raw=len(found))
        whole: Sequence[PassageInfo] = ()
        if "document" in (policy.compressed, policy.raw):
            whole = self._corpus.passages(found[0].document)
        left = (self._window or sys.maxsize) - max_new_tokens - fixed
        choice = choose(found, whole, budget - fixed, followed, self._prices, window=left)
        if not (choice.text or choice.memory or policy.nothing):
            raise ContextError(
                f"No passage fits the {counted(budget, 'position')} of the budget with the"
                " question: raise the budget."
            )
        return Plan(
            policy=policy,
            question=last,
            request=request,
            memory=choice.memory,
            text=choice.text,
            citations=_citations(found, choice, policy.k if from_start else None),
            positions=fixed + choice.positions,
            source_tokens=choice.source_tokens,
            retrieved_seconds=retrieved_seconds,
        )

    def _budget(self, policy: Policy, max_new_tokens: int) -> int:
        """Returns the positions a prompt may take, so that the answer fits the window after it."""
        left = (self._window or sys.maxsize) - max_new_tokens
        # A whole document is refused by its own length: what the gate left beside its answers is
        # only a ceiling.
        least = 1 if policy.raw == "document" else policy.budget or 1
        if left < least:
            asked = (
                f"A prompt of {counted(least, 'position')} and"
                f" {counted(max_new_tokens, 'new token')}"
            )
            raise ContextError(
                f"{asked} exceed the model's window of {self._window}: lower one of them."
            )
        return min(policy.budget or DEFAULT_BUDGET, left)

    def _retrieve(
        self, question: str, policy: Policy, document: str | None, about: int | None
    ) -> tuple[list[Passage], bool]:
        """Returns passages, best first, and whether their order is only that of the document.

        It is where no passage of a document that was named matches the question.
        """
        found = list(self._corpus.search(question, policy.k, policy.retriever, document))
        from_start = document is not None and not found
        own: list[Passage] = []
        # Only these two cases need all passages of a document, which are read from the disk.
        if document is not None and (from_start or about is not None):
            for info in self._corpus.passages(document):
                own.append(Passage(**asdict(info), score=0.0))
        if from_start:
            found = own
        if about is not None:
            asked = [passage for passage in own if passage.index == about]
            found = asked + [passage for passage in found if passage.index != about]
        if not found and not policy.nothing:
            raise self._nothing_found(policy)
        return found, from_start

    def _nothing_found(self, policy: Policy) -> LongreachError:
        name = self._corpus.name
        # An empty corpus finds nothing either, and other words would not help there.
        if not self._corpus.documents():
            return CorpusError(f"Corpus '{name}' holds no documents: add some with ingest first.")
        if policy.retriever == "bm25":
            return NothingFound(
                f"In corpus '{name}' no passage shares a word with the question; try --retriever"
                " dense, or name the document it is about with --document."
            )
        return NothingFound(
            f"In corpus '{name}' no passage is near the question: ask in other words."
        )


def _question_too_long(
    fixed: int, budget: int, policy: Policy, max_new_tokens: int
) -> ContextError:
    advice = "raise the budget"
    # The window set this limit, so a larger budget would not help.
    if policy.budget is None and budget < DEFAULT_BUDGET:
        advice = (
            f"lower the {counted(max_new_tokens, 'new token')}, which leave no more of the window"
        )
    return ContextError(
        f"The question takes {counted(fixed, 'position')}, the budget is {budget}: shorten it or"
        f" {advice}."
    )


def _citations(
    found: Sequence[Passage], choice: Choice, at_most: int | None
) -> tuple[Citation, ...]:
    """Returns the passages and how each is read.

    Args:
        found: The passages, best first.
        choice: What is read of them.
        at_most: None lists all. A number lists only those that were read, or, of those that were
            not, this many: a document read from its start may have thousands.
    """
    citations = []
    for passage in found:
        citations.append(Citation(**vars(passage), read_as=choice.read_as(passage)))
    if at_most is not None:
        read = [citation for citation in citations if citation.read_as != "not read"]
        citations = read or citations[:at_most]
    return tuple(citations)
