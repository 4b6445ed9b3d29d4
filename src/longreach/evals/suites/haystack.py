"""The prose that facts and needles are hidden in: where words and sentences begin, and the tokens
before them."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from longreach.datasets.sources import find
from longreach.errors import UsageError
from longreach.models.sharing import encode
from longreach.wording import counted

# Alice's Adventures in Wonderland, in the public domain.
DEFAULT = Path(__file__).with_name("alice.txt")
_LEAST_CHARACTERS = 1_000_000  # of a longer text no more is read, unless the length needs it
_CHARACTERS_PER_TOKEN = 16
_ABBREVIATIONS = "".join(rf"(?<!\b{word}\.)" for word in ("Mr", "Mrs", "Ms", "Dr", "St", "Prof"))
_SENTENCE_END = re.compile(
    rf"(?:(?<=[.!?]){_ABBREVIATIONS}|(?<=[.!?][’”\"')])) (?=[‘“\"'(]?[A-Z0-9])"
)


@dataclass(frozen=True)
class Prose:
    """A text as a haystack: its words with one space between them.

    Attributes:
        name: what the text was read from, for what is said.
        text: the words.
        words: where each begins in the text, and behind the last one where the next would.
        sentences: the word that each begins with.
        tokens: [i] tokens of the first i words.
    """

    name: str
    text: str
    words: Sequence[int]
    sentences: Sequence[int]
    tokens: Sequence[int]

    def between(self, start: int, stop: int) -> str:
        """The words from `start` up to `stop`."""
        return self.text[self.words[start] : self.words[stop] - 1] if stop > start else ""

    def with_facts(self, start: int, stop: int, facts: Sequence[tuple[int, str]]) -> str:
        """The words from `start` up to `stop`, with texts put before some of them, given in the
        order of the words."""
        pieces, at = list[str](), start
        for word, fact in facts:
            pieces += [self.between(at, word), fact]
            at = word
        return " ".join(piece for piece in [*pieces, self.between(at, stop)] if piece)

    def gaps(self, start: int, stop: int) -> Sequence[int]:
        """Words before which a sentence begins, from `start` up to `stop`, and `stop` itself."""
        return [
            *self.sentences[bisect_left(self.sentences, start) : bisect_left(self.sentences, stop)],
            stop,
        ]

    def too_short(self, what: str) -> UsageError:
        """The error of a prompt that all the words do not fill."""
        return UsageError(
            f"The haystack '{self.name}' is shorter than the length: its"
            f" {counted(self.tokens[-1], 'token')} do not fill {what}; give a longer text or a"
            " smaller length."
        )


def read_prose(
    haystack: str | Path | None, tokenizer: Any, length: int, *, sentence_tokens: int = 0
) -> Prose:
    """Reads a haystack and counts its tokens.

    Args:
        haystack: a text file, a folder of them, or whatever else can be trained on; None takes the
            book that comes with the package, Alice's Adventures in Wonderland.
        tokenizer: the model's, a fast one.
        length: tokens that are wanted at most; of a very long text no more is read than is needed
            for that.
        sentence_tokens: sentences of fewer are left out.

    Raises:
        DocumentError: there is no text of that name, or it cannot be read.
    """
    name, pieces, characters = str(haystack or DEFAULT.name), list[str](), 0
    most = max(_LEAST_CHARACTERS, length * _CHARACTERS_PER_TOKEN)
    for text in find(haystack or DEFAULT).texts(lambda note: None):
        pieces.append(" ".join(text.split()))
        characters += len(pieces[-1]) + 1
        if characters > most:
            break
    prose = _prose(name, _sentences(" ".join(pieces)[:most]), tokenizer)
    if not sentence_tokens:
        return prose
    ends = [*prose.sentences[1:], len(prose.words) - 1]
    spans = zip(prose.sentences, ends, strict=True)
    kept = [
        prose.between(*span)
        for span in spans
        if prose.tokens[span[1]] - prose.tokens[span[0]] >= sentence_tokens
    ]
    return _prose(name, kept, tokenizer)


def _sentences(text: str) -> list[str]:
    return _SENTENCE_END.split(text.strip())


def _prose(name: str, sentences: list[str], tokenizer: Any) -> Prose:
    text = " ".join(sentences)
    encoded = encode(
        tokenizer, text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    begins = [begin for begin, _ in encoded["offset_mapping"]]
    words = [0, *(match.end() for match in re.finditer(" ", text)), len(text) + 1]
    counts = [len(sentence.split(" ")) for sentence in sentences]
    # A token that begins with the space before a word belongs to that word.
    tokens = [bisect_left(begins, max(0, word - 1)) for word in words]
    return Prose(name, text, words, list(accumulate(counts, initial=0))[:-1], tokens)
