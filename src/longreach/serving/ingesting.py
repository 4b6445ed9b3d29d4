"""Files become documents in the background, one batch after the other.

What is to be done lies in the database, so that a server which was killed resumes with what it had
begun: the corpus takes over the passages that were compressed before.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from longreach.corpus.documents import Document, Limits
from longreach.corpus.documents.convert import convert_bytes
from longreach.errors import CorpusBusy, DocumentError, LongreachError
from longreach.serving.members import CANCELLED, COMPLETED, FAILED, IN_PROGRESS, REMOVING
from longreach.serving.problems import Problem, explain
from longreach.serving.stores import VectorStore

if TYPE_CHECKING:
    from longreach.corpus.schema import AddReport
    from longreach.serving.database import Row
    from longreach.serving.state import Service

_log = logging.getLogger("longreach.serving")
_MOST_FILES = 16  # of one vector store that are read together
_MOST_BYTES = 8 << 20
_RETRY_SECONDS = 2.0


class Ingesting:
    """The thread that reads files into vector stores.

    Args:
        service: The server.
    """

    def __init__(self, service: Service) -> None:
        self._database = service.database
        self._uploads = service.uploads
        self._stores = service.stores
        self._members = service.members
        self._pool = service.pool
        self._limits = Limits(file_bytes=service.settings.max_upload_bytes)
        self._changed = threading.Condition()
        self._is_ending = False
        self._asked = True  # what an earlier process left is looked for at once
        self._thread = threading.Thread(target=self._work, name="longreach-ingest", daemon=True)

    def start(self) -> None:
        """Begins with what an earlier process has left."""
        self._thread.start()

    def wake(self) -> None:
        """Says that there is something to do."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()

    def end(self, seconds: float) -> bool:
        """Ends after the files that are being read; returns whether it did within `seconds`."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def waiting(self) -> int:
        """Returns the number of files that are not read yet."""
        row = self._database.row("SELECT COUNT(*) FROM attached WHERE status = ?", (IN_PROGRESS,))
        return 0 if row is None else int(row[0])

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._asked and not self._is_ending:
                    self._changed.wait()
                if self._is_ending:
                    return
                self._asked = False
            try:
                is_done = self._work_off()
            except Exception as error:
                # A full disk, say: the files stay in progress, and are tried again.
                _log.error("ingest: %s", type(error).__name__)
                is_done = False
            if not is_done:
                with self._changed:
                    self._asked = True
                    self._changed.wait(_RETRY_SECONDS)

    def _work_off(self) -> bool:
        """Reads what is there; returns False where a corpus is busy and has to be tried again."""
        is_done = True
        for row in self._rows(REMOVING):
            is_done = self._remove(row, self._stores.find(row["store_id"])) and is_done
        busy: set[str] = set()
        while not self._is_ending:
            rows = self._next_batch(busy)
            if not rows:
                return is_done and not busy
            store_id = rows[0]["store_id"]
            store = self._stores.find(store_id)
            if store is None:
                # The corpus was deleted from the command line.
                self._database.execute("DELETE FROM attached WHERE store_id = ?", (store_id,))
            elif not self._read(store, rows):
                busy.add(store_id)
        return True

    def _rows(self, status: str) -> list[Row]:
        return self._database.rows(
            "SELECT * FROM attached WHERE status = ? ORDER BY created_at, rowid", (status,)
        )

    def _next_batch(self, busy: set[str]) -> list[Row]:
        """Returns the next files of one vector store."""
        found: list[Row] = []
        size = 0
        for row in self._rows(IN_PROGRESS):
            if row["store_id"] in busy or (found and row["store_id"] != found[0]["store_id"]):
                continue
            size += row["bytes"]
            if found and (size > _MOST_BYTES or len(found) == _MOST_FILES):
                break
            found.append(row)
        return found

    def _remove(self, row: Row, store: VectorStore | None) -> bool:
        if store is None:
            self._database.execute("DELETE FROM attached WHERE store_id = ?", (row["store_id"],))
            return True
        try:
            self._members.remove_hidden(store.id, row["file_id"], row["document"], store.corpus)
        except CorpusBusy:
            return False
        return True

    def _read(self, store: VectorStore, rows: Sequence[Row]) -> bool:
        """Reads files into one corpus; returns False where it is busy."""
        documents = []
        for row in rows:
            document = self._convert(row)
            if document is not None:
                documents.append(document)
        if not documents:
            return True
        try:
            with self._pool.open_corpus(store.corpus) as session:
                report = session.add(documents)
        except CorpusBusy:
            return False
        except Exception as error:
            problem = explain(error)
            if not isinstance(error, LongreachError):
                _log.error("ingest: %s", type(error).__name__)
            if problem.retry_after is not None:
                # The memory may be free later.
                return False
            for document in documents:
                self._fail(store.id, document.name, "server_error", problem.message)
            return True
        self._pool.measure(store.corpus)
        self._note(store, documents, report)
        return True

    def _convert(self, row: Row) -> Document | None:
        """Returns a file as a document; None where it cannot be read, which is noted."""
        try:
            upload = self._uploads.get(row["file_id"])
        except Problem:
            self._fail(row["store_id"], row["document"], "invalid_file", "The file was deleted.")
            return None
        try:
            raw = self._uploads.path(upload).read_bytes()
            name = row["filename"]
            converted = convert_bytes(raw, name, PurePath(name).suffix, self._limits)
        except DocumentError as error:
            self._fail(row["store_id"], row["document"], "unsupported_file", str(error))
            return None
        self._database.execute(
            "UPDATE attached SET notes = ? WHERE store_id = ? AND file_id = ?",
            (json.dumps(converted.notes), row["store_id"], row["file_id"]),
        )
        return Document(row["document"], converted.text, converted.notes)

    def _note(self, store: VectorStore, documents: Sequence[Document], report: AddReport) -> None:
        skipped = {item.name: item.reason for item in report.skipped}
        for document in documents:
            reason = skipped.get(document.name)
            if reason is not None:
                self._fail(store.id, document.name, "invalid_file", reason)
                continue
            done = self._database.execute(
                "UPDATE attached SET status = ? WHERE store_id = ? AND document = ? AND status = ?",
                (COMPLETED, store.id, document.name, IN_PROGRESS),
            )
            if not done:
                # It was cancelled or deleted meanwhile, so it must not stay.
                self._withdraw(store, document.name)

    def _withdraw(self, store: VectorStore, document: str) -> None:
        row = self._database.row(
            "SELECT * FROM attached WHERE store_id = ? AND document = ?", (store.id, document)
        )
        if row is not None and row["status"] == COMPLETED:
            return
        with self._pool.open_corpus(store.corpus) as session:
            session.corpus.remove(document)
        if row is not None and row["status"] == REMOVING:
            self._database.execute(
                "DELETE FROM attached WHERE store_id = ? AND document = ?", (store.id, document)
            )

    def _fail(self, store_id: str, document: str, code: str, message: str) -> None:
        self._database.execute(
            "UPDATE attached SET status = ?, error_code = ?, error_message = ?"
            " WHERE store_id = ? AND document = ? AND status NOT IN (?, ?)",
            (FAILED, code, message, store_id, document, CANCELLED, REMOVING),
        )
