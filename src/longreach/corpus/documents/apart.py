"""Conversion in other processes, which are reused from file to file and ended by their limits.

A process is used by one thread at a time; several threads get several processes. None outlives this
one: each ends when the pipe to it is closed.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from longreach.corpus.documents.base import Converted
from longreach.corpus.documents.formats import Format
from longreach.corpus.documents.limits import Limits, explain_excess
from longreach.corpus.documents.worker import (
    MOST_HEADER_BYTES,
    OUT_OF_MEMORY,
    WorkerAnswer,
    WorkerRequest,
    explain_memory,
)
from longreach.errors import DocumentError

# The same modules as here, wherever they come from. `-P`: a json.py in the current folder is not
# ours.
_START = """import sys
sys.path[:] = sys.argv[1:]
from longreach.corpus.documents.worker import main
main()
"""
_MOST_BYTES_A_CHARACTER = 4


class _Broken(Exception):
    """The worker ended, or said something that is no answer."""


class _Worker:
    """A process that converts files, and the pipes to it."""

    def __init__(self) -> None:
        isolation = "-P"
        if sys.flags.isolated:
            isolation = "-I"
        # "" is wherever a process is.
        paths = [path or str(Path.cwd()) for path in sys.path]
        # A group of its own: Ctrl-C is for the process that asked, which then ends this one.
        if os.name == "posix":
            apart = {"process_group": 0}
        else:
            apart = {"creationflags": _get_windows_flags()}
        self._process = subprocess.Popen(
            [sys.executable, isolation, "-c", _START, *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            **apart,  # type: ignore[call-overload]
        )
        self.is_usable = True
        self.is_late = False

    def ask(self, request: WorkerRequest, raw: bytes) -> tuple[WorkerAnswer, bytes]:
        """Sends a file and waits for what becomes of it.

        Raises:
            _Broken: There is no answer; `code` says how the process ended, and `is_late` whether it
                was for its time.
        """
        self.is_usable = False
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None
        watch = threading.Timer(request.limits.seconds, self._end_late)
        watch.daemon = True
        watch.start()
        try:
            requests.write(request.to_line())
            requests.write(raw)
            requests.flush()
            answer = WorkerAnswer.parse(answers.readline(MOST_HEADER_BYTES))
            if answer.size > _MOST_BYTES_A_CHARACTER * request.limits.text_characters:
                raise ValueError("a longer text than it may have")
            text = answers.read(answer.size)
            if len(text) < answer.size:
                raise ValueError("less text than was promised")
        except (OSError, ValueError, RecursionError) as error:
            raise _Broken from error
        finally:
            watch.cancel()
        self.is_usable = not (answer.last or self.is_late)
        return answer, text

    def is_alive(self) -> bool:
        """Returns whether the process is still there."""
        return self._process.poll() is None

    def _end_late(self) -> None:
        self.is_late = True
        self._process.kill()

    def end(self) -> int:
        """Ends the process and returns its exit code, negative for a signal."""
        self.is_usable = False
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                # What was not sent yet has nobody to go to.
                pass
        return self._process.wait()

    def end_and_get_code(self) -> int:
        """Returns the exit code of a process that broke off, and ends it if it is still there."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        return self.end()


def _get_windows_flags() -> int:
    group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    window = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    return int(group | window)


class _Pool:
    """The workers that wait for a file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def take(self) -> _Worker:
        while True:
            with self._lock:
                if not self._idle:
                    break
                worker = self._idle.pop()
            if worker.is_alive():
                return worker
            # Somebody killed it while it waited.
            worker.end()
        return _Worker()

    def put_back(self, worker: _Worker) -> None:
        with self._lock:
            self._idle.append(worker)

    def close(self) -> None:
        with self._lock:
            idle = self._idle
            self._idle = []
        for worker in idle:
            worker.end()

    def forget(self) -> None:
        """Drops the workers in a forked process, as they belong to the parent."""
        self._lock = threading.Lock()
        self._idle = []


_POOL = _Pool()
atexit.register(_POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forget)


def is_possible() -> bool:
    """Returns whether this program can start Python; a frozen executable cannot."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def close() -> None:
    """Ends the processes that wait for a file; the next file starts one again."""
    _POOL.close()


def convert_apart(format: Format, raw: bytes, name: str, limits: Limits) -> Converted:
    """Converts a file in another process.

    Args:
        format: Says which converter to use.
        raw: The bytes of the file.
        name: The file as messages call it.
        limits: What it may cost.

    Raises:
        DocumentError: It cannot be read, costs more than the limits, or makes its converter crash.
    """
    try:
        worker = _POOL.take()
    except OSError as error:
        reason = error.strerror or error
        advice = "free some memory and try again."
        raise DocumentError(
            f"{name} cannot be read, its converter does not start ({reason}): {advice}"
        ) from error
    try:
        answer, text = worker.ask(WorkerRequest(name, format, len(raw), limits), raw)
    except _Broken as error:
        raise _explain(worker, name, limits) from error
    except RuntimeError as error:
        # The watch cannot start.
        advice = "close other programs and try again."
        raise DocumentError(
            f"{name} cannot be read, its converter does not start ({error}): {advice}"
        ) from error
    finally:
        # Also for Ctrl-C: a worker in the middle of a file is not used again.
        if worker.is_usable:
            _POOL.put_back(worker)
        else:
            worker.end()
    if answer.error is not None:
        raise DocumentError(answer.error)
    return Converted(text.decode("utf-8", "surrogatepass"), answer.notes)


def _explain(worker: _Worker, name: str, limits: Limits) -> DocumentError:
    """Returns why a worker gave no answer."""
    code = worker.end_and_get_code()
    if code == OUT_OF_MEMORY:
        return explain_memory(name, limits)
    if worker.is_late or code == -getattr(signal, "SIGXCPU", 0):
        return explain_excess(name, "takes too long to be converted", "seconds", limits)
    # The system kills a process when memory runs out.
    if code == -getattr(signal, "SIGKILL", 0):
        return explain_memory(name, limits)
    how = f"exit code {code}"
    if code < 0:
        how = f"signal {-code}"
    advice = "open it in its own program and save it again, or export it as text."
    return DocumentError(
        f"{name} makes its converter crash ({how}), it is damaged or too complex: {advice}"
    )
