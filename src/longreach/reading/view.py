"""What a question is asked after, and which documents of a corpus it is asked about."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from longreach.corpus.schema import DocumentInfo, PassageInfo
from longreach.corpus.search.retrieval import Passage

if TYPE_CHECKING:
    from longreach.corpus.store import Corpus
    from longreach.engine.turns import Turn


class View(NamedTuple):
    """What a question is asked after, and where its passages are looked for.

    Attributes:
        history: Earlier turns of the conversation.
        among: Names of documents; None for all.
    """

    history: "Sequence[Turn]" = ()
    among: Collection[str] | None = None


class DocumentsAmong:
    """The documents of a corpus that have some names, as the planner asks for them.

    Args:
        corpus: The corpus.
        names: Of the documents; None for all.
    """

    def __init__(self, corpus: "Corpus", names: Collection[str] | None) -> None:
        self._corpus = corpus
        self._names = names
        self.name = corpus.name

    def documents(self) -> list[DocumentInfo]:
        """Returns the documents of the corpus: it is not empty where none of them is meant."""
        return self._corpus.documents()

    def passages(self, name: str) -> list[PassageInfo]:
        """Returns the passages of a document in order."""
        return self._corpus.passages(name)

    def search(self, query: str, k: int, retriever: str, document: str | None) -> list[Passage]:
        """Returns the `k` passages nearest to a question, best first."""
        return self._corpus.search(query, k, retriever, document, among=self._names)
