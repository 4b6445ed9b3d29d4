"""The lock of the writers of a corpus."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from longreach.corpus.faults import explain_storage_faults, refuses_writes
from longreach.corpus.integrity import LOCK, LOG
from longreach.corpus.schema import SETTINGS
from longreach.errors import CorpusBusy, CorpusNotFound, StorageError


def require(folder: Path) -> None:
    """Raises CorpusNotFound when nothing of a corpus is left in its folder."""
    if not (folder / SETTINGS).exists() and not (folder / LOG).exists():
        raise CorpusNotFound(f"Corpus {folder.name!r} is no longer there: it was deleted.")


@contextmanager
def hold_lock(folder: Path, seconds: float, *, reading: bool = False) -> Iterator[None]:
    """Holds the one lock of the writers of a corpus.

    It waits up to `seconds` for the lock, then raises CorpusBusy.

    With `reading`, it does without a lock where that may not be written, because there are no
    writers either.
    """
    require(folder)
    lock = filelock.FileLock(folder / LOCK, timeout=seconds)
    try:
        with explain_storage_faults(folder):
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise CorpusBusy(
                    f"Another process is writing to corpus {folder.name!r} and did not end within"
                    f" {seconds:g} s: try again when it has."
                ) from error
    except StorageError as error:
        if not (reading and refuses_writes(error)):
            raise
    try:
        # It may have been deleted while this waited.
        require(folder)
        yield
    finally:
        lock.release()
