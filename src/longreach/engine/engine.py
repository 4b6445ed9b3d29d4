"""One model at work: requests in, tokens out.

Any number of threads submit requests, read the tokens of their handles and cancel; one thread runs
the model. Rows join and leave between steps, and every row gets what it gets alone. docs/engine.md
tells the life of a request.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from longreach.engine.batch import Batch
from longreach.engine.request import CANCELLED, Handle, Progress, Request
from longreach.engine.rows import Row
from longreach.errors import UsageError
from longreach.models.sharing import exclusive, lock_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_IDLE_SECONDS = 2.0  # after which the thread ends; the next request starts another one
# At the end of the process: how long a forward in progress may take, and its interruption.
_PATIENCE_SECONDS = 0.5
_EXIT_SECONDS = 10.0


class Engine:
    """Answers requests with one model.

    The model's lock is held for each forward and no longer, so that compressors, trainings and code
    of a user under `exclusive(model)` share the model. Whoever holds that lock and waits for an
    answer drives the engine meanwhile.

    Args:
        model: A causal language model; the engine does not keep it alive.
        max_rows: Requests that are worked on at a time; others wait in the order they came.
        chunk_tokens: Positions of a prompt read in one forward while other requests are worked on.
        alone_tokens: The same for a request without company.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_rows: int = 32,
        chunk_tokens: int = 512,
        alone_tokens: int = 4096,
    ) -> None:
        if min(max_rows, chunk_tokens, alone_tokens) < 1:
            raise UsageError("max_rows, chunk_tokens and alone_tokens must be at least 1.")
        # The engine is a value of `_engines` and the model its key: a strong reference would keep
        # both alive for ever.
        self._model = weakref.ref(model)
        self._max_rows = max_rows
        self._chunk_tokens, self._alone_tokens = chunk_tokens, alone_tokens
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Request, Progress]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._torch_threads = torch.get_num_threads()
        self._batch = Batch()  # touched only under the model's lock

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests."""
        return self._closed

    @property
    def working(self) -> int:
        """The number of requests that it works on now."""
        return len(self._batch.rows)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for their turn."""
        return len(self._waiting)

    @property
    def _is_idle(self) -> bool:
        return not self._waiting and not self._batch.rows

    def submit(self, request: Request) -> Handle:
        """Queues a request and returns a handle on its answer.

        Raises:
            UsageError: The engine is closed.
        """
        model = self._model()
        assert model is not None, "whoever submits holds the model"
        progress = Progress(request.began)
        with self._changed:
            if self._closed:
                raise UsageError("The engine is closed; use engine_of(model) for a new one.")
            # The engine's own thread computes with as many threads as whoever asks last has set.
            self._torch_threads = torch.get_num_threads()
            self._waiting.append((request, progress))
            if self._thread is None or not self._thread.is_alive():
                self._start()
            self._changed.notify_all()
        return Handle(progress, _Waiter(self, model).wait)

    def close(self, *, cancel: bool = False, seconds: float | None = None) -> None:
        """Takes no more requests, and returns when those there are have ended.

        Args:
            cancel: End them now, with what there is of their answers.
            seconds: Wait this long at most; None waits for the end.
        """
        with self._changed:
            self._closed = True
            if cancel:
                self._cancel_all()
            self._changed.notify_all()
            thread = self._thread
        model = self._model()
        # The engine's thread needs this very lock, so joining it here would never end.
        if model is not None and lock_of(model).is_mine:
            while self.turn():
                pass
        elif thread is not None and thread is not threading.current_thread():
            thread.join(seconds)

    def interrupt(self, seconds: float) -> None:
        """Ends the forward in progress, and waits this long at most for its thread to end."""
        thread = self._thread
        if thread is None or thread.ident is None or not thread.is_alive():
            return
        # Raised in the thread as soon as Python runs there again: between two layers at the latest.
        ident = ctypes.c_ulong(thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))
        thread.join(seconds)

    def _cancel_all(self) -> None:
        for _, progress in self._waiting:
            progress.cancelled = True
        for row in list(self._batch.rows):
            row.progress.cancelled = True

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="longreach-engine", daemon=True)
        _note_running(self)
        self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._is_idle:
                    # `wait` gives False when the time is up, and somebody may have asked in that
                    # very moment.
                    timed_out = not self._closed and not self._changed.wait(_IDLE_SECONDS)
                    if self._is_idle and (self._closed or timed_out):
                        self._thread = None
                        return
            try:
                self.turn()
            except BaseException as error:
                # The SystemExit of `interrupt` comes here too, and whoever waits has to hear of it.
                self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        """Ends all requests with an error that is none of theirs: nobody may wait for ever."""
        self._batch.fail(error)
        with self._changed:
            waiting = self._waiting
            self._waiting = deque()
        for _, progress in waiting:
            progress.fail(error)

    def turn(self) -> bool:
        """Takes a step of all rows that write, then reads one chunk; returns whether work is left.

        The engine's thread calls it, or a thread that holds the model's lock.
        """
        model = self._model()
        if model is None:  # and so nobody waits for an answer any more
            self._waiting.clear()
            return False
        if torch.get_num_threads() != self._torch_threads:
            torch.set_num_threads(self._torch_threads)
        with _on_device(model):
            with exclusive(model):
                self._batch.drop_cancelled()
                self._admit(model)
                self._batch.write(model)
            # The lock is given up in between, so that others get their turn between a step and a
            # chunk.
            with exclusive(model):
                # Without company no step of another row has to wait for the end of a long chunk.
                alone = len(self._batch.rows) == 1 and not self._waiting
                self._batch.read(self._alone_tokens if alone else self._chunk_tokens)
        return bool(self._batch.rows or self._waiting)

    def _admit(self, model: PreTrainedModel) -> None:
        self._drop_cancelled()
        while len(self._batch.rows) < self._max_rows:
            with self._changed:
                if not self._waiting:
                    return
                first = self._waiting[0]
            row = None
            try:
                row = Row(model, *first)
            except Exception as error:
                # One request that cannot be begun is no reason to stop the others.
                first[1].fail(error)
            with self._changed:
                # It waits until it is a row: in between it could be lost by an interruption, missed
                # by `close`, or taken for an engine that has nothing to do.
                if self._waiting and self._waiting[0] is first:
                    self._waiting.popleft()
                    if row is not None:
                        self._batch.rows.append(row)

    def _drop_cancelled(self) -> None:
        """Ends the requests that were given up before they became rows."""
        with self._changed:
            kept: deque[tuple[Request, Progress]] = deque()
            for waiting in self._waiting:
                if waiting[1].cancelled:
                    waiting[1].finish(0, 0, CANCELLED)
                else:
                    kept.append(waiting)
            self._waiting = kept


