"""What a run learns, sample by sample: rectangles of documents, and rows that ask for far reading.

A sample is whatever its number says, so a run is resumed at the exact sample.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longreach.datasets.asks.rows import AskedRow, RowMaker
from longreach.models.hybrid.sparse import pattern_of
from longreach.models.loss import IGNORED
from longreach.training.extend.curriculum import Stage, Turn, plan_turns
from longreach.training.extend.data import Data, add_positions, make_batch
from longreach.training.extend.order import Order

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from longreach.training.extend.settings import ExtendSettings

_TEST_ROWS = 12


class TestRow(NamedTuple):
    """A row that is asked and never learned, and the window it is read with; 0 for the model's."""

    row: AskedRow
    window: int


class Reach(NamedTuple):
    """How far sparse layers see.

    Attributes:
        window: Tokens of the local window; 0 where all layers see everything.
        sink: First tokens that they always see.
    """

    window: int
    sink: int

    @classmethod
    def of(cls, config: Any) -> Reach:
        """Returns that of a model's config."""
        if not getattr(config, "sparse_attention", None):
            return cls(0, 0)
        pattern = pattern_of(config)
        return cls(pattern.window_tokens, pattern.sink_blocks * pattern.block_size)


class Schedule:
    """The samples of a run.

    Args:
        data: Of the run.
        settings: Of the run.
        tokenizer: Of the model.
        reach: Of the model's sparse layers.
        count: Samples of the whole run.
    """

    def __init__(
        self,
        data: Data,
        settings: ExtendSettings,
        tokenizer: PreTrainedTokenizerBase,
        reach: Reach,
        count: int,
    ) -> None:
        self.count = count
        self._data = data
        self._settings = settings
        self._reach = reach
        self._stages = settings.lengths or (Stage(settings.length, 1.0),)
        self._turns = plan_turns(self._stages, settings.asks, count)
        self._orders = dict[int, Order]()
        self._maker = RowMaker(tokenizer, self._fill, settings.seed)
        held_out = np.concatenate([*data.held_out, np.zeros(0, np.int64)])
        # What is tested stands in text that is not learned, where there is enough of it.
        test_fill = self._fill
        if len(held_out) > self._shortest:
            test_fill = _Stretches(held_out)
        self._test_maker = RowMaker(tokenizer, test_fill, settings.seed, validation=True)

    def batch(self, sample: int) -> dict[str, Tensor]:
        """Returns the ids and labels of a sample, [R, L]."""
        turn = self._turns[sample]
        if not turn.asked:
            return make_batch(self._data, self._order(turn.stage), turn.number)
        rows = self.asked_rows(sample)
        ids = [torch.from_numpy(row.ids) for row in rows]
        return {
            "input_ids": torch.stack(ids),
            "labels": torch.stack(list(map(label_replies, rows))),
        }

    def is_asked(self, sample: int) -> bool:
        """Returns whether the rows of a sample ask for far reading."""
        return self._turns[sample].asked

    def asked_rows(self, sample: int) -> list[AskedRow]:
        """Returns the rows of a sample that asks."""
        turn = self._turns[sample]
        length = self._stages[turn.stage].length
        rows = []
        for row in range(self._rows(turn)):
            number = sample * self._most_rows + row
            rows.append(self._make(self._maker, number, length, self.window(sample)))
        return rows

    def window(self, sample: int) -> int:
        """Returns the window that the rows of a sample are read with; 0 for the model's own."""
        windows = self._settings.windows
        if not windows:
            return 0
        drawn = np.random.default_rng([self._settings.seed, 3, sample])
        return int(windows[drawn.integers(len(windows))])

    def test_rows(self) -> list[TestRow]:
        """Returns rows for testing, with words that are never learned, over all windows."""
        if not self._settings.asks:
            return []
        found = []
        for number in range(_TEST_ROWS):
            windows = self._settings.windows or (0,)
            window = windows[number % len(windows)]
            row = self._make(self._test_maker, number, self._shortest, window)
            found.append(TestRow(row, window))
        return found

    def tokens(self, sample: int) -> int:
        """Returns the real tokens of a sample."""
        turn = self._turns[sample]
        if turn.asked:
            return self._rows(turn) * self._stages[turn.stage].length
        return self._order(turn.stage).tokens(turn.number)

    def slots(self, sample: int) -> int:
        """Returns the tokens of a sample, padding included."""
        turn = self._turns[sample]
        return self.tokens(sample) if turn.asked else self._order(turn.stage).slots(turn.number)

    def epochs(self) -> float:
        """Returns how many times the documents are learned in the run."""
        plain = [0] * len(self._stages)
        for turn in self._turns:
            plain[turn.stage] += not turn.asked
        return sum(self._order(stage).epoch_of(count) for stage, count in enumerate(plain))

    @cached_property
    def _shortest(self) -> int:
        return min(stage.length for stage in self._stages)

    @cached_property
    def _most_rows(self) -> int:
        return self._settings.capacity // self._shortest

    def _rows(self, turn: Turn) -> int:
        return self._settings.capacity // self._stages[turn.stage].length

    def _make(self, maker: RowMaker, number: int, length: int, window: int) -> AskedRow:
        window = window or self._reach.window or length // 4
        # A window that is wider than a row hides nothing of it; then half a row has to do.
        beyond = min(window, length // 2)
        return maker.make(number, length, beyond=beyond, after=self._reach.sink)

    def _order(self, stage: int) -> Order:
        if stage not in self._orders:
            length = self._stages[stage].length
            mix = self._data.order.mix
            order = self._data.order
            if length != mix.length:
                shorter = replace(mix, length=length, long_tokens=min(mix.long_tokens, length))
                lengths = [source.lengths for source in self._data.sources]
                order = Order(lengths, shorter, self._data.kept)
            self._orders[stage] = order
        return self._orders[stage]

    @cached_property
    def _fill(self) -> _Stretches:
        return _Stretches.of(self._data)


class ScheduledSamples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The samples of a schedule as tensors, as `data.Samples`, with what the Trainer has to know.

    Beside its ids and labels a sample has `window`, of the rows' sparse layers (0 for the model's
    own), and `asked`, whether its labels are replies.

    Args:
        schedule: Of the run.
        positions: As in `data.Samples`.
    """

    def __init__(self, schedule: Schedule, *, positions: bool = False) -> None:
        self._schedule = schedule
        self._positions = positions

    def __len__(self) -> int:
        return self._schedule.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        batch = self._schedule.batch(index)
        if self._positions:
            batch = add_positions(batch)
        batch["window"] = torch.tensor([self._schedule.window(index)])
        batch["asked"] = torch.tensor([int(self._schedule.is_asked(index))])
        return batch


class _Stretches:
    """Draws stretches of running text out of token ids, as often from each as it is long.

    Args:
        documents: Token ids of texts.
    """

    def __init__(self, *documents: NDArray[np.int64]) -> None:
        self._documents: Sequence[Any] = documents
        self._ends = np.cumsum([len(document) for document in documents])

    @classmethod
    def of(cls, data: Data) -> _Stretches:
        """Returns that of all documents that are learned."""
        found = []
        for number, source in enumerate(data.sources):
            kept = {one.number for one in data.kept if one.source == number}
            for document in range(len(source.lengths)):
                start, stop = source.offsets[document : document + 2]
                if document not in kept:
                    # Mapped from the disk; without the EOS token, which would end the row's text.
                    found.append(source.ids[start : max(start + 1, stop - 1)])
        return cls(*found)

    def __call__(self, chance: random.Random, tokens: int) -> NDArray[np.int64]:
        """Returns a number of tokens: of one document, or of several where that one is shorter."""
        pieces = list[NDArray[np.int64]]()
        while tokens > 0:
            drawn = chance.randrange(int(self._ends[-1]))
            document = self._documents[int(np.searchsorted(self._ends, drawn, side="right"))]
            start = chance.randrange(max(1, len(document) - tokens + 1))
            pieces.append(document[start : start + tokens].astype(np.int64))
            tokens -= len(pieces[-1])
        return np.concatenate([*pieces, np.zeros(0, np.int64)])


def label_replies(row: AskedRow) -> Tensor:
    """Returns the labels of a row, [T]: its ids where it replies, -100 elsewhere."""
    ids = torch.from_numpy(row.ids)
    labels = torch.full_like(ids, IGNORED)
    for reply in row.replies:
        start, stop = reply.tokens
        labels[start:stop] = ids[start:stop]
    return labels
