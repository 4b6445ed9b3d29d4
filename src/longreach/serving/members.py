"""The files of vector stores: what clients put there, and all other documents of the corpus.

What only the interface knows (attributes, states) lies in the server's database; which documents
there are, the corpus alone says. A document that `longreach ingest` has added is a file too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING

from longreach.corpus.schema import DocumentInfo
from longreach.corpus.store import Corpus
from longreach.errors import CorpusBusy
from longreach.jsontext import JsonObject
from longreach.serving.database import Database, Row
from longreach.serving.objects import new_id, now, short_hash
from longreach.serving.problems import Problem, no_such
from longreach.serving.uploads import Upload

if TYPE_CHECKING:
    from longreach.serving.pool import Pool
    from longreach.serving.stores import VectorStore
    from longreach.session.session import Session

IN_PROGRESS = "in_progress"
COMPLETED = "completed"
CANCELLED = "cancelled"
FAILED = "failed"
# It is hidden already, and leaves the corpus as soon as its lock is free.
REMOVING = "removing"
_SHORT_LOCK_SECONDS = 1.0


@dataclass(frozen=True)
class Member:
    """A file of a vector store.

    Attributes:
        id: The id of the file.
        store_id: The vector store.
        document: The document's name in the corpus.
        filename: Of the file, without folders.
        shown: The document as clients see it: no folder of the server is.
        attributes: Of the client, for filters.
        status: "in_progress", "completed", "cancelled" or "failed".
        error: What went wrong, as OpenAI's `last_error`; None where nothing did.
        notes: One sentence for each part of the file that could not be read.
        bytes: Its size.
        created_at: When it was put there; seconds.
        batch_id: The batch that it came with.
    """

    id: str
    store_id: str
    document: str
    filename: str
    shown: str
    attributes: JsonObject
    status: str
    error: JsonObject | None
    notes: tuple[str, ...]
    bytes: int
    created_at: int
    batch_id: str | None = None

    @property
    def file_id(self) -> str:
        """The id of the file."""
        return self.id

    def to_dict(self) -> JsonObject:
        """Returns OpenAI's object of a file in a vector store."""
        return {
            "id": self.id,
            "object": "vector_store.file",
            "created_at": self.created_at,
            "vector_store_id": self.store_id,
            "status": self.status,
            "last_error": self.error,
            "usage_bytes": self.bytes,
            "attributes": self.attributes,
            # The compressor of the corpus decides where passages end.
            "chunking_strategy": {"type": "other"},
            "longreach": {"document": self.shown, "notes": list(self.notes)},
        }


