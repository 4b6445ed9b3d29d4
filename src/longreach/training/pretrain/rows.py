"""Rows of equally many tokens out of token files: what a compressor is pretrained on.

Shapes: T tokens of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longreach.corpus.documents import Document
from longreach.datasets.sources import find, make_source
from longreach.datasets.tokens import Tokens, tokenize
from longreach.errors import UsageError
from longreach.models.loading.places import cache_folder
from longreach.models.sharing import encode
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenRows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Rows of T tokens, read from the disk as they are looked at; a row is {"ids": [T]}.

    Each document is cut into whole rows, without what the tokenizer puts before a text:
    AutoCompressors see no BOS. What is left of all documents is joined, with EOS between, into
    further rows; its last tokens, which fill no row, are omitted.

    Args:
        sources: Token files.
        length: T.
        before: Tokens that the tokenizer puts before a text.

    Raises:
        UsageError: All of it together fills no row.
    """

    def __init__(self, sources: Sequence[Tokens], length: int, before: int = 0) -> None:
        self._sources = sources
        self._length = length
        whole: list[NDArray[np.int64]] = []
        left: list[NDArray[np.int64]] = []
        sizes: list[NDArray[np.int64]] = []
        tokens = 0
        for number, source in enumerate(sources):
            starts = source.offsets[:-1] + before
            texts = source.lengths - before - 1  # without EOS after it
            tokens += int(texts.sum())
            rows = texts // length
            of_document = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
            whole.append(_placed(number, np.repeat(starts, rows) + length * of_document))
            rest = texts % length
            left.append(_placed(number, (starts + length * rows)[rest > 0]))
            # The EOS token behind each piece is part of it.
            sizes.append(rest[rest > 0] + 1)
        # (source, start) of each.
        self._whole = np.concatenate(whole)
        self._left = np.concatenate(left)
        # Where each piece of what is left begins, were they joined.
        self._bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])
        if not len(self):
            raise UsageError(
                f"The data holds {counted(tokens, 'token')} and one sequence takes {length:,}: give"
                " more text, or lower --segment-tokens, --segments or --substeps."
            )

    @classmethod
    def make(
        cls,
        given: Sequence[str | Path | Document],
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        *,
        cache: Path | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> TokenRows:
        """Returns the rows of sources, which are tokenized now or were before.

        Args:
            given: Paths, Hub data sets and documents.
            tokenizer: Of the model that is trained; it has an EOS token.
            length: T.
            cache: Where token files are kept; None for `cache_folder()`.
            note: Is told what is done and what is omitted.

        Raises:
            DocumentError: Something cannot be read, or holds no text.
            UsageError: Nothing is given, or all of it together fills no row.
        """
        if not given:
            raise UsageError("There are no data: give at least one file, folder or data set.")
        found = [find(item) for item in given if not isinstance(item, Document)]
        documents = [item for item in given if isinstance(item, Document)]
        if documents:
            found.append(make_source(documents))
        cache = cache or cache_folder() / "tokens"
        # Where the first token of a plain text stands tells how many special ones come before it.
        plain = encode(tokenizer, "a", add_special_tokens=False)["input_ids"]
        before = encode(tokenizer, "a")["input_ids"].index(plain[0])
        return cls([tokenize(source, tokenizer, cache, note) for source in found], length, before)

    @property
    def digest(self) -> str:
        """A name of what is learned: the same texts, vocabulary and T have the same anywhere."""
        names = [source.key for source in self._sources]
        text = " ".join([*names, str(self._length)])
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._whole) + int(self._bounds[-1]) // self._length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            # Iteration over a data set without an iterator of its own ends by this error.
            raise IndexError(index)
        if index < len(self._whole):
            return {"ids": torch.from_numpy(self._read(self._whole[index], 0, self._length))}
        # Whole rows come first; further ones are cut out of what is left, as if it were joined.
        first = (index - len(self._whole)) * self._length
        last = first + self._length
        pieces = range(
            np.searchsorted(self._bounds, first, "right") - 1,
            np.searchsorted(self._bounds, last, "left"),
        )
        ids = []
        for piece in pieces:
            begin, end = self._bounds[piece : piece + 2].tolist()
            ids.append(self._read(self._left[piece], max(first - begin, 0), min(last, end) - begin))
        return {"ids": torch.from_numpy(np.concatenate(ids))}

    def _read(self, place: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
        """Returns the tokens `start` to `stop`, counted from a (source, start)."""
        source, first = place.tolist()
        return self._sources[source].read(first + start, first + stop)


def _placed(source: int, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns (source, start) of each, [n, 2]."""
    return np.stack([np.full_like(starts, source), starts], axis=1)
