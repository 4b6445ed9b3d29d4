"""What the disk, the system and Lance throw, as a sentence that says what to do.

Lance's errors carry text only, so the number of the system's error is read out of it.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longreach.errors import CorpusDamaged, LongreachError, StorageError

_SAFE = "What was stored before is safe"
_AGAIN = "and run the same command again to resume"
_MEANING = {
    errno.ENOSPC: ("The disk is full", f"{_SAFE}: free space, {_AGAIN}."),
    errno.EDQUOT: ("The quota of the disk is used up", f"{_SAFE}: free space, {_AGAIN}."),
    errno.EROFS: ("The disk takes no writes", f"{_SAFE}: remount it writable, {_AGAIN}."),
    errno.EACCES: ("Access is refused", f"{_SAFE}: permit access, {_AGAIN}."),
    errno.EPERM: ("Access is refused", f"{_SAFE}: permit access, {_AGAIN}."),
    errno.EMFILE: (
        "There are too many open files",
        f"{_SAFE}: raise the limit with `ulimit -n 4096`, {_AGAIN}.",
    ),
    errno.ENFILE: (
        "The system has too many open files",
        f"{_SAFE}: close other programs, {_AGAIN}.",
    ),
    errno.ENOMEM: ("The system has no memory left", f"{_SAFE}: close other programs, {_AGAIN}."),
    errno.EAGAIN: (
        "The system starts no more threads",
        f"{_SAFE}: raise the limit with `ulimit -u`, {_AGAIN}.",
    ),
    errno.EIO: (
        "The disk fails to read or write",
        "Check the disk and its cable before anything else, then run `longreach corpus verify`.",
    ),
}
_NAMES = {os.strerror(number): number for number in _MEANING}
# As Python and torch say it.
_NAMES |= {
    "can't start new thread": errno.EAGAIN,
    "PytorchStreamWriter failed writing": errno.ENOSPC,
}
_REFUSED_WRITES = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def explain_storage_faults(where: Path) -> Iterator[None]:
    """Turns what the disk and Lance throw into StorageError or CorpusDamaged."""
    try:
        yield
    # These have their own meaning, wherever they come from.
    except (LongreachError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        # Some panics of Lance are no Exception, and a sentence for the user all the same.
        number = find_error_number(error, where)
        if number is not None and number != errno.ENOENT:
            raise _explain_refusal(number, where) from error
        is_panic = "Panic" in type(error).__name__
        if is_panic or isinstance(error, (RuntimeError, ValueError, LookupError, OSError)):
            raise CorpusDamaged(
                f"The files of {where} cannot be read ({' '.join(str(error).split())[:200]}):"
                " `longreach corpus verify` says which; restore them from a backup, or ingest into"
                " a new corpus."
            ) from error
        raise


@contextmanager
def explain_disk_faults(where: Path) -> Iterator[None]:
    """Turns errors of the disk and the system into StorageError; all others stay what they are."""
    try:
        yield
    except (LongreachError, MemoryError):
        raise
    except Exception as error:
        number = find_error_number(error, where)
        if number is None or number == errno.ENOENT:
            raise
        raise _explain_refusal(number, where) from error


def _explain_refusal(number: int, where: Path) -> StorageError:
    if number not in _MEANING:
        return StorageError(
            f"The system refused under {where} ({os.strerror(number)}): fix that and try again."
        )
    what, advice = _MEANING[number]
    return StorageError(f"{what} ({os.strerror(number)}) under {where}. {advice}")


def find_error_number(error: BaseException, where: Path) -> int | None:
    """Returns the number of the system's error behind `error`; None where there is none.

    Args:
        error: What was thrown; its causes are looked at too.
        where: The folder of the work. Its path may stand in the text, and hold any words.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    # A folder may be called "os error 28".
    text = str(error).replace(str(where), "")
    numbered = re.search(r"\bos error (\d+)\b", text)
    if numbered:
        return int(numbered[1])
    for name, number in _NAMES.items():
        if name in text:
            return number
    if error.__cause__ is None:
        return None
    return find_error_number(error.__cause__, where)


def refuses_writes(error: StorageError) -> bool:
    """Returns whether a disk error says no more than that this place is only to be read."""
    cause = error.__cause__
    return cause is not None and find_error_number(cause, Path()) in _REFUSED_WRITES
