"""What the endpoints of one server share, and how a question becomes an answer on its way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends
from starlette.requests import Request

from longreach.engine.sampling import Sampling
from longreach.serving.answering.citations import Quoter
from longreach.serving.answering.grounded import GroundedDraft
from longreach.serving.answering.joined import JoinedDraft, Source
from longreach.serving.answering.plain import begin_conversation
from longreach.serving.answering.question import Question
from longreach.serving.answering.writing import Draft, Outcome, Writing
from longreach.serving.database import Database
from longreach.serving.filters import Filter, check_filter, matches
from longreach.serving.ingesting import Ingesting
from longreach.serving.members import COMPLETED, IN_PROGRESS, Member, Members
from longreach.serving.metrics import Metrics
from longreach.serving.pool import Pool
from longreach.serving.problems import Problem, no_such
from longreach.serving.searching import limit_passages
from longreach.serving.security.keys import ApiKey, KeyRing
from longreach.serving.security.limits import Limits
from longreach.serving.settings import ServeSettings
from longreach.serving.stores import VectorStore, VectorStores
from longreach.serving.uploads import Uploads

_RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class Searched:
    """Where passages are looked for.

    Attributes:
        members: The files by the names of their documents.
        among: Names of documents; None for all.
        waiting: The number of files that are not read yet.
    """

    members: dict[str, Member]
    among: Collection[str] | None
    waiting: int = 0


class Service:
    """Everything that the endpoints of one server share.

    Args:
        settings: The server's.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.keys = None if settings.api_keys is None else KeyRing.load(settings.api_keys)
        self.limits = Limits()
        self.database = Database(settings.store)
        self.pool = Pool(settings)
        self.uploads = Uploads(self.database, settings)
        folder = str(settings.store)
        self.members = Members(self.database, self.pool, folder)
        self.stores = VectorStores(self.database, self.pool, self.members, folder)
        self.ingesting = Ingesting(self)
        self.metrics = Metrics()
        self.metrics.watch(self.pool, self.ingesting)
        self.is_draining = False
        self.encoder: object = None  # held, so that it stays loaded
        self.quoter = Quoter()
        self._executor = ThreadPoolExecutor(settings.max_requests, "longreach-answer")
        self._lock = threading.Lock()
        self._at_work: set[Writing] = set()

    def start(self) -> None:
        """Resumes what an earlier server has left."""
        self.ingesting.start()

    def close(self) -> bool:
        """Ends; returns whether all threads have ended in time."""
        self.is_draining = True
        with self._lock:
            left = list(self._at_work)
        for writing in left:
            writing.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)
        has_ended = self.ingesting.end(self.settings.drain_seconds)
        if has_ended:
            self.pool.close()
            self.database.close()
        return has_ended

    # -- answers

    def answer(self, model: str, question: Question, *, param: str = "model") -> Writing:
        """Begins the answer of a model or a corpus, in a thread.

        Raises:
            Problem: 404, there is no such model; 503, too much is asked at a time.
        """
        if model == self.pool.model_id:

            def write_plain(write: Callable[[Draft], None]) -> None:
                with self.pool.open_model() as shared:
                    write(begin_conversation(shared, question))

            return self._begin(write_plain, question)
        store = self.stores.find(model)
        if store is None:
            raise no_such("model", model, param)
        return self.answer_from(store, question)

    def answer_from(self, store: VectorStore, question: Question) -> Writing:
        """Begins an answer from a vector store, in a thread.

        Raises:
            Problem: 503, too much is asked at a time.
        """
        check_filter(question.reading.filters)

        def write_grounded(write: Callable[[Draft], None]) -> None:
            searched = self.search_in(store, question.reading.filters)
            asked = limit_passages(question, self, store, searched)
            with self.pool.open_corpus(store.corpus) as session:
                write(GroundedDraft(session, asked, self.quoter, searched))
            self.stores.touch(store)

        return self._begin(write_grounded, question)

    def answer_from_several(self, stores: Sequence[VectorStore], question: Question) -> Writing:
        """Begins an answer from the text of several vector stores, in a thread.

        Raises:
            Problem: 503, too much is asked at a time.
        """
        check_filter(question.reading.filters)

        def write_joined(write: Callable[[Draft], None]) -> None:
            with ExitStack() as opened:
                sources = []
                for store in stores:
                    searched = self.search_in(store, question.reading.filters)
                    session = opened.enter_context(self.pool.open_corpus(store.corpus))
                    sources.append(Source(session, searched.members, searched.among))
                shared = self.pool.find_shared([source.session for source in sources])
                write(JoinedDraft(shared, sources, question, self.quoter))

        return self._begin(write_joined, question)

    def check_model(self, model: str) -> None:
        """Raises Problem where there is no such model."""
        if model != self.pool.model_id and self.stores.find(model) is None:
            raise no_such("model", model, "model")

    def search_in(self, store: VectorStore, filters: Filter | None) -> Searched:
        """Returns which documents of a vector store pass a filter."""
        with self.pool.open_corpus(store.corpus) as session:
            everything = self.members.all(store)
            members = {one.document: one for one in everything if one.status == COMPLETED}
            found = {}
            for name, member in members.items():
                if matches(filters, member.attributes):
                    found[name] = member
            # Only where something is left out does the search have to look at names.
            all_names = self.members.document_names(session)
        among = None if len(found) == len(all_names) else found.keys()
        waiting = sum(one.status == IN_PROGRESS for one in everything)
        return Searched(members, among, waiting)

    def end(self, writing: Writing, outcome: Outcome | None, key: ApiKey | None) -> None:
        """Counts an answer that has come to its end; None for one whose client went away."""
        if outcome is None:
            self.metrics.count_cancelled()
            return
        with self._lock:
            at_work = len(self._at_work)
        self.metrics.count_answer(outcome, at_work + 1)
        self.limits.count_tokens(key, outcome.prompt_tokens + outcome.completion_tokens)

    def _begin(
        self, write: Callable[[Callable[[Draft], None]], None], question: Question
    ) -> Writing:
        with self._lock:
            if self.is_draining or len(self._at_work) >= self.settings.max_requests:
                raise Problem(
                    503,
                    "The server has as many questions as it can take: try again.",
                    code="overloaded",
                    retry_after=_RETRY_SECONDS,
                )
            writing = Writing(write, question.stops, self._executor)
            self._at_work.add(writing)
        writing.ended.add_done_callback(lambda _: self._drop(writing))
        return writing

    def _drop(self, writing: Writing) -> None:
        with self._lock:
            self._at_work.discard(writing)


def service_of(request: Request) -> Service:
    """Returns the service of the app that answers a request."""
    return cast(Service, request.app.state.service)


def key_of(request: Request) -> ApiKey | None:
    """Returns the key that a request came with."""
    return cast("ApiKey | None", request.scope.get("state", {}).get("key"))


Shared = Annotated[Service, Depends(service_of)]


def make_sampling(
    service: Service,
    *,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
) -> Sampling:
    """Returns how tokens are chosen, with the server's defaults; without a temperature, greedily.

    Raises:
        UsageError: A value cannot be.
    """
    more: dict[str, Any] = {}
    if temperature is not None:
        more["temperature"] = temperature
    if top_p is not None:
        more["top_p"] = top_p
    return Sampling(max_tokens or service.settings.max_new_tokens, seed=seed, **more)
