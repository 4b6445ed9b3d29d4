"""What a server knows beside the corpora: uploaded files, and which of them are in which vector
store, in one SQLite database of the store.

Every change is on the disk before a client hears of it, so that a restart after SIGKILL resumes
where it was.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longreach.errors import StorageError

FOLDER = ".serving"
_FILE = "state.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS stores (
    id TEXT PRIMARY KEY,
    title TEXT,
    metadata TEXT NOT NULL,
    last_active_at INTEGER
);
CREATE TABLE IF NOT EXISTS attached (
    store_id TEXT NOT NULL,
    file_id TEXT NOT NULL,
    document TEXT NOT NULL,
    filename TEXT NOT NULL,
    attributes TEXT NOT NULL,
    status TEXT NOT NULL,
    error_code TEXT,
    error_message TEXT,
    notes TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    batch_id TEXT,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (store_id, file_id)
);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY,
    store_id TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS attached_by_status ON attached (status, created_at);
CREATE INDEX IF NOT EXISTS attached_by_file ON attached (file_id);
CREATE INDEX IF NOT EXISTS files_by_content ON files (sha256);
"""

Row = sqlite3.Row


class Database:
    """The database of a store. Threads may share it.

    Args:
        store: The folder of corpora.

    Raises:
        StorageError: It cannot be read or written.
    """

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER
        self._lock = threading.RLock()
        with _explain(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Threads take turns under the lock below.
            self._connection = sqlite3.connect(
                self.folder / _FILE, check_same_thread=False, isolation_level=None
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_SCHEMA)

    @contextmanager
    def change(self) -> Iterator[None]:
        """Makes all changes of a block at once, or none of them."""
        with self._lock, _explain(self.folder):
            # Blocks may be nested: the outermost one is the transaction.
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Runs one statement and returns the number of rows that it changed."""
        with self._lock, _explain(self.folder):
            return self._connection.execute(statement, values).rowcount

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        """Returns the rows of a query."""
        with self._lock, _explain(self.folder):
            return self._connection.execute(query, values).fetchall()

    def row(self, query: str, values: Sequence[Any] = ()) -> Row | None:
        """Returns the first row of a query, or None."""
        found = self.rows(query, values)
        return found[0] if found else None

    def close(self) -> None:
        """Closes it."""
        with self._lock:
            self._connection.close()


@contextmanager
def _explain(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"The server's own files in '{folder}' cannot be read or written ({error}): free disk"
            " space, or repair the folder."
        ) from error
