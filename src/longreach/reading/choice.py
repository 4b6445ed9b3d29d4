"""What fits within a number of positions, and how each passage of it is read.

Knows no model: a price list says what text and memory cost.
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from longreach.engine.sampling import REQUEST
from longreach.errors import ContextError
from longreach.reading.policy import Policy
from longreach.wording import counted

Key = tuple[str, int]
"""A passage: its revision and its number in it. Sorted, keys are in document order."""


class Prices(Protocol):
    """What the parts of a prompt cost, in positions. `PromptBuilder` is one."""

    def fixed(self, question: str, request: str = REQUEST) -> int:
        """Returns the positions of a prompt without any context."""

    def raw(self, text: str) -> list[int]:
        """Returns the token ids of a text with the separator behind it; each is a position."""

    def vectors_cost(self, vectors: int) -> int:
        """Returns the positions that vectors take with the separator behind them; 0 for none."""


class Segment(Protocol):
    """A passage, retrieved or not."""

    @property
    def revision(self) -> str: ...  # noqa: D102
    @property
    def index(self) -> int: ...  # noqa: D102
    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def tokens(self) -> int: ...  # noqa: D102
    @property
    def n_vectors(self) -> int: ...  # noqa: D102
    @property
    def segment(self) -> int | None: ...  # noqa: D102
    @property
    def reach(self) -> int: ...  # noqa: D102


class Choice(NamedTuple):
    """What fits.

    Attributes:
        text: Token ids of raw text, in document order.
        read_as_text: Passages in it.
        memory: Passages whose memory is read, in document order; that of a segment of several
            passages is named by its first one.
        positions: Positions that both take.
        source_tokens: Tokens of source text behind both.
    """

    text: tuple[list[int], ...]
    read_as_text: frozenset[Key]
    memory: tuple[Key, ...]
    positions: int
    source_tokens: int

    def read_as(self, passage: Segment) -> str:
        """Returns how a passage is read: "raw", "vectors" or "not read"."""
        key = key_of(passage)
        if key in self.read_as_text:
            return "raw"
        return "vectors" if memory_key_of(passage) in self.memory else "not read"


def key_of(passage: Segment) -> Key:
    """Returns the key of a passage."""
    return passage.revision, passage.index


def memory_key_of(passage: Segment) -> Key:
    """Returns the key of the passage that has the memory of a passage's segment."""
    index = passage.index if passage.segment is None else passage.segment
    return passage.revision, index


def choose(
    found: Sequence[Segment],
    document: Sequence[Segment],
    positions: int,
    policy: Policy,
    prices: Prices,
    *,
    window: int = sys.maxsize,
) -> Choice:
    """Returns what is read within a number of positions.

    A passage is read whole or not at all, unless the policy cuts it.

    Args:
        found: Retrieved passages, best first.
        document: All passages of the best one's document where the policy reads that, else empty.
        positions: Positions left beside the question.
        policy: The policy.
        prices: What text and memory cost.
        window: Positions left of the model's window. What is read behind a memory in the KV cache
            stands behind its whole segment, however few entries are kept.

    Raises:
        ContextError: The policy reads a whole document as raw text, and it does not fit.
    """
    chosen = _Chosen(positions, window, prices)
    if policy.raw == "document":
        chosen.read_document_as_text(document)
    else:
        if document:
            # Memory goes first: it is all or nothing, and passages take what is left.
            chosen.read_document_as_memory(document)
        for passage in found[: policy.raw]:
            chosen.read_as_text(passage, cut=policy.cut)
    # Either passages were asked for, or the whole document does not fit as memory.
    if policy.compressed != "none" and not chosen.memory:
        chosen.read_as_memory(found)
    return chosen.freeze()


