"""What is read for a question: which passages as raw text, which as vectors, within a number of positions.

LLoCO (arXiv 2404.07979) reads vectors; REFRAG (arXiv 2509.01092) reads the best few passages raw, the rest compressed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, get_args

from longreach.corpus.retrieval import Method, Passage
from longreach.errors import UsageError

if TYPE_CHECKING:
    from longreach.models.prompt import PromptBuilder

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
        raw: how many of them, best first, are read as raw text.
        compressed: what is read as vectors: the retrieved passages that are not read raw ("passages"), all of the best
            passage's document ("document", or "passages" where that does not fit), or nothing ("none").
        budget: positions of the whole prompt at most: template, vectors, raw text and question. None: 2048, or what
            the model's window leaves beside the answer where that is less.
        retriever: "bm25", "dense" or "hybrid".
    """

    k: int = 5
    raw: int = 2
    compressed: Compressed = "passages"
    budget: int | None = None
    retriever: str = "bm25"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k is {self.k}; at least 1 passage has to be retrieved.")
        if self.raw < 0:
            raise UsageError(f"raw is {self.raw}; it must be 0 or more passages.")
        if self.budget is not None and self.budget < 1:
            raise UsageError(f"The budget is {self.budget} positions; a prompt needs some hundreds (default 2048).")
        if self.retriever not in get_args(Method):
            raise UsageError(f"There is no retriever '{self.retriever}': use one of {', '.join(get_args(Method))}.")
        if self.compressed not in get_args(Compressed):
            raise UsageError(f"compressed is '{self.compressed}'; use one of {', '.join(get_args(Compressed))}.")


class Choice(NamedTuple):
    """What fits: raw passages as token ids, passages read as vectors, and the source tokens behind both."""

    raw: dict[Key, list[int]]
    vectors: set[Key]
    source_tokens: int

    def read_as(self, passage: Segment) -> str:
        """How a passage is read: "raw", "vectors" or "not read"."""
        key = key_of(passage)
        return "raw" if key in self.raw else "vectors" if key in self.vectors else "not read"


def key_of(passage: Segment) -> Key:
    """The key of a passage."""
    return passage.revision, passage.index


def choose(
    found: Sequence[Passage], document: Sequence[Segment], room: int, policy: Policy, builder: "PromptBuilder"
) -> Choice:
    """Spends `room` positions; a passage is read whole or not at all.

    Args:
        found: retrieved passages, best first.
        document: all passages of the best one's document where the policy reads that, else empty.
        room: positions left beside the question.
        policy: the policy.
        builder: says what raw text and vectors cost.
    """
    vectors: list[Segment] = []
    whole = builder.vectors_cost(sum(segment.n_vectors for segment in document))
    if document and whole <= room:
        vectors += document
        room -= whole
    raw: dict[Key, list[int]] = {}
    for passage in found[: policy.raw]:
        ids = builder.raw(passage.text)
        if len(ids) <= room:
            raw[key_of(passage)] = ids
            room -= len(ids)
    if policy.compressed != "none" and not vectors:
        room -= builder.vectors_cost(1) - 1
        for passage in found:
            if key_of(passage) not in raw and passage.n_vectors <= room:
                vectors.append(passage)
                room -= passage.n_vectors
    read: Iterable[Segment] = [*vectors, *(passage for passage in found if key_of(passage) in raw)]
    tokens = {key_of(segment): segment.tokens for segment in read}
    return Choice(raw, {key_of(segment) for segment in vectors}, sum(tokens.values()))
