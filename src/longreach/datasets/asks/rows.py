"""Rows of token ids that ask for far reading, of any length, each a pure function of its number.

A row is [a heading, text with statements in it, questions with their replies]. It says where the
replies lie, which alone are learned, and where the evidence of each lies.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longreach.datasets.asks.kinds import KINDS, Matter
from longreach.datasets.asks.words import Vocabulary
from longreach.errors import UsageError
from longreach.models.sharing import encode
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Filler = Callable[[random.Random, int], NDArray[np.int64]]
"""Draws a number of token ids of running text, such as a stretch of a novel."""

_HEADS = (
    "Below you find a text of some length; questions about it come at its end.\n\n",
    "Please study these pages. You will be asked about a few lines in them.\n\n",
    "From the archive, copied without omissions:\n\n",
    "TEXT\n\n",
)
_FRAMES = (
    "\n\nQ: {question}\nA:{lead}",
    "\n\nAsked: {question}\nReply:{lead}",
    "\n\n{question}{lead}",
    "\n\n[reader] {question}\n[archive]{lead}",
)
_LINE_OF_LIST = "\n{}"
_LINE = "\n{}\n"
_IN_PROSE = " {}"
_MOST_ASKINGS = 12
# Questions take no more than this share of a row.
_MOST_ASKED_SHARE = 0.3


class Span(NamedTuple):
    """Tokens of a row, from `start` up to `stop`."""

    start: int
    stop: int


class Reply(NamedTuple):
    """A reply that is learned.

    Attributes:
        kind: What is asked, a name of `KINDS`.
        tokens: Where it lies.
        evidence: Where the statements lie that say it.
    """

    kind: str
    tokens: Span
    evidence: tuple[Span, ...]

    @property
    def distance(self) -> int:
        """Tokens from the end of the nearest evidence to the reply."""
        return self.tokens.start - max(span.stop for span in self.evidence)


class AskedRow(NamedTuple):
    """A row that asks for far reading.

    Attributes:
        ids: Token ids [T].
        replies: In the order in which they lie in the row.
    """

    ids: NDArray[np.int64]
    replies: tuple[Reply, ...]


class _Text(NamedTuple):
    """What stands around the statements, and the places between its sentences or lines."""

    ids: list[int]
    gaps: list[int]


class _Tail(NamedTuple):
    """The questions of a row: ids, and where the replies lie in them."""

    ids: list[int]
    replies: list[Span]


@dataclass(frozen=True)
class RowMaker:
    """Makes rows that ask for far reading.

    Attributes:
        tokenizer: Of the model that is trained.
        filler: Draws the text around the statements.
        seed: Of everything that is drawn.
        kinds: Names out of `KINDS`, each as likely as its place among these is frequent.
        validation: Whether words are those that training never sees.
    """

    tokenizer: PreTrainedTokenizerBase
    filler: Filler
    seed: int = 0
    kinds: tuple[str, ...] = tuple(KINDS)
    validation: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown or not self.kinds:
            raise UsageError(
                f"The kinds of questions are {', '.join(self.kinds) or 'none'}: give some of"
                f" {', '.join(KINDS)}."
            )

    def make(self, number: int, tokens: int, *, beyond: int = 0, after: int = 0) -> AskedRow:
        """Returns the row of a number, which is the same whenever it is asked for.

        Args:
            number: Which one.
            tokens: Of the row, exactly.
            beyond: Tokens between all evidence and a reply, at least.
            after: Statements stand behind this many tokens, at least.

        Raises:
            UsageError: So few tokens hold no statement that is so far from a question.
        """
        chance = random.Random(f"{self.seed} {number} {self.validation}")
        kinds = chance.sample(self.kinds, len(self.kinds))
        for kind in kinds:
            count = min(_MOST_ASKINGS, chance.randint(1, 2 + tokens // 128))
            while count:
                row = self._draw(chance, kind, count, tokens, beyond, after)
                if row is not None:
                    return row
                # So many facts do not fit before the window: half of them may, or another kind.
                count //= 2
        raise UsageError(
            f"A row of {counted(tokens, 'token')} holds no evidence that is {beyond} tokens away"
            f" from its question and behind the first {after}: give longer rows or a smaller"
            " window."
        )

    def rows(
        self, tokens: int, *, beyond: int = 0, after: int = 0, first: int = 0
    ) -> Iterator[AskedRow]:
        """Yields rows without end, from the number `first` on; see `make`."""
        number = first
        while True:
            yield self.make(number, tokens, beyond=beyond, after=after)
            number += 1

    def _draw(
        self, chance: random.Random, kind: str, count: int, tokens: int, beyond: int, after: int
    ) -> AskedRow | None:
        """Returns a row with `count` questions, about; None where its statements do not fit."""
        matter = KINDS[kind](chance, Vocabulary(self.validation), count)
        head = self._encode([chance.choice(_HEADS)])[0]
        template = _LINE_OF_LIST
        if matter.crowd is None:
            # Chains are lines; a statement in prose may follow a sentence as well.
            lines = kind == "links" or chance.random() < 0.5
            template = _LINE if lines else _IN_PROSE
        statements = self._encode([template.format(one) for one in matter.statements])
        tail = self._ask(chance, matter, tokens)
        told = sum(map(len, statements))
        free = tokens - len(head) - told - len(tail.ids)
        # The first reply is the nearest to the text.
        high = tokens - len(tail.ids) + tail.replies[0].start - beyond - told - len(head)
        low = max(0, after - len(head))
        if free < 1 or high < low:
            return None
        text = self._surround(chance, matter, free)
        gaps = [gap for gap in text.gaps if low <= gap <= high]
        # Where no sentence ends in reach, a statement comes in the middle of one.
        gaps = gaps or list(range(low, min(high, free) + 1))
        if not gaps:
            return None
        chosen = sorted(chance.choices(gaps, k=len(statements)))
        return _join(head, text, list(zip(chosen, statements, strict=True)), tail, matter)

    def _ask(self, chance: random.Random, matter: Matter, tokens: int) -> _Tail:
        """Returns as many of the questions as a row may have, at least one."""
        frame = chance.choice(_FRAMES)
        ids = list[int]()
        replies = list[Span]()
        for one in matter.askings:
            lead = f" {one.lead}" if one.lead else ""
            asked = frame.format(question=one.question, lead=lead)
            before, reply = self._encode([asked, f" {one.answer}."])
            if ids and len(ids) + len(before) + len(reply) > tokens * _MOST_ASKED_SHARE:
                break
            ids += before
            replies.append(Span(len(ids), len(ids) + len(reply)))
            ids += reply
        return _Tail(ids, replies)

    def _surround(self, chance: random.Random, matter: Matter, tokens: int) -> _Text:
        """Returns text of a number of tokens."""
        if matter.crowd is None:
            ids = self.filler(chance, tokens).tolist()
            return _Text(ids, [place + 1 for place, one in enumerate(ids) if self._ends[one]])
        lines = list[int]()
        gaps = [0]
        # Lines are encoded many at a time, and made while they fit.
        full = False
        while not full:
            for line in self._encode([f"\n{matter.crowd()}" for _ in range(32)]):
                full = full or len(lines) + len(line) > tokens
                if not full:
                    lines += line
                    gaps.append(len(lines))
        # The rest is prose in front of the list.
        rest = tokens - len(lines)
        before = self.filler(chance, rest).tolist()
        return _Text(before + lines, [gap + rest for gap in gaps])

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = encode(self.tokenizer, list(texts), add_special_tokens=False, verbose=False)
        rows: list[list[int]] = encoded["input_ids"]
        return rows

    @cached_property
    def _ends(self) -> NDArray[np.bool_]:
        """Whether a sentence may end with a token, [V]."""
        tokens = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        ends = [str(token).rstrip("\"'”’").endswith((".", "!", "?")) for token in tokens]
        return np.array(ends)


def _join(
    head: list[int],
    text: _Text,
    placed: list[tuple[int, list[int]]],
    tail: _Tail,
    matter: Matter,
) -> AskedRow:
    """Returns the row of its parts; statements come with the gap of the text that they stand in."""
    ids = list(head)
    spans = list[Span]()
    at = 0
    for gap, statement in placed:
        ids += text.ids[at:gap]
        spans.append(Span(len(ids), len(ids) + len(statement)))
        ids += statement
        at = gap
    ids += text.ids[at:]
    shift = len(ids)
    ids += tail.ids
    replies = []
    for own, asking in zip(tail.replies, matter.askings, strict=False):
        evidence = tuple(spans[number] for number in asking.evidence)
        place = Span(own.start + shift, own.stop + shift)
        replies.append(Reply(matter.kind, place, evidence))
    return AskedRow(np.array(ids, dtype=np.int64), tuple(replies))
