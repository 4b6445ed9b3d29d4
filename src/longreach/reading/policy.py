"""What is read for a question: which passages as raw text, which as vectors, within a number of
positions.

LLoCO (arXiv 2404.07979) reads vectors; REFRAG (arXiv 2509.01092) reads the best few passages raw,
the rest compressed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, get_args

from longreach.corpus.schema import PassageInfo
from longreach.corpus.search.retrieval import Method, Passage
from longreach.errors import ContextError, UsageError
from longreach.wording import counted

if TYPE_CHECKING:
    from longreach.engine.prompt import PromptBuilder

Compressed = Literal["passages", "document", "none"]
Key = tuple[str, int]
"""A passage: its revision and its number in it."""


class Segment(Protocol):
    """A passage, retrieved or not."""

    @property
    def revision(self) -> str: ...  # noqa: D102
    @property
    def index(self) -> int: ...  # noqa: D102
    @property
    def tokens(self) -> int: ...  # noqa: D102
    @property
    def n_vectors(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Policy:
    """What the reader reads for a question.

    Attributes:
        k: passages retrieved.
        raw: how many of them, best first, are read as raw text, or "document" for all of the best
            passage's document.
        compressed: what is read as vectors: the retrieved passages that are not read raw
            ("passages"), all of the best passage's document ("document", or "passages" where that
            does not fit), or nothing ("none").
        budget: positions of the whole prompt at most: template, vectors, raw text and question.
            None: 2048, or what the model's window leaves beside the answer where that is less.
        retriever: "bm25", "dense" or "hybrid".
        cut: read the first raw passage that does not fit whole as far as it fits, instead of not at
            all.
        adapter: answer with the corpus' adapter on, where it has one.
    """

    k: int = 5
    raw: int | Literal["document"] = 2
    compressed: Compressed = "passages"
    budget: int | None = None
    retriever: str = "bm25"
    cut: bool = False
    adapter: bool = True

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k is {self.k}; at least 1 passage has to be retrieved.")
        if self.raw != "document" and (isinstance(self.raw, str) or self.raw < 0):
            raise UsageError(f"raw is {self.raw}; it must be 0 or more passages, or 'document'.")
        if self.raw == self.compressed:
            raise UsageError("Both raw and compressed read the whole document: choose one of them.")
        if self.budget is not None and self.budget < 1:
            raise UsageError(
                f"The budget is {counted(self.budget, 'position')}; a prompt needs some hundreds"
                " (default 2048)."
            )
        if self.retriever not in get_args(Method):
            raise UsageError(
                f"There is no retriever '{self.retriever}': use one of"
                f" {', '.join(get_args(Method))}."
            )
        if self.compressed not in get_args(Compressed):
            raise UsageError(
                f"compressed is '{self.compressed}'; use one of {', '.join(get_args(Compressed))}."
            )

    @property
    def nothing(self) -> bool:
        """Whether the question is read alone, without any context."""
        return self.raw == 0 and self.compressed == "none"

    @property
    def name(self) -> str:
        """In one word or two: "no context", "compressed", "raw", "mixed" or "full"."""
        if self.nothing:
            return "no context"
        if self.compressed == "none":
            return "full" if self.raw == "document" else "raw"
        return "mixed" if self.raw else "compressed"


class Choice(NamedTuple):
    """What fits.

    Attributes:
        raw: token ids of raw text, in document order.
        read_raw: passages in it.
        vectors: passages read as vectors.
        source_tokens: tokens of source text behind both.
    """

    raw: list[list[int]]
    read_raw: set[Key]
    vectors: set[Key]
    source_tokens: int

    def read_as(self, passage: Segment) -> str:
        """How a passage is read: "raw", "vectors" or "not read"."""
        key = key_of(passage)
        return "raw" if key in self.read_raw else "vectors" if key in self.vectors else "not read"


def key_of(passage: Segment) -> Key:
    """The key of a passage."""
    return passage.revision, passage.index


def choose(
    found: Sequence[Passage],
    document: Sequence[PassageInfo],
    room: int,
    policy: Policy,
    builder: "PromptBuilder",
) -> Choice:
    """Spends `room` positions; a passage is read whole or not at all, unless the policy cuts it.

    Args:
        found: retrieved passages, best first.
        document: all passages of the best one's document where the policy reads that, else empty.
        room: positions left beside the question.
        policy: the policy.
        builder: says what raw text and vectors cost.

    Raises:
        ContextError: the policy reads a whole document as raw text, and it does not fit.
    """
    vectors: list[Segment] = []
    raw: dict[Key, list[int]] = {}
    tokens: dict[Key, int] = {}
    whole = builder.vectors_cost(sum(segment.n_vectors for segment in document))
    if policy.raw == "document":
        text = builder.raw("".join(segment.text for segment in document))
        if len(text) > room:
            raise ContextError(
                f"The document takes {counted(len(text), 'position')} as raw text, and the budget"
                f" leaves {room:,}: raise the budget, or read passages or vectors."
            )
        raw[key_of(document[0])] = text
        tokens = {key_of(segment): segment.tokens for segment in document}
        room -= len(text)
    elif document and whole <= room:
        vectors += document
        room -= whole
    separator = builder.vectors_cost(1) - 1
    for passage in found[: policy.raw] if isinstance(policy.raw, int) else ():
        ids: list[int] = builder.raw(passage.text)
        read = passage.tokens
        if len(ids) > room > separator and policy.cut:
            read = room - separator
            ids = [*ids[:read], *ids[len(ids) - separator :]]
        if len(ids) <= room:
            raw[key_of(passage)] = ids
            tokens[key_of(passage)] = read
            room -= len(ids)
    if policy.compressed != "none" and not vectors:
        room -= separator
        for passage in found:
            if key_of(passage) not in tokens and passage.n_vectors <= room:
                vectors.append(passage)
                room -= passage.n_vectors
    read_raw = set(tokens)
    tokens |= {key_of(segment): segment.tokens for segment in vectors}
    return Choice(
        [raw[key] for key in sorted(raw)], read_raw, set(map(key_of, vectors)), sum(tokens.values())
    )