class Members:
    """The files of all vector stores of a server.

    Args:
        database: What the interface knows of them.
        pool: The open corpora.
        store: The folder of corpora.
    """

    def __init__(self, database: Database, pool: Pool, store: str) -> None:
        self._database = database
        self._pool = pool
        self._store = store
        self._lock = threading.Lock()
        self._documents: dict[str, tuple[str, list[DocumentInfo]]] = {}

    def all(self, store: VectorStore) -> list[Member]:
        """Returns the files of a vector store: those of clients, and all other documents."""
        rows = self._database.rows("SELECT * FROM attached WHERE store_id = ?", (store.id,))
        with self._pool.open_corpus(store.corpus) as session:
            documents = {info.document: info for info in self._list_documents(session)}
        found = []
        known = set()
        for row in rows:
            known.add(row["document"])
            is_gone = row["status"] == COMPLETED and row["document"] not in documents
            if row["status"] != REMOVING and not is_gone:
                found.append(_member_of(row))
        for name, info in documents.items():
            if name not in known:
                found.append(_foreign_member(store.id, info))
        return found

    def get(self, store: VectorStore, file_id: str) -> Member:
        """Returns a file of a vector store.

        Raises:
            Problem: 404.
        """
        for member in self.all(store):
            if member.id == file_id:
                return member
        raise Problem(
            404,
            f"The vector store has no file '{file_id[:200]}': list its files.",
            code="not_found",
            param="file_id",
        )

    def attach(
        self,
        store: VectorStore,
        upload: Upload,
        attributes: Mapping[str, object],
        batch_id: str | None = None,
    ) -> None:
        """Puts a file into a vector store, to be read in the background; a failed one again."""
        self._database.execute(
            "INSERT INTO attached VALUES (?, ?, ?, ?, ?, ?, NULL, NULL, '[]', ?, ?, ?)"
            " ON CONFLICT (store_id, file_id) DO UPDATE SET status = CASE WHEN status = 'completed'"
            " THEN status ELSE excluded.status END, attributes = excluded.attributes,"
            " batch_id = excluded.batch_id, error_code = NULL, error_message = NULL",
            (
                store.id,
                upload.id,
                f"{upload.id}/{upload.filename}",
                upload.filename,
                json.dumps(attributes),
                IN_PROGRESS,
                upload.bytes,
                batch_id,
                now(),
            ),
        )

    def set_attributes(self, member: Member, attributes: Mapping[str, object]) -> None:
        """Changes the attributes of a file."""
        self._database.execute(
            "INSERT INTO attached VALUES (?, ?, ?, ?, ?, ?, NULL, NULL, ?, ?, ?, ?)"
            " ON CONFLICT (store_id, file_id) DO UPDATE SET attributes = excluded.attributes",
            (
                member.store_id,
                member.id,
                member.document,
                member.filename,
                json.dumps(attributes),
                member.status,
                json.dumps(member.notes),
                member.bytes,
                member.batch_id,
                member.created_at,
            ),
        )

    def detach(self, store: VectorStore, member: Member) -> None:
        """Takes a file out of a vector store; it is hidden at once, whatever writes meanwhile."""
        # A document of the command line gets a row, so that it is hidden too.
        self.set_attributes(member, member.attributes)
        self._database.execute(
            "UPDATE attached SET status = ? WHERE store_id = ? AND file_id = ?",
            (REMOVING, store.id, member.id),
        )
        try:
            self.remove_hidden(store.id, member.id, member.document, store.corpus)
        except CorpusBusy:
            # The ingest removes it when it has the lock.
            return

    def remove_hidden(self, store_id: str, file_id: str, document: str, corpus: str) -> None:
        """Takes the document of a hidden file out of its corpus, and forgets the file.

        Raises:
            CorpusBusy: Another writer holds the lock.
        """
        opened = Corpus.open(self._store, corpus, lock_seconds=_SHORT_LOCK_SECONDS)
        if document in {info.document for info in opened.documents()}:
            opened.remove(document)
        self._database.execute(
            "DELETE FROM attached WHERE store_id = ? AND file_id = ? AND status = ?",
            (store_id, file_id, REMOVING),
        )

    def new_batch(self, store: VectorStore) -> str:
        """Returns the id of a new batch of files."""
        batch_id = new_id("vsfb_")
        self._database.execute("INSERT INTO batches VALUES (?, ?, ?)", (batch_id, store.id, now()))
        return batch_id

    def batch(self, store: VectorStore, batch_id: str) -> tuple[int, list[Member]]:
        """Returns when a batch was made, and its files.

        Raises:
            Problem: 404.
        """
        row = self._database.row(
            "SELECT created_at FROM batches WHERE id = ? AND store_id = ?", (batch_id, store.id)
        )
        if row is None:
            raise no_such("file batch", batch_id, "batch_id")
        members = [member for member in self.all(store) if member.batch_id == batch_id]
        return int(row["created_at"]), members

    def cancel_batch(self, store: VectorStore, batch_id: str) -> None:
        """Cancels the files of a batch that are not read yet."""
        self._database.execute(
            "UPDATE attached SET status = ? WHERE store_id = ? AND batch_id = ? AND status = ?",
            (CANCELLED, store.id, batch_id, IN_PROGRESS),
        )

    def stores_of(self, file_id: str) -> list[str]:
        """Returns the ids of the vector stores that a file is in."""
        rows = self._database.rows(
            "SELECT store_id FROM attached WHERE file_id = ? AND status != ?", (file_id, REMOVING)
        )
        return [row["store_id"] for row in rows]

    def document_names(self, session: Session) -> list[str]:
        """Returns the names of all documents of a corpus, hidden ones included."""
        return [info.document for info in self._list_documents(session)]

    def _list_documents(self, session: Session) -> list[DocumentInfo]:
        """Returns the documents of a corpus, which are read again when they have changed."""
        corpus = session.corpus
        state = corpus.state()
        with self._lock:
            kept = self._documents.get(corpus.name)
        if kept is not None and kept[0] == state:
            return kept[1]
        documents = corpus.documents()
        with self._lock:
            self._documents[corpus.name] = state, documents
        return documents


def count_states(members: Sequence[Member]) -> dict[str, int]:
    """Returns how many files are in each state, and `total`, as OpenAI's `file_counts`."""
    counts = dict.fromkeys((IN_PROGRESS, COMPLETED, FAILED, CANCELLED), 0)
    for member in members:
        counts[member.status] += 1
    return {**counts, "total": len(members)}


def _member_of(row: Row) -> Member:
    error = None
    if row["error_code"] is not None:
        error = {"code": row["error_code"], "message": row["error_message"]}
    return Member(
        row["file_id"],
        row["store_id"],
        row["document"],
        row["filename"],
        _shown(row["document"]),
        json.loads(row["attributes"]),
        row["status"],
        error,
        tuple(json.loads(row["notes"])),
        row["bytes"],
        row["created_at"],
        row["batch_id"],
    )


def _foreign_member(store_id: str, info: DocumentInfo) -> Member:
    """Returns the file that stands for a document which no client has uploaded."""
    name = PurePath(info.document).name or info.document
    return Member(
        "file-" + short_hash(store_id, info.document),
        store_id,
        info.document,
        name,
        _shown(info.document),
        {},
        COMPLETED,
        None,
        info.notes,
        info.characters,
        int(datetime.fromisoformat(info.added).timestamp()),
    )


def _shown(document: str) -> str:
    """Returns a document's name as clients see it: an absolute path tells about the server."""
    path = PurePath(document)
    return path.name if path.is_absolute() else document
