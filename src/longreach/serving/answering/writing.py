"""Answers that threads write and the event loop reads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import Request

from longreach.reading.answer import Answer
from longreach.serving.answering.citations import Quote
from longreach.serving.answering.text import TextCutter

STOP = "stop"
LENGTH = "length"


@dataclass(frozen=True)
class Outcome:
    """What an answer came to.

    Attributes:
        text: The whole answer.
        finish_reason: "stop" or "length".
        prompt_tokens: Positions of the prompt.
        cached_tokens: Of these, those that had been read before.
        completion_tokens: Tokens written.
        first_token_seconds, seconds: From when the answer was asked for to its first token and to
            its last one.
        answer: The answer of a corpus; None of a model alone.
        quotes: What was read for it, best first.
        waiting: The number of files of the vector store that are not read yet.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    first_token_seconds: float
    seconds: float
    answer: Answer | None = None
    quotes: Sequence[Quote] = field(default_factory=tuple)
    waiting: int = 0


class Draft(Protocol):
    """An answer that is being written: its pieces, its end, and what it came to."""

    def __iter__(self) -> Iterator[str]: ...

    def cancel(self) -> None:
        """Ends it with what there is of it, from any thread."""

    def sum_up(self, text: str, stopped: bool) -> Outcome:
        """Returns what it came to.

        Args:
            text: The text that the client got.
            stopped: Whether it was cut before a stop text.
        """


class Writing:
    """An answer on its way from a thread to a client.

    Args:
        write: Gives the draft inside a block in which all that it needs stays loaded: it is called
            in the thread, with a function that takes the draft and writes it to its end.
        stops: Texts before which the answer ends.
        executor: Gives the thread.
    """

    def __init__(
        self,
        write: Callable[[Callable[[Draft], None]], None],
        stops: Sequence[str],
        executor: Executor,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[str | Outcome | BaseException] = asyncio.Queue()
        self._lock = threading.Lock()
        self._draft: Draft | None = None
        self._cancelled = False
        self._stops = stops
        self.outcome: Outcome | None = None
        self.ended = executor.submit(self._run, write)

    def cancel(self) -> None:
        """Ends it; its row leaves the engine before the next step."""
        with self._lock:
            self._cancelled = True
            draft = self._draft
        if draft is not None:
            draft.cancel()

    async def pieces(self) -> AsyncIterator[str]:
        """Yields the text as it is written; afterwards `outcome` says what it came to.

        Raises:
            Exception: Whatever ended the answer.
        """
        while True:
            item = await self._queue.get()
            if isinstance(item, Outcome):
                self.outcome = item
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _run(self, write: Callable[[Callable[[Draft], None]], None]) -> None:
        try:
            if not self._cancelled:
                write(self._write)
        except BaseException as error:
            self._put(error)

    def _write(self, draft: Draft) -> None:
        with self._lock:
            self._draft = draft
            if self._cancelled:
                draft.cancel()
        cutter = TextCutter(self._stops)
        given = []
        for piece in draft:
            certain = cutter.feed(piece)
            if certain:
                given.append(certain)
                self._put(certain)
            if cutter.stopped:
                draft.cancel()
        rest = cutter.finish()
        if rest:
            given.append(rest)
            self._put(rest)
        self._put(draft.sum_up("".join(given), cutter.stopped))

    def _put(self, item: str | Outcome | BaseException) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:
            # The loop has ended, and with it whoever would have read this.
            self.cancel()


async def collect(request: Request, writing: Writing) -> Outcome | None:
    """Returns what an answer came to; None where the client went away, which ends it."""

    async def read() -> None:
        async for _ in writing.pieces():
            pass

    reading = asyncio.ensure_future(read())
    done = await race(request, reading, writing)
    return writing.outcome if done else None


async def race(request: Request, reading: "asyncio.Future[None]", writing: Writing) -> bool:
    """Waits for a piece of work or for the client to go away; returns whether the work came first.

    Raises:
        Exception: Whatever ended the work.
    """
    gone = asyncio.ensure_future(wait_until_gone(request))
    try:
        await asyncio.wait({reading, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            writing.cancel()
            reading.cancel()
            return False
        await reading
        return True
    except asyncio.CancelledError:
        writing.cancel()
        reading.cancel()
        raise
    finally:
        gone.cancel()


async def wait_until_gone(request: Request) -> None:
    """Returns when the client has gone away; its whole request must have been read."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
