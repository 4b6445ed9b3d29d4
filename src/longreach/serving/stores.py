"""Vector stores: each is a corpus of the store, under a name and with metadata of clients."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from longreach.corpus.schema import is_valid_name
from longreach.corpus.store import Corpus
from longreach.errors import CorpusError
from longreach.jsontext import JsonObject
from longreach.serving.database import Database
from longreach.serving.members import CANCELLED, COMPLETED, IN_PROGRESS, Members, count_states
from longreach.serving.objects import new_id, now, short_hash
from longreach.serving.problems import Problem, no_such

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longreach.serving.pool import Pool

_LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class VectorStore:
    """A corpus as a vector store.

    Attributes:
        id: Its id, such as "vs_...", which names this corpus and none that is made anew.
        corpus: The name of the corpus.
        created_at: When it was made; seconds.
        title: What a client calls it; the name of the corpus where none has said.
        metadata: Of the client.
        last_active_at: When it was last used through the interface; seconds.
    """

    id: str
    corpus: str
    created_at: int
    title: str
    metadata: dict[str, str]
    last_active_at: int


class VectorStores:
    """The vector stores of a server.

    Args:
        database: What the interface knows of them.
        pool: The open corpora.
        members: Their files.
        store: The folder of corpora.
    """

    def __init__(self, database: Database, pool: Pool, members: Members, store: str) -> None:
        self._database = database
        self._pool = pool
        self._members = members
        self._store = store
        # The corpus of each id that was met: its settings say whether it still is.
        self._corpora: dict[str, str] = {}

    def all(self) -> list[VectorStore]:
        """Returns all that can be opened."""
        return list(self._walk())

    def get(self, given: str, param: str | None = "vector_store_id") -> VectorStore:
        """Returns the vector store of an id, or of the name of its corpus.

        Raises:
            Problem: 404.
        """
        found = self.find(given)
        if found is None:
            raise no_such("vector store", given, param)
        return found

    def find(self, given: str) -> VectorStore | None:
        """Returns the vector store of an id, or of the name of its corpus; None for none."""
        if is_valid_name(given) and not given.startswith("vs_"):
            return self._of_corpus(given)
        known = self._corpora.get(given)
        store = None if known is None else self._of_corpus(known)
        if store is not None and store.id == given:
            return store
        return next((store for store in self._walk() if store.id == given), None)

    def create(self, name: str | None, metadata: dict[str, str]) -> VectorStore:
        """Makes an empty corpus with the server's model.

        Raises:
            Problem: 409, there is one of that name.
            LongreachError: The model cannot be loaded, or the store not be written to.
        """
        corpus = _corpus_name(name)
        if corpus in Corpus.names(self._store) or corpus == self._pool.model_id:
            raise Problem(
                409,
                f"There is a model or a vector store '{corpus}' already: choose another name.",
                code="already_exists",
                param="name",
            )
        with self._pool.open_corpus(corpus, create=True) as session:
            session.open_to_add()
        # The next one opens it as any other corpus, with the model that it names.
        self._pool.forget(corpus)
        store = self.get(corpus)
        title = name if name and name != corpus else None
        self._save(store.id, title, metadata)
        return self.get(corpus)

    def modify(
        self, store: VectorStore, title: str | None, metadata: dict[str, str] | None
    ) -> VectorStore:
        """Changes what a client calls a vector store, and its metadata; None changes nothing."""
        row = self._database.row("SELECT title FROM stores WHERE id = ?", (store.id,))
        kept = None if row is None else row["title"]
        self._save(
            store.id,
            kept if title is None else title,
            store.metadata if metadata is None else metadata,
        )
        return self.get(store.id)

    def delete(self, store: VectorStore) -> None:
        """Deletes a corpus with everything in it; the uploaded files stay.

        Raises:
            CorpusBusy: Files are being added.
        """
        # First, so that no ingest begins a file of a corpus that is going.
        self._database.execute(
            "UPDATE attached SET status = ? WHERE store_id = ? AND status = ?",
            (CANCELLED, store.id, IN_PROGRESS),
        )
        Corpus.open(self._store, store.corpus, lock_seconds=_LOCK_SECONDS).delete()
        self._pool.forget(store.corpus)
        self._corpora.pop(store.id, None)
        with self._database.change():
            for table in ("attached", "batches"):
                self._database.execute(f"DELETE FROM {table} WHERE store_id = ?", (store.id,))
            self._database.execute("DELETE FROM stores WHERE id = ?", (store.id,))

    def touch(self, store: VectorStore) -> None:
        """Notes that a vector store was used now."""
        self._database.execute(
            "UPDATE stores SET last_active_at = ? WHERE id = ?", (now(), store.id)
        )

    def to_dict(self, store: VectorStore) -> JsonObject:
        """Returns OpenAI's object of a vector store."""
        members = self._members.all(store)
        counts = count_states(members)
        return {
            "id": store.id,
            "object": "vector_store",
            "created_at": store.created_at,
            "name": store.title,
            "usage_bytes": sum(member.bytes for member in members),
            "file_counts": counts,
            "status": IN_PROGRESS if counts[IN_PROGRESS] else COMPLETED,
            "last_active_at": store.last_active_at,
            "metadata": store.metadata,
            "expires_after": None,
            "expires_at": None,
            "longreach": {"corpus": store.corpus},
        }

    def _walk(self) -> Iterator[VectorStore]:
        for name in Corpus.names(self._store):
            found = self._of_corpus(name)
            if found is not None:
                yield found

    def _of_corpus(self, name: str) -> VectorStore | None:
        try:
            settings = Corpus.open(self._store, name).settings
        except CorpusError:
            # There is none, or it is damaged: then it answers nothing, and must not hide others.
            return None
        store_id = "vs_" + short_hash(name, settings.created)
        self._corpora[store_id] = name
        created = int(datetime.fromisoformat(settings.created).timestamp())
        row = self._database.row("SELECT * FROM stores WHERE id = ?", (store_id,))
        if row is None:
            return VectorStore(store_id, name, created, name, {}, created)
        return VectorStore(
            store_id,
            name,
            created,
            row["title"] or name,
            json.loads(row["metadata"]),
            row["last_active_at"] or created,
        )

    def _save(self, store_id: str, title: str | None, metadata: dict[str, str]) -> None:
        self._database.execute(
            "INSERT INTO stores VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " title = excluded.title, metadata = excluded.metadata,"
            " last_active_at = excluded.last_active_at",
            (store_id, title, json.dumps(metadata), now()),
        )


def _corpus_name(name: str | None) -> str:
    """Returns the name of the corpus for a vector store, which may have any characters."""
    cleaned = re.sub(r"[/\\:]|\.\.", "-", name or "").strip().lstrip(".")[:100].strip()
    # The prefix is that of ids.
    if is_valid_name(cleaned) and not cleaned.startswith("vs_"):
        return cleaned
    return new_id("store-")
