"""What is read for a question: which passages as text, which as memory, within a budget.

LLoCO (arXiv 2404.07979) reads vectors; REFRAG (arXiv 2509.01092) reads the best few passages raw,
the rest compressed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, TypedDict, Unpack, get_args, overload

from longreach.corpus.search.retrieval import Method
from longreach.errors import UsageError
from longreach.wording import counted

Compressed = Literal["passages", "document", "none"]

DEFAULT_BUDGET = 2048
"""Positions of a prompt at most where a policy does not say."""
DEFAULT_K = 5
"""Passages retrieved where a policy does not say."""
DEFAULT_MIXED_K = 2
"""Passages read as text beside a document's memory where `Policy.mixed` is not told."""


class Shared(TypedDict, total=False):
    """The fields that every way of reading has."""

    budget: int | None
    retriever: str
    cut: bool
    adapter: bool


@dataclass(frozen=True)
class _Fields:
    """The fields of a policy, and what is refused; `Policy` says what they mean."""

    k: int = DEFAULT_K
    raw: int | Literal["document"] = 2
    compressed: Compressed = "passages"
    budget: int | None = None
    retriever: str = "bm25"
    cut: bool = False
    adapter: bool = True

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k is {self.k}; at least 1 passage has to be retrieved.")
        # Another word would be compared with a number, and raise a TypeError.
        if self.raw != "document" and (isinstance(self.raw, str) or self.raw < 0):
            raise UsageError(f"raw is {self.raw}; it must be 0 or more passages, or 'document'.")
        # The only value that both can have is "document".
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


class _CompressedOrField:
    """`Policy.compressed()` on the class; the field of that name on a policy.

    A field and a class method cannot share a name in one class body. This descriptor has no
    `__set__`, so a policy's own value, which lies in its `__dict__`, comes first.
    """

    @overload
    def __get__(self, instance: None, owner: "type[Policy]") -> "Callable[..., Policy]": ...
    @overload
    def __get__(self, instance: "Policy", owner: "type[Policy]") -> Compressed: ...
    def __get__(
        self, instance: "Policy | None", owner: "type[Policy]"
    ) -> "Compressed | Callable[..., Policy]":
        return owner._read_compressed


class Policy(_Fields):
    """What the reader reads for a question.

    The class methods give the ways of reading that have a name; each takes the other fields too.

        Policy.none()          the question alone
        Policy.passages(k=5)   the text of the best passages
        Policy.compressed()    the memory of the best passage's whole document
        Policy.mixed(k=2)      that memory and the text of the best passages
        Policy.full()          the text of the best passage's whole document

    Attributes:
        k: Passages retrieved.
        raw: How many of them, best first, are read as raw text, or "document" for all of the best
            passage's document.
        compressed: What is read as memory: the retrieved passages that are not read raw
            ("passages"), all of the best passage's document ("document", or "passages" where that
            does not fit), or nothing ("none").
        budget: Positions of the whole prompt at most: template, memory, raw text and question.
            None takes 2048, or what the model's window leaves beside the answer where that is less.
        retriever: "bm25", "dense" or "hybrid".
        cut: Whether the first raw passage that does not fit whole is read as far as it fits,
            instead of not at all.
        adapter: Whether to answer with the corpus' adapter on, where it has one.
    """

    compressed = _CompressedOrField()

    @property
    def nothing(self) -> bool:
        """Whether the question is read alone, without any context."""
        return self.raw == 0 and self.compressed == "none"

    @property
    def name(self) -> str:
        """What the policy is called: "no context", "compressed", "raw", "mixed" or "full"."""
        if self.nothing:
            return "no context"
        if self.compressed == "none":
            return "full" if self.raw == "document" else "raw"
        return "mixed" if self.raw else "compressed"

    @classmethod
    def none(cls, **more: Unpack[Shared]) -> Self:
        """Returns the policy that reads the question alone, without any context."""
        return cls(raw=0, compressed="none", **more)

    @classmethod
    def passages(cls, k: int = DEFAULT_K, **more: Unpack[Shared]) -> Self:
        """Returns the policy that reads the text of the `k` best passages, and no memory."""
        return cls(k=k, raw=k, compressed="none", **more)

    @classmethod
    def _read_compressed(cls, k: int = DEFAULT_K, **more: Unpack[Shared]) -> Self:
        """Returns the policy that reads the memory of the best passage's whole document.

        Where that does not fit, the memory of the `k` best passages is read instead.
        """
        return cls(k=k, raw=0, compressed="document", **more)

    @classmethod
    def mixed(cls, k: int = DEFAULT_MIXED_K, **more: Unpack[Shared]) -> Self:
        """Returns the policy that reads a document's memory and the text of its best passages.

        The text of the `k` best passages is read beside the memory of the best one's whole
        document; where that does not fit, beside the memory of the next best passages.
        """
        # More are retrieved than are read as text: the others are there for the case that the
        # memory of the whole document does not fit.
        return cls(k=max(k, _Fields.k), raw=k, compressed="document", **more)

    @classmethod
    def full(cls, **more: Unpack[Shared]) -> Self:
        """Returns the policy that reads the text of the best passage's whole document."""
        return cls(raw="document", compressed="none", **more)
