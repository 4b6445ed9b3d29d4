"""Passages of a vector store that fit a query, with scores from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from longreach.errors import NothingFound
from longreach.reading.answer import Citation
from longreach.reading.policy import DEFAULT_K

if TYPE_CHECKING:
    from longreach.corpus.search.retrieval import Passage
    from longreach.serving.answering.citations import Quote
    from longreach.serving.answering.question import Question
    from longreach.serving.state import Searched, Service
    from longreach.serving.stores import VectorStore

DEFAULT_RETRIEVER = "bm25"
_RETRIEVERS = ("bm25", "dense", "hybrid")
# Of reciprocal rank fusion: the sum of a passage that is the first one in both rankings.
_BEST_FUSED = 2 / 61


def search(
    service: Service,
    store: VectorStore,
    queries: Sequence[str],
    searched: Searched,
    *,
    most: int,
    retriever: str | None = None,
    threshold: float = 0.0,
) -> list[Quote]:
    """Returns the best passages for queries; a passage counts with its best score.

    Args:
        service: The server.
        store: The vector store.
        queries: One or more.
        searched: Where passages are looked for.
        most: Passages at most.
        retriever: "bm25", "dense" or "hybrid"; any other word is "bm25".
        threshold: The least score.

    Raises:
        MissingDependency: The retriever is not installed.
    """
    method = retriever if retriever in _RETRIEVERS else DEFAULT_RETRIEVER
    best: dict[tuple[str, int], Passage] = {}
    with service.pool.open_corpus(store.corpus) as session:
        corpus = session.corpus
        for query in queries:
            if not query.strip():
                continue
            for passage in corpus.search(query, most, method, among=searched.among):
                score = scale_score(passage.score, method)
                known = best.get((passage.revision, passage.index))
                if score >= threshold and (known is None or known.score < score):
                    best[passage.revision, passage.index] = replace(passage, score=score)
        ranked = sorted(best.values(), key=lambda passage: -passage.score)[:most]
        found = [Citation(**vars(passage), read_as="not read") for passage in ranked]
        return service.quoter.quote(corpus, found, searched.members)


def scale_score(score: float, method: str) -> float:
    """Returns a score as a number from 0 to 1 that has the same order.

    BM25 has no upper end: s / (1 + s) keeps the order, and does not depend on other passages.
    """
    if method == "hybrid":
        scaled = score / _BEST_FUSED
    elif method == "dense":
        scaled = score
    else:
        scaled = score / (1.0 + score)
    return min(max(scaled, 0.0), 1.0)


def limit_passages(
    question: Question, service: Service, store: VectorStore, searched: Searched
) -> Question:
    """Returns a question that reads no passage below its threshold.

    Raises:
        NothingFound: None reaches it.
    """
    reading = question.reading
    if not reading.threshold:
        return question
    most = reading.k or DEFAULT_K
    found = search(
        service,
        store,
        [question.text],
        searched,
        most=most,
        threshold=reading.threshold,
    )
    if not found:
        raise NothingFound("No passage reaches the score threshold.")
    # Scores have the order of the ranking, so that the first ones are those that reach it.
    return replace(question, reading=reading.model_copy(update={"k": len(found)}))
