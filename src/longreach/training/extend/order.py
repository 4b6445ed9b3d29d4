"""In which order documents are learned: a pure function of their lengths, the settings, the seed.

A document is one row, cut where it is longer than the target length; several documents never share
a row, so that no token sees another document, whatever the attention. Short ones lie in one batch
as rows of about the same length. Such a batch, a *rectangle* of at most `capacity` tokens with its
padding, is the unit of everything: a step learns a number of them, and the n-th rectangle of a run
can be asked for without those before it.

Long documents are drawn more often than short ones, within each source, and each source keeps its
share of tokens: Fu et al. 2024, "Data Engineering for Scaling Language Models to 128K Context"
(per-source length upsampling).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longreach.errors import DocumentError, UsageError
from longreach.wording import counted

# Rows are sorted by length within this many rectangles, and the rectangles shuffled: all of them
# sorted would put rows that were long by chance always together with the same others.
_WINDOW_RECTANGLES = 256


class Piece(NamedTuple):
    """What becomes one row: `tokens` ids of a source, from `start` on."""

    source: int
    start: int
    tokens: int


@dataclass(frozen=True)
class Mix:
    """How rows are made and drawn.

    Attributes:
        length: Target length in tokens: the most of a row.
        capacity: Tokens of a rectangle, padding included; at least `length`.
        long_tokens: Documents of at least this many tokens are long.
        long_weight: How many times as often as other documents of their source long ones are drawn.
            5.4 would bring a share of 30% of the tokens to 70%, as in the paper.
        seed: Of the order.
        multiple: Rows are padded to a multiple of it, unless that is more than `length`.
    """

    length: int
    capacity: int
    long_tokens: int = 4096
    long_weight: float = 5.0
    seed: int = 0
    multiple: int = 64

    def __post_init__(self) -> None:
        if self.length < 2:
            raise UsageError(
                f"The target length is {self.length}; training predicts the next token: give at"
                " least 2."
            )
        if self.capacity < self.length:
            raise UsageError(
                f"A batch of {counted(self.capacity, 'token')} holds no row of {self.length}: give"
                " at least that."
            )
        if self.long_tokens < 1 or not 1 <= self.long_weight < float("inf"):
            raise UsageError(
                f"long_tokens is {self.long_tokens} and long_weight {self.long_weight}: give at"
                " least 1 for both."
            )

    def width(self, tokens: int) -> int:
        """Returns the slots of a row with a number of tokens, padding included."""
        return min(self.length, -(-tokens // self.multiple) * self.multiple)


class Order:
    """The rectangles of a run, from 0 on, epoch after epoch without end.

    Args:
        lengths: For each source the tokens of its documents.
        mix: How rows are made and drawn.
        held_out: Documents (source, number) that are never drawn.

    Raises:
        DocumentError: No document has two tokens.
    """

    def __init__(
        self,
        lengths: Sequence[NDArray[np.int64]],
        mix: Mix,
        held_out: Sequence[tuple[int, int]] = (),
    ):
        self.mix = mix
        parts = [_cut(number, of, mix, held_out) for number, of in enumerate(lengths)]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        self._source, self._start, self._tokens, self._long, self._copies = columns
        if not len(self._tokens):
            raise DocumentError(
                "The data hold no document of at least two tokens to train on: give more."
            )
        self._offset = np.random.default_rng([mix.seed, 0]).random(len(self._tokens))
        self._starts = [0]  # first rectangle of each epoch that is known so far
        # Only the newest epoch is kept, because rectangles are asked for in order.
        self._made: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    @property
    def pieces(self) -> int:
        """Rows that all documents give, each counted once."""
        return len(self._tokens)

    def __getitem__(self, rectangle: int) -> list[Piece]:
        """Returns the rows of a rectangle, the longest first."""
        epoch, rows = self._find(rectangle)
        pieces = []
        for index in rows[rectangle - self._starts[epoch]]:
            source = int(self._source[index])
            start = int(self._start[index])
            pieces.append(Piece(source, start, int(self._tokens[index])))
        return pieces

    def tokens(self, rectangle: int) -> int:
        """Returns the real tokens of a rectangle."""
        return sum(piece.tokens for piece in self[rectangle])

    def slots(self, rectangle: int) -> int:
        """Returns the tokens of a rectangle, padding included."""
        rows = self[rectangle]
        return len(rows) * self.mix.width(rows[0].tokens)

    def epoch_of(self, rectangle: int) -> float:
        """Returns how many times the data were learned before this rectangle."""
        epoch, rows = self._find(rectangle)
        return epoch + (rectangle - self._starts[epoch]) / len(rows)

    def rectangles(self, epochs: int = 1) -> int:
        """Returns the rectangles of the first epochs."""
        while len(self._starts) <= epochs:
            self._epoch(len(self._starts) - 1)
        return self._starts[epochs]

    def shares(self) -> list[dict[str, float]]:
        """Returns for each source its share of all tokens drawn, and that of long documents in it.

        The latter as they are drawn, and as they are in the source.
        """
        drawn = self._copies * self._tokens
        found = []
        for source in range(int(self._source.max()) + 1):
            own = self._source == source
            long = own & self._long
            shares = {
                "share": _share(drawn[own], drawn),
                "long_share": _share(drawn[long], drawn[own]),
                "long_share_before": _share(self._tokens[long], self._tokens[own]),
            }
            found.append(shares)
        return found

    def _find(self, rectangle: int) -> tuple[int, list[NDArray[np.int64]]]:
        while rectangle >= self._starts[-1]:
            self._epoch(len(self._starts) - 1)
        epoch = int(np.searchsorted(self._starts, rectangle, side="right")) - 1
        return epoch, self._epoch(epoch)

    def _epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        if self._made[0] != epoch:
            self._made = epoch, list(self._draw(epoch))
        if len(self._starts) == epoch + 1:
            self._starts.append(self._starts[epoch] + len(self._made[1]))
        return self._made[1]

    def _draw(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """Which pieces an epoch has, and how they lie in rectangles."""
        # A piece with 0.3 copies comes in every third epoch or so, one with 2.3 twice or three
        # times: over the epochs each comes as often as it should, to less than one, which
        # independent draws would not give.
        before, after = (np.floor(self._copies * n + self._offset) for n in (epoch, epoch + 1))
        random = np.random.default_rng([self.mix.seed, 1, epoch])
        drawn = random.permutation(
            np.repeat(np.arange(len(self._tokens)), (after - before).astype(np.int64))
        )
        window = np.cumsum(self._tokens[drawn]) // (_WINDOW_RECTANGLES * self.mix.capacity)
        found: list[NDArray[np.int64]] = []
        for rows in np.split(drawn, np.flatnonzero(np.diff(window)) + 1):
            found += self._rectangles(rows[np.argsort(-self._tokens[rows], kind="stable")])
        for index in random.permutation(len(found)):
            yield found[index]

    def _rectangles(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Cuts rows, the longest first, into rectangles."""
        start = 0
        while start < len(rows):
            # The first row is the longest, and all rows are padded to its width.
            most = self.mix.capacity // self.mix.width(int(self._tokens[rows[start]]))
            yield rows[start : start + most]
            start += most


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> float:
    """Returns the share of a sum; 0 of nothing."""
    total = whole.sum()
    return float(part.sum() / total) if total else 0.0


def _cut(
    source: int, lengths: NDArray[np.int64], mix: Mix, held_out: Sequence[tuple[int, int]]
) -> list[NDArray[np.int64]]:
    """Returns the pieces of a source as columns.

    These are source, start, tokens, whether of a long document, and copies an epoch.
    """
    counts = -(-lengths // mix.length)
    for held_source, number in held_out:
        if held_source == source:
            # It gives no piece, and the places of the documents behind it stay right.
            counts[number] = 0
    document = np.repeat(np.arange(len(lengths)), counts)
    nth = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    tokens = np.minimum(lengths[document] - nth * mix.length, mix.length)
    start = (np.cumsum(lengths) - lengths)[document] + nth * mix.length
    long = lengths[document] >= mix.long_tokens
    kept = tokens >= 2  # one token alone predicts nothing
    start = start[kept]
    tokens = tokens[kept]
    long = long[kept]
    weight = np.where(long, mix.long_weight, 1.0)
    # Copies scaled so that an epoch has as many tokens of this source as the source itself.
    copies = weight * tokens.sum() / max(1.0, float((weight * tokens).sum()))
    return [np.full(len(tokens), source), start, tokens, long, copies]
