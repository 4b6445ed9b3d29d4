"""The prose that facts and needles are hidden in: its words, its sentences and their tokens."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from longreach.datasets.sources import find
from longreach.errors import UsageError
from longreach.models.sharing import encode
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Alice's Adventures in Wonderland, in the public domain.
DEFAULT = Path(__file__).with_name("alice.txt")
# Of a longer text no more is read, unless the length needs it.
_LEAST_CHARACTERS = 1_000_000
_CHARACTERS_PER_TOKEN = 16
_ABBREVIATIONS = "".join(rf"(?<!\b{word}\.)" for word in ("Mr", "Mrs", "Ms", "Dr", "St", "Prof"))
_SENTENCE_END = re.compile(
    rf"(?:(?<=[.!?]){_ABBREVIATIONS}|(?<=[.!?][’”\"')])) (?=[‘“\"'(]?[A-Z0-9])"
)


@dataclass(frozen=True)
class Prose:
    """A text as a haystack: its words with one space between them.

    Attributes:
        name: What the text was read from, for what is said.
        text: The words.
        words: Where each begins in the text, and behind the last one where the next would.
        sentences: The word that each begins with.
        tokens: [i] tokens of the first i words.
    """

    name: str
    text: str
    words: Sequence[int]
    sentences: Sequence[int]
    tokens: Sequence[int]

    def between(self, start: int, stop: int) -> str:
        """Returns the words from `start` up to `stop`."""
        if stop <= start:
            return ""
        # Without the space before the next word.
        return self.text[self.words[start] : self.words[stop] - 1]

    def with_facts(self, start: int, stop: int, facts: Sequence[tuple[int, str]]) -> str:
        """Returns the words from `start` up to `stop`, with texts before some of them.

        Args:
            start: The first word.
            stop: The first word that is not there.
            facts: Words, in their order, and the texts that stand before them.
        """
        pieces = list[str]()
        at = start
        for word, fact in facts:
            pieces += [self.between(at, word), fact]
            at = word
        pieces.append(self.between(at, stop))
        return " ".join(filter(None, pieces))

    def gaps(self, start: int, stop: int) -> Sequence[int]:
        """Returns the words from `start` up to `stop` that begin a sentence, and `stop` itself."""
        first = bisect_left(self.sentences, start)
        last = bisect_left(self.sentences, stop)
        return [*self.sentences[first:last], stop]

    def too_short(self, what: str) -> UsageError:
        """Returns the error of a prompt that all the words do not fill."""
        return UsageError(
            f"The haystack '{self.name}' is shorter than the length: its"
            f" {counted(self.tokens[-1], 'token')} do not fill {what}; give a longer text or a"
            " smaller length."
        )


def read_prose(
    haystack: str | Path | None,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    *,
    sentence_tokens: int = 0,
) -> Prose:
    """Returns a haystack with its tokens counted.

    Args:
        haystack: A text file, a folder of them, or whatever else can be trained on; None takes the
            book that comes with the package, Alice's Adventures in Wonderland.
        tokenizer: The model's, a fast one.
        length: Tokens that are wanted at most; of a very long text no more is read than is needed
            for that.
        sentence_tokens: Sentences of fewer are omitted.

    Raises:
        DocumentError: There is no text of that name, or it cannot be read.
    """
    name = str(haystack or DEFAULT.name)
    most = max(_LEAST_CHARACTERS, length * _CHARACTERS_PER_TOKEN)
    text = _read_characters(haystack or DEFAULT, most)
    prose = _make_prose(name, _SENTENCE_END.split(text.strip()), tokenizer)
    if not sentence_tokens:
        return prose
    return _make_prose(name, list(_long_sentences(prose, sentence_tokens)), tokenizer)


def _read_characters(haystack: str | Path, most: int) -> str:
    """Returns the texts of a haystack, one after the other, up to a number of characters."""
    pieces = list[str]()
    characters = 0
    for text in find(haystack).texts(lambda note: None):
        # Every white space becomes one space.
        pieces.append(" ".join(text.split()))
        characters += len(pieces[-1]) + 1
        if characters > most:
            break
    return " ".join(pieces)[:most]


def _long_sentences(prose: Prose, least: int) -> Iterator[str]:
    """Yields the sentences of at least a number of tokens."""
    ends = [*prose.sentences[1:], len(prose.words) - 1]
    for start, stop in zip(prose.sentences, ends, strict=True):
        if prose.tokens[stop] - prose.tokens[start] >= least:
            yield prose.between(start, stop)


def _make_prose(name: str, sentences: list[str], tokenizer: PreTrainedTokenizerBase) -> Prose:
    text = " ".join(sentences)
    # Encoded once; prompts then add up the tokens of their words.
    encoded = encode(
        tokenizer, text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    begins = [begin for begin, _ in encoded["offset_mapping"]]
    words = [0]
    words += [space.end() for space in re.finditer(" ", text)]
    words.append(len(text) + 1)
    counts = [len(sentence.split(" ")) for sentence in sentences]
    # A token that begins with the space before a word belongs to that word.
    tokens = [bisect_left(begins, max(0, word - 1)) for word in words]
    return Prose(name, text, words, list(accumulate(counts, initial=0))[:-1], tokens)
