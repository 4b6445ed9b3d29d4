"""The data of a run: token files in the order of `order.py`, as a data set that Trainer shares out.

The n-th sample is the n-th rectangle of the run, whatever the number of processes: with W ranks and
A batches accumulated, step s learns the samples from s * W * A on. A run is therefore resumed at
the exact sample: the number of samples consumed is its whole state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longreach.datasets.held_out import check_held_out, count_held_out
from longreach.datasets.sources import find
from longreach.datasets.tokens import Tokens, tokenize
from longreach.errors import UsageError
from longreach.models.loading.places import cache_folder
from longreach.models.loss import IGNORED
from longreach.training.extend.order import Mix, Order
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class HeldOut(NamedTuple):
    """A document that is kept for testing: its source, and its number there."""

    source: int
    number: int


@dataclass(frozen=True)
class Data:
    """What a run learns from and what it is tested on.

    Attributes:
        sources: Token files, one a source.
        order: Rectangles of rows out of `sources`.
        held_out: Beginnings of documents that are never learned, each at most the target length.
        tests: Token files out of which `held_out` are, where these are others than `sources`.
        kept: Documents of `sources` that are never learned, by their numbers.
    """

    sources: list[Tokens]
    order: Order
    held_out: list[NDArray[np.int64]]
    tests: list[Tokens]
    kept: tuple[HeldOut, ...] = ()

    @classmethod
    def make(
        cls,
        given: Sequence[str | Path],
        tokenizer: PreTrainedTokenizerBase,
        mix: Mix,
        *,
        held_out: float = 8,
        evaluation: Sequence[str | Path] = (),
        cache: Path | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> Data:
        """Returns the data of sources, which are read now or were read before.

        Args:
            given: Paths and Hub data sets, each of them a source.
            tokenizer: Of the model that is trained.
            mix: How rows are made and drawn.
            held_out: How many documents are kept for testing where there is no `evaluation`, or
                which share of them below 1: drawn by the seed among those that fill the target
                length, else the longest; never more than a quarter of all, but one where there are
                two at least.
            evaluation: Sources that are for testing only; of these, `held_out` documents as well.
            cache: Where token files are kept; None for `cache_folder()`.
            note: Is told what is going on.

        Raises:
            DocumentError: Something cannot be read, or there is nothing to train on.
            UsageError: No source is given.
        """
        if not given:
            raise UsageError("There are no data: give at least one file, folder or data set.")
        check_held_out(held_out, least=0)
        # All runs share it, because token files depend on texts and vocabulary alone.
        cache = cache or cache_folder() / "tokens"
        sources = [tokenize(find(name), tokenizer, cache, note) for name in given]
        lengths = [source.lengths for source in sources]
        tests = [tokenize(find(name), tokenizer, cache, note) for name in evaluation]
        if tests:
            # Other sources serve the test, so that everything in these is learned.
            kept = _longest(tests, mix, count_held_out(held_out, _count_documents(tests)))
            order = Order(lengths, mix)
        else:
            documents = _count_documents(sources)
            wanted = count_held_out(held_out, documents)
            kept = _longest(sources, mix, _most_held_out(wanted, documents))
            order = Order(lengths, mix, kept)
            if len(kept) < wanted:
                note(_explain_fewer(len(kept), wanted, documents))
        rows = []
        for document in kept:
            source = (tests or sources)[document.source]
            rows.append(source.document(document.number, mix.length))
        return cls(sources, order, rows, tests, () if tests else tuple(kept))

    @property
    def keys(self) -> dict[str, list[str]]:
        """Names of the contents, learned and for testing only, in order."""
        return {
            "data": [one.key for one in self.sources],
            "evaluation": [one.key for one in self.tests],
        }


def _count_documents(sources: Sequence[Tokens]) -> int:
    return sum(len(source.lengths) for source in sources)


def _most_held_out(wanted: int, documents: int) -> int:
    """Returns how many documents may be held out: a quarter of all, but one of two or three."""
    if documents < 2:
        return 0
    return min(wanted, max(1, documents // 4))


def _explain_fewer(kept: int, wanted: int, documents: int) -> str:
    """Returns why fewer documents are held out than was asked for."""
    found = f"{counted(documents, 'document')} in all"
    nothing = "No document is held out for testing"
    if documents < 2:
        return f"{nothing}: there is {found}; give others with --evaluation."
    if not kept:
        return f"{nothing}: none of {found} has two tokens; give others with --evaluation."
    return (
        f"{counted(kept, 'document')} held out for testing, not {wanted}: never more than a quarter"
        f" of {found}."
    )


def _longest(sources: Sequence[Tokens], mix: Mix, most: int) -> list[HeldOut]:
    """Returns `most` documents: any that fill a row, drawn by the seed, else the longest."""
    lengths = [source.lengths for source in sources]
    counts = [len(each) for each in lengths]
    # Documents of all sources in one row, because they are ranked by length together.
    source = np.repeat(np.arange(len(counts)), counts)
    number = np.concatenate([np.arange(count) for count in counts])
    tokens = np.minimum(np.concatenate(lengths), mix.length)
    drawn = np.random.default_rng([mix.seed, 2]).permutation(len(tokens))
    # The sort is stable and the order random: among equally long documents, chance decides.
    chosen = drawn[np.argsort(-tokens[drawn], kind="stable")][:most]
    kept = []
    for index in sorted(chosen):
        if tokens[index] >= 2:  # one token alone predicts nothing
            kept.append(HeldOut(int(source[index]), int(number[index])))
    return kept


class Samples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The first `count` rectangles of a run as tensors.

    A sample has input_ids and labels [R, L], padded on the right: labels -100 there and at each
    row's first token, which nothing predicts, so that counting labels counts predictions. No
    attention mask: under causal attention no real token sees padding behind it, and the fast
    kernels apply.

    Args:
        data: Of the run.
        count: Samples of the whole run.
        positions: Add position_ids [R, L], which sequence parallelism asks for.
    """

    def __init__(self, data: Data, count: int, *, positions: bool = False) -> None:
        self._data = data
        self._count = count
        self._positions = positions

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        batch = make_batch(self._data, self._data.order, index)
        return add_positions(batch) if self._positions else batch


def make_batch(data: Data, order: Order, index: int) -> dict[str, Tensor]:
    """Returns a rectangle of an order as input_ids and labels [R, L]."""
    pieces = order[index]
    width = order.mix.width(pieces[0].tokens)
    # Zero may be a real token; padding is told by its labels, which no loss counts.
    ids = torch.zeros(len(pieces), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for row, piece in enumerate(pieces):
        read = data.sources[piece.source].read(piece.start, piece.start + piece.tokens)
        ids[row, : piece.tokens] = torch.from_numpy(read)
        labels[row, 1 : piece.tokens] = ids[row, 1 : piece.tokens]
    return {"input_ids": ids, "labels": labels}


def add_positions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a batch with position_ids [R, L]."""
    ids = batch["input_ids"]
    return batch | {"position_ids": torch.arange(ids.shape[1]).expand(ids.shape)}


def only(samples: list[dict[str, object]]) -> dict[str, object]:
    """Returns the batch of one sample, which is a whole batch already."""
    (sample,) = samples
    return sample