class _Chosen:
    """Passages as they are chosen, and the positions that are left."""

    def __init__(self, left: int, window: int, prices: Prices) -> None:
        self.left = left
        self.window = window
        self.memory: dict[Key, Segment] = {}
        self._text: dict[Key, list[int]] = {}
        self._text_tokens: dict[Key, int] = {}
        self._owners: dict[Key, Key] = {}
        self._prices = prices
        # One vector costs itself and the separator behind it.
        self._separator = prices.vectors_cost(1) - 1

    def read_document_as_text(self, document: Sequence[Segment]) -> None:
        # Joined first, because each text by itself would cost a separator.
        ids = self._prices.raw("".join(segment.text for segment in document))
        if len(ids) > self.left:
            raise ContextError(
                f"The document takes {counted(len(ids), 'position')} as raw text, and the budget"
                f" leaves {self.left:,}: raise the budget, or read passages or vectors."
            )
        # One entry under the first key, so that it sorts where the document begins.
        self._text[key_of(document[0])] = ids
        for segment in document:
            # Citations ask passage by passage, and all of them were read.
            self._note_text(segment, segment.tokens)
        self._take(len(ids))

    def read_document_as_memory(self, document: Sequence[Segment]) -> None:
        """Reads all of a document as memory, or nothing of it where that does not fit."""
        # Of the passages of a segment one stands for all.
        held = {memory_key_of(segment): segment for segment in document}
        cost = self._prices.vectors_cost(sum(segment.n_vectors for segment in held.values()))
        span = sum(map(_span_of, held.values())) + self._separator
        if cost <= self.left and span <= self.window:
            self.memory = held
            self._take(cost, span)

    def read_as_text(self, passage: Segment, *, cut: bool) -> None:
        ids = self._prices.raw(passage.text)
        tokens = passage.tokens
        if cut and len(ids) > self.left > self._separator:
            # A text that is cut keeps its separator, so that what follows is no part of its
            # sentence.
            tokens = self.left - self._separator
            ids = [*ids[:tokens], *ids[len(ids) - self._separator :]]
        if len(ids) <= min(self.left, self.window):
            self._text[key_of(passage)] = ids
            self._note_text(passage, tokens)
            self._take(len(ids))

    def read_as_memory(self, passages: Sequence[Segment]) -> None:
        """Reads those as memory that fit and are not read as text.

        A memory in the KV cache goes around the text of passages of its segment.
        """
        # All memory together has one separator behind it.
        left = self.left - self._separator
        window = self.window - self._separator
        for passage in passages:
            key = memory_key_of(passage)
            wanted = key_of(passage) not in self._text_tokens
            if passage.reach:
                wanted = not wanted or not self._text_tokens
            span = _span_of(passage)
            if wanted and key not in self.memory and passage.n_vectors <= left and span <= window:
                self.memory[key] = passage
                left -= passage.n_vectors
                window -= span

    def _note_text(self, passage: Segment, tokens: int) -> None:
        self._text_tokens[key_of(passage)] = tokens
        self._owners[key_of(passage)] = memory_key_of(passage)

    def _take(self, positions: int, span: int | None = None) -> None:
        self.left -= positions
        self.window -= positions if span is None else span

    def freeze(self) -> Choice:
        # A dict, because a passage that is read both ways counts once.
        tokens: dict[Key, int] = {}
        for key, count in self._text_tokens.items():
            around = self.memory.get(self._owners[key])
            # A longer segment counts the tokens of all its passages.
            if around is None or not around.reach:
                tokens[key] = count
        for key, segment in self.memory.items():
            tokens[key] = segment.reach or segment.tokens
        vectors = sum(segment.n_vectors for segment in self.memory.values())
        text = tuple(self._text[key] for key in sorted(self._text))
        return Choice(
            text=text,
            read_as_text=frozenset(self._text_tokens),
            memory=tuple(sorted(self.memory)),
            positions=sum(map(len, text)) + self._prices.vectors_cost(vectors),
            source_tokens=sum(tokens.values()),
        )


def _span_of(passage: Segment) -> int:
    """Returns the positions of the window that a passage's memory takes."""
    return max(passage.n_vectors, passage.reach)
