"""One model for many threads: whatever switches it or runs it does so while no other thread does.

An adapter is switched on the model and not for a caller, and so are dropout, the attention of a
step, and how a tokenizer treats special tokens. So each model and each tokenizer has one lock.
Everything in this package that runs one takes its lock for a single forward, with all that has to
be switched for it, and lets go before a caller sees the result: between two tokens of an answer,
other threads get their turn.

Two rules keep threads from waiting for each other. A lock is never held while a caller holds a
generator. Whoever holds a model's lock never waits for a corpus.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase


class FairLock:
    """A re-entrant lock that threads get in the order in which they asked for it.

    Python's own lock is not fair: a thread that writes token after token would get it back each
    time, before those that wait have woken up.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._owner: int | None = None
        self._depth = 0
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds the lock."""
        return self._owner == threading.get_ident()

    def acquire(self) -> None:
        """Waits until it is this thread's turn."""
        me = threading.get_ident()
        with self._guard:
            # A thread that holds the lock would otherwise wait for itself.
            if self._owner == me:
                self._depth += 1
                return
            if self._owner is None:
                self._owner = me
                self._depth = 1
                return
            turn = threading.Lock()
            # It is taken from the start, so that taking it again below sleeps until the lock is
            # handed over.
            turn.acquire()
            self._waiting.append((me, turn))
        try:
            turn.acquire()  # released by the thread that hands the lock over
        except BaseException:  # Ctrl-C
            self._give_up(me, turn)
            raise

    def release(self) -> None:
        """Hands the lock to the thread that has waited longest."""
        with self._guard:
            assert self._owner == threading.get_ident(), (
                "only the thread that holds a lock can release it"
            )
            self._depth -= 1
            if self._depth == 0:
                self._hand_over()

    def _hand_over(self) -> None:
        self._owner = None
        if self._waiting:
            # The new owner is named before it wakes up, so that no other thread can get in
            # between.
            self._owner, turn = self._waiting.popleft()
            self._depth = 1
            turn.release()

    def _give_up(self, me: int, turn: threading.Lock) -> None:
        with self._guard:
            if (me, turn) in self._waiting:
                self._waiting.remove((me, turn))
            elif self._owner == me:  # it came in the same moment
                self._hand_over()


# Weak keys, as a lock must not keep a model in memory.
_locks: weakref.WeakKeyDictionary[object, FairLock] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


@contextmanager
def exclusive(shared: object) -> Iterator[None]:
    """Holds the one lock of a model, a tokenizer or anything else that threads share; re-entrant.

    Code of your own that runs a shared model beside readers goes under it:
    `with exclusive(model): model(...)`.

    Args:
        shared: The object. A PEFT model counts as the model that it is laid over.
    """
    lock = lock_of(shared)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def lock_of(shared: object) -> FairLock:
    """The lock of an object; it is kept as long as the object is."""
    base = shared.get_base_model() if hasattr(shared, "get_base_model") else shared
    with _guard:
        return _locks.setdefault(base, FairLock())


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: str | list[str], **options: Any
) -> BatchEncoding:
    """What a tokenizer makes of texts; `options` are those of its call.

    A fast tokenizer keeps the options of a call in itself until the next one: without the lock, a
    passage that another thread encodes at the same moment could have its special tokens taken for
    real ones.
    """
    with exclusive(tokenizer):
        return tokenizer(texts, **options)


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], **options: Any) -> str:
    """The text of tokens; `options` are those of the tokenizer's `decode`."""
    with exclusive(tokenizer):
        return str(tokenizer.decode(list(tokens), **options))


def decode_stream(
    tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int], **options: Any
) -> Iterator[str]:
    """Yields the text of tokens piece by piece, as they come; `options` as in `decode`."""
    taken: list[int] = []
    shown = ""
    for token in tokens:
        taken.append(token)
        # All tokens anew each time, because several of them may make up one character.
        text = decode(tokenizer, taken, **options)
        # Half a character waits for its other bytes.
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    yield decode(tokenizer, taken, **options)[len(shown) :]
