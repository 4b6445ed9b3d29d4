"""Folders that are on their way into a store or out of it, and what kills left of them.

A corpus is made in `.new-*` and deleted as `.deleted-*`. Whoever works on one holds the lock in it:
one whose lock is free was left by a process that ended, whatever any clock or process number says.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from longreach.corpus.integrity import LOCK

_NEW = ".new-"
_DELETED = ".deleted-"


@contextmanager
def make_draft(store: Path) -> Iterator[Path]:
    """Makes a folder for a corpus that is being created, which nobody sweeps away meanwhile.

    It is removed if it was not renamed.
    """
    while True:
        draft = store / f"{_NEW}{uuid.uuid4().hex}"
        draft.mkdir(parents=True)
        lock = filelock.FileLock(draft / LOCK, timeout=0)
        try:
            lock.acquire()
        except (filelock.Timeout, FileNotFoundError):
            # Another process swept it away before it was locked.
            continue
        break
    try:
        yield draft
    finally:
        if draft.exists():
            with suppress(OSError):
                discard(draft)
        lock.release()


def doom(corpus: Path) -> Path:
    """Takes a corpus away from everybody at once; its folder is to be discarded.

    The caller holds its lock.
    """
    # A link to a corpus elsewhere is deleted with it.
    real = Path(os.path.realpath(corpus))
    doomed = real.with_name(f"{_DELETED}{uuid.uuid4().hex}")
    real.rename(doomed)
    if corpus.is_symlink():
        corpus.unlink()
    return doomed


def discard(folder: Path) -> None:
    """Deletes a folder, its lock last.

    As long as something is in it, others can see that somebody deletes it.
    """
    for path in folder.iterdir():
        # Links lead out of the corpus: only they themselves are removed.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def sweep(store: Path) -> None:
    """Deletes what processes that ended left in a store.

    What cannot be deleted stays for the next call.
    """
    for folder in [*store.glob(f"{_NEW}*"), *store.glob(f"{_DELETED}*")]:
        if folder.is_symlink() or not folder.is_dir():
            continue
        lock = filelock.FileLock(folder / LOCK, timeout=0)
        try:
            with lock:
                discard(folder)
        except (filelock.Timeout, OSError):
            continue
