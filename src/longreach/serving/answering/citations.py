"""Citations that quote exactly: what is cited is compared with the document that is there now."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longreach.errors import UsageError
from longreach.jsontext import JsonObject
from longreach.reading.answer import Citation

if TYPE_CHECKING:
    from longreach.corpus.reading import CorpusReading
    from longreach.serving.members import Member

READ_AS = {"raw": "text", "vectors": "memory", "keys": "memory", "not read": "not read"}
_MOST_CHARACTERS = 32_000_000


@dataclass(frozen=True)
class Quote:
    """A passage that was found for a question.

    Attributes:
        file_id: Of the file in the vector store.
        filename: Of the file, without folders.
        document: The document; the same as `filename` where its name is a path of the server.
        start: First character of the passage in the document's text, counted from 0.
        end: One past the last character.
        text: The passage: exactly these characters.
        read_as: "text", "memory" or "not read".
        score: Of the search.
        attributes: Of the file.
    """

    file_id: str
    filename: str
    document: str
    start: int
    end: int
    text: str
    read_as: str
    score: float
    attributes: JsonObject

    @property
    def place(self) -> JsonObject:
        """The exact place, as the field `longreach` of a result tells it."""
        return {"document": self.document, "start": self.start, "end": self.end}

    def to_citation(self, index: int) -> JsonObject:
        """Returns OpenAI's file citation, with the exact place."""
        return {
            "type": "file_citation",
            "index": index,
            "file_id": self.file_id,
            "filename": self.filename,
            **self.place,
            "read_as": self.read_as,
        }

    def to_passage(self) -> JsonObject:
        """Returns the passage with its text."""
        return {
            "file_id": self.file_id,
            "filename": self.filename,
            **self.place,
            "text": self.text,
            "read_as": self.read_as,
            "score": self.score,
        }


class Quoter:
    """Turns the citations of answers into quotes, and omits those that do not quote.

    A document's text is read from the corpus, apart from the index that found the passage, and
    kept for a while by its revision, which names its content.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._characters = 0

    def quote(
        self, corpus: CorpusReading, found: Sequence[Citation], members: Mapping[str, Member]
    ) -> list[Quote]:
        """Returns the passages that quote exactly.

        Args:
            corpus: The corpus.
            found: The citations of an answer.
            members: The files of the vector store by the names of their documents.
        """
        quotes = []
        for citation in found:
            member = members.get(citation.document)
            if member is None or not self._is_exact(corpus, citation):
                # It was deleted or replaced while the answer was written.
                continue
            quotes.append(
                Quote(
                    member.file_id,
                    member.filename,
                    member.shown,
                    citation.start,
                    citation.end,
                    citation.text,
                    READ_AS.get(citation.read_as, "memory"),
                    citation.score,
                    member.attributes,
                )
            )
        return quotes

    def _is_exact(self, corpus: CorpusReading, citation: Citation) -> bool:
        text = self._read(corpus, citation.document, citation.revision)
        return text is not None and text[citation.start : citation.end] == citation.text

    def _read(self, corpus: CorpusReading, document: str, revision: str) -> str | None:
        key = corpus.settings.created + corpus.name, revision
        with self._lock:
            if key in self._texts:
                self._texts.move_to_end(key)
                return self._texts[key]
        try:
            passages = corpus.passages(document)
        except UsageError:
            return None
        if not passages or passages[0].revision != revision:
            return None
        text = "".join(passage.text for passage in passages)
        with self._lock:
            if key not in self._texts:
                self._texts[key] = text
                self._characters += len(text)
            while self._characters > _MOST_CHARACTERS:
                self._characters -= len(self._texts.popitem(last=False)[1])
        return text
