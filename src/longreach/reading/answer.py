"""What a question gets: text, citations, positions and timings."""

import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

from longreach.corpus.search.retrieval import Passage
from longreach.jsontext import JsonObject

if TYPE_CHECKING:
    from longreach.engine.request import Handle


@dataclass(frozen=True)
class Citation(Passage):
    """A retrieved passage and how it was read.

    Attributes:
        read_as: "raw" as text, "vectors" as memory, or "not read" where it did not fit.
    """

    read_as: str


@dataclass(frozen=True)
class Usage:
    """The positions that the model read, and where they came from.

    Attributes:
        positions: Of the whole prompt.
        vectors: Positions that were memory: summary vectors, or entries of the KV cache.
        raw_tokens: Positions that were raw text of passages.
        cached: Positions taken from the KV cache of an earlier question.
        source_tokens: Tokens of source text behind the vectors and the raw text, each passage
            counted once.
        answer_tokens: Tokens written.
        kv_bytes: Keys and values held when the answer was written.
    """

    positions: int
    vectors: int
    raw_tokens: int
    cached: int
    source_tokens: int
    answer_tokens: int
    kv_bytes: int


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds since the question was asked.

    Questions that are asked together are answered together.
    """

    retrieved_seconds: float
    assembled_seconds: float
    first_token_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Answer:
    """What a question got.

    Of a batch, a question that no passage matches gets an empty text and no passages.

    Attributes:
        text: The answer.
        passages: The passages that it may cite, best first, and how each was read.
        usage: What was read and written.
        timings: How long it took.
        policy: Name of the policy: "no context", "compressed", "raw", "mixed" or "full".
    """

    text: str
    passages: list[Citation]
    usage: Usage
    timings: Timings
    policy: str

    @classmethod
    def unanswered(cls, policy: str, seconds: float = 0.0) -> Self:
        """Returns what a question of a batch gets that no passage matches.

        Args:
            policy: Name of the policy.
            seconds: Since it was asked.
        """
        usage = Usage(0, 0, 0, 0, 0, 0, 0)
        timings = Timings(seconds, seconds, seconds, seconds)
        return cls("", [], usage, timings, policy)

    def to_dict(self) -> JsonObject:
        """Returns the same as plain values for JSON."""
        return asdict(self)


class Cancellation:
    """Ends an answer from any thread, before or after it is handed to the engine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: Handle | None = None
        self._asked = False

    def attach(self, handle: "Handle") -> None:
        """Takes the answer that is to be ended, which ends at once if that was asked before."""
        with self._lock:
            self._handle = handle
            if self._asked:
                handle.cancel()

    def cancel(self) -> None:
        """Ends the answer with what there is of it."""
        with self._lock:
            self._asked = True
            if self._handle is not None:
                self._handle.cancel()


class AnswerStream:
    """The pieces of an answer's text as they are written.

    After the last one, `answer` holds the whole. The stream may be read as slowly as one likes,
    from several threads (each piece comes once), or left alone halfway.

    Args:
        pieces: The pieces, and the answer last.
        cancellation: Ends the writing of those pieces.
    """

    def __init__(self, pieces: Iterator[str | Answer], cancellation: Cancellation) -> None:
        self._pieces = pieces
        self._cancellation = cancellation
        # A generator runs in one thread at a time.
        self._turn = threading.Lock()
        self.answer: Answer | None = None

    def cancel(self) -> None:
        """Ends the answer with what there is of it; any thread may call it.

        Whoever reads the stream comes to its end.
        """
        self._cancellation.cancel()

    def __iter__(self) -> Iterator[str]:
        while True:
            with self._turn:
                piece = next(self._pieces, None)
                if isinstance(piece, Answer):
                    # The answer comes last, so the next turn finds the end.
                    self.answer = piece
                    continue
            if piece is None:
                return
            yield piece
