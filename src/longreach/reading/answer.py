"""What a question gets: text, citations, positions and timings."""

import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

from longreach.corpus.search.retrieval import Passage


@dataclass(frozen=True)
class Citation(Passage):
    """A retrieved passage and how it was read: as "raw" text, as "vectors", or "not read" for want
    of room."""

    read_as: str


@dataclass(frozen=True)
class Usage:
    """Positions the model read, and where they came from.

    Attributes:
        positions: the whole prompt.
        vectors: positions that were summary vectors.
        raw_tokens: positions that were raw text of passages.
        cached: positions taken from the KV cache of an earlier question.
        source_tokens: tokens of source text behind the vectors and the raw text, each passage
            counted once.
        answer_tokens: tokens written.
        kv_bytes: keys and values held when the answer was written.
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
    """Wall-clock seconds since the question was asked; questions asked together are answered
    together."""

    retrieved_seconds: float
    assembled_seconds: float
    first_token_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Answer:
    """What a question got: the text, the passages it may cite, what was read, how long it took, by
    which policy.

    `policy` is the policy's name: "no context", "compressed", "raw", "mixed" or "full". Of a batch,
    a question that no passage matches gets an empty text and no passages.
    """

    text: str
    passages: list[Citation]
    usage: Usage
    timings: Timings
    policy: str

    @classmethod
    def unanswered(cls, policy: str, seconds: float = 0.0) -> Self:
        """What a question of a batch gets that no passage matches.

        Args:
            policy: the policy's name.
            seconds: since it was asked.
        """
        return cls(
            "", [], Usage(0, 0, 0, 0, 0, 0, 0), Timings(seconds, seconds, seconds, seconds), policy
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values for JSON."""
        return asdict(self)


class AnswerStream:
    """The pieces of an answer's text as they are written; after the last one, `answer` holds the
    whole.

    It may be read as slowly as one likes, from several threads (each piece comes once), or left
    alone halfway.
    """

    def __init__(self, pieces: Iterator[str | Answer]) -> None:
        self._pieces = pieces
        self._turn = threading.Lock()  # a generator runs in one thread at a time
        self.answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        while True:
            with self._turn:
                piece = next(self._pieces, None)
                if isinstance(piece, Answer):
                    self.answer = piece
                    continue
            if piece is None:
                return
            yield piece