class _Waiter:
    """Waits for answers of an engine, and keeps its model alive meanwhile."""

    def __init__(self, engine: Engine, model: PreTrainedModel) -> None:
        self._engine, self._model = engine, model

    def wait(self, progress: Progress, given: int) -> None:
        """Waits until there are more than `given` tokens, or the answer has ended."""
        # The engine's thread cannot get the lock that this thread holds, so this one does its work.
        if lock_of(self._model).is_mine:
            while not progress.ended and len(progress.tokens) <= given:
                self._engine.turn()
            return
        with progress.changed:
            while not progress.ended and len(progress.tokens) <= given:
                progress.changed.wait()


@contextmanager
def _on_device(model: PreTrainedModel) -> Iterator[None]:
    """Kernels start on the current GPU, which each thread chooses for itself."""
    if model.device.type != "cuda":
        yield
        return
    with torch.cuda.device(model.device):
        yield


_engines: weakref.WeakKeyDictionary[Any, Engine] = weakref.WeakKeyDictionary()
_running: weakref.WeakSet[Engine] = weakref.WeakSet()
_guard = threading.Lock()


def engine_of(model: PreTrainedModel) -> Engine:
    """Returns the engine of a model that all who ask share; a closed one is replaced."""
    with _guard:
        engine = _engines.get(model)
        if engine is None or engine.closed:
            engine = Engine(model)
            _engines[model] = engine
        return engine


def _note_running(engine: Engine) -> None:
    with _guard:
        if not _running:
            # A thread that is inside torch while Python ends could take the process down.
            atexit.unregister(_stop_all)
            atexit.register(_stop_all)
        _running.add(engine)


def _stop_all() -> None:
    for engine in list(_running):
        engine.close(cancel=True, seconds=_PATIENCE_SECONDS)
        engine.interrupt(_EXIT_SECONDS)
