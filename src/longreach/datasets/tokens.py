"""Texts as token ids in memory-mapped files, made once for each content and tokenizer.

A folder of token files is written aside, in the order of the texts, and renamed when it is whole.
What is on the disk is noted every few million tokens, so that a run that was killed goes on from
there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from longreach.datasets.sources import Source
from longreach.errors import DocumentError
from longreach.jsontext import parse_object
from longreach.models.fingerprint import tokenizer_digest
from longreach.models.sharing import encode
from longreach.wording import counted

FORMAT = 1
NOTE_EVERY_TOKENS = 1 << 22
_BATCH_TEXTS, _BATCH_CHARACTERS = 256, 1 << 20
_IDS, _LENGTHS, _INDEX, _PROGRESS = "tokens.bin", "lengths.bin", "index.json", "progress.json"


@dataclass(frozen=True)
class Tokens:
    """The tokens of one source.

    Attributes:
        source: Its name.
        key: Names content and tokenizer: the same texts and vocabulary have the same key anywhere.
        ids: All token ids, document after document; read from the disk as they are looked at.
        offsets: Where each document begins in `ids`, and at the end where the last one ends.
    """

    source: str
    key: str
    ids: NDArray[Any]
    offsets: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""
        return np.diff(self.offsets)

    def document(self, number: int, most: int | None = None) -> NDArray[np.int64]:
        """The first `most` tokens of a document; all where None."""
        start, stop = self.offsets[number : number + 2]
        return self.read(int(start), int(stop if most is None else min(stop, start + most)))

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Token ids `start` to `stop` of the source."""
        return self.ids[start:stop].astype(np.int64)


@dataclass
class _Progress:
    """What is surely on the disk."""

    texts: int = 0
    documents: int = 0
    tokens: int = 0


def tokenise(source: Source, tokenizer: Any, cache: Path, note: Callable[[str], None]) -> Tokens:
    """The tokens of a source: out of `cache` where they are there, made and kept there otherwise.

    Every document begins with what the tokenizer puts before a text (a BOS token, or nothing) and
    ends with its EOS token. Documents without tokens are left out. Several processes may ask at the
    same time: one does the work.

    Args:
        source: What to read.
        tokenizer: Of the model that is trained.
        cache: A folder.
        note: Is told what is going on, a sentence at a time.

    Raises:
        DocumentError: Something cannot be read, or there is no text at all.
    """
    key = _key(source, tokenizer)
    folder, aside = cache / key, cache / f".{key}.partial"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{key}.lock"):
        if not _whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            note(f"Reading and tokenising {source.name}, once.")
            _write(source, tokenizer, aside, note)
            aside.rename(folder)
    index = parse_object((folder / _INDEX).read_bytes())
    lengths = np.fromfile(folder / _LENGTHS, dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Tokens(
        source.name, key, np.memmap(folder / _IDS, dtype=index["dtype"], mode="r"), offsets
    )


def _key(source: Source, tokenizer: Any) -> str:
    around = (encode(tokenizer, "a")["input_ids"], tokenizer.eos_token_id)
    parts = f"{FORMAT} {source.digest} {tokenizer_digest(tokenizer)} {around}"
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _whole(folder: Path) -> bool:
    try:
        index = parse_object((folder / _INDEX).read_bytes())
        sizes = [(folder / name).stat().st_size for name in (_IDS, _LENGTHS)]
        return sizes == [
            index["tokens"] * np.dtype(index["dtype"]).itemsize,
            index["documents"] * 8,
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(source: Source, tokenizer: Any, aside: Path, note: Callable[[str], None]) -> None:
    aside.mkdir(exist_ok=True)
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    done = _Progress()
    try:
        done = _Progress(**parse_object((aside / _PROGRESS).read_bytes()))
        note(f"Going on after {counted(done.tokens, 'token')}.")
    except (OSError, ValueError, TypeError):  # nothing was noted: from the beginning
        pass
    with (aside / _IDS).open("ab") as ids, (aside / _LENGTHS).open("ab") as lengths:
        # What was written after the last note is written again.
        ids.truncate(done.tokens * dtype.itemsize)
        lengths.truncate(done.documents * 8)
        noted = done.tokens
        for texts in _batches(source, done.texts, note):
            rows = encode(tokenizer, texts, return_attention_mask=False, verbose=False)["input_ids"]
            for text, row in zip(texts, rows, strict=True):
                done.texts += 1
                if (
                    text
                    and tokenizer.eos_token_id is not None
                    and row[-1:] != [tokenizer.eos_token_id]
                ):
                    row = [*row, tokenizer.eos_token_id]
                if text:
                    ids.write(np.asarray(row, dtype).tobytes())
                    lengths.write(np.int64(len(row)).tobytes())
                    done.documents, done.tokens = done.documents + 1, done.tokens + len(row)
            if done.tokens - noted >= NOTE_EVERY_TOKENS:
                _settle(aside / _PROGRESS, vars(done), ids, lengths)
                noted = done.tokens
                note(f"{counted(done.tokens, 'token')} of {source.name}.")
        if not done.tokens:
            raise DocumentError(f"{source.name} holds no text to train on: give other data.")
        index = {"format": FORMAT, "source": source.name, "dtype": dtype.name} | vars(done)
        _settle(aside / _INDEX, index, ids, lengths)
    (aside / _PROGRESS).unlink(missing_ok=True)


def _batches(source: Source, skip: int, note: Callable[[str], None]) -> Iterator[list[str]]:
    """Texts after the first `skip`, in lists that keep all cores of a tokenizer busy; without words
    they are empty."""
    batch: list[str] = []
    characters = 0
    for number, text in enumerate(source.texts(note)):
        if number < skip:
            continue
        batch.append(text if text.strip() else "")
        characters += len(text)
        if len(batch) == _BATCH_TEXTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _settle(path: Path, value: dict[str, Any], *files: BinaryIO) -> None:
    """Brings files to the disk, and then, at one stroke, says so in `path`."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(value))
    scratch.replace(path)
