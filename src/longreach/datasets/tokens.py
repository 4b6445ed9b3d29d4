"""Texts as token ids in memory-mapped files, made once for each content and tokenizer.

A folder of token files is written aside, in the order of the texts, and renamed when it is whole.
What is on the disk is noted every few million tokens, so that a run that was killed resumes there.

<key>/tokens.bin    all token ids, 2 or 4 bytes each
      lengths.bin   tokens of each document, int64
      index.json    dtype, numbers of documents and tokens; written last
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from longreach.datasets.sources import Source
from longreach.errors import DocumentError
from longreach.jsontext import JsonObject, parse_object, read_field
from longreach.models.fingerprint import tokenizer_digest
from longreach.models.sharing import encode
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1
NOTE_EVERY_TOKENS = 1 << 22
# Lists of texts that keep all cores of a tokenizer busy.
_BATCH_TEXTS = 256
_BATCH_CHARACTERS = 1 << 20
_IDS = "tokens.bin"
_LENGTHS = "lengths.bin"
_INDEX = "index.json"
_PROGRESS = "progress.json"
_LENGTH_BYTES = 8


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
        """Returns the first `most` tokens of a document; all where None."""
        start, stop = self.offsets[number : number + 2]
        if most is not None:
            stop = min(stop, start + most)
        return self.read(int(start), int(stop))

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Returns the token ids `start` to `stop` of the source."""
        # A copy, because the file is mapped read-only and torch knows few unsigned integers.
        return self.ids[start:stop].astype(np.int64)


def tokenize(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    note: Callable[[str], None],
) -> Tokens:
    """Returns the tokens of a source: out of `cache`, or made now and kept there.

    Every document begins with what the tokenizer puts before a text (a BOS token, or nothing) and
    ends with its EOS token. Documents without words are omitted. Several processes may ask at the
    same time: one does the work.

    Args:
        source: What to read.
        tokenizer: Of the model that is trained.
        cache: A folder.
        note: Is told what is going on, a sentence at a time.

    Raises:
        DocumentError: Something cannot be read, or there is no text at all.
    """
    # The name is the content's: another tokenizer or text has other files.
    key = _key(source, tokenizer)
    folder = cache / key
    aside = cache / f".{key}.partial"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{key}.lock"):
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            note(f"Reading and tokenizing {source.name}, once.")
            _write(source, tokenizer, aside, note)
            aside.rename(folder)
    return _open(folder, source.name)


def _key(source: Source, tokenizer: PreTrainedTokenizerBase) -> str:
    # What a tokenizer puts around a text is a setting of its own, beside the vocabulary.
    around = (encode(tokenizer, "a")["input_ids"], tokenizer.eos_token_id)
    parts = f"{FORMAT} {source.digest} {tokenizer_digest(tokenizer)} {around}"
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _is_whole(folder: Path) -> bool:
    try:
        index = parse_object((folder / _INDEX).read_bytes())
        id_bytes = read_field(index, "tokens", int) * _read_dtype(index).itemsize
        length_bytes = read_field(index, "documents", int) * _LENGTH_BYTES
        # Sizes tell files that were cut short, without reading gigabytes.
        found = [(folder / name).stat().st_size for name in (_IDS, _LENGTHS)]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return found == [id_bytes, length_bytes]


def _open(folder: Path, name: str) -> Tokens:
    index = parse_object((folder / _INDEX).read_bytes())
    ids = np.memmap(folder / _IDS, dtype=_read_dtype(index), mode="r")
    lengths = np.fromfile(folder / _LENGTHS, dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Tokens(name, folder.name, ids, offsets)


def _read_dtype(index: JsonObject) -> np.dtype[np.generic]:
    return np.dtype(read_field(index, "dtype", str))


@dataclass
class _Progress:
    """What is surely on the disk."""

    texts: int = 0
    documents: int = 0
    tokens: int = 0


def _write(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    aside: Path,
    note: Callable[[str], None],
) -> None:
    """Writes token files into the folder `aside`, after those that an earlier process noted."""
    aside.mkdir(exist_ok=True)
    done = _read_progress(aside)
    if done.tokens:
        note(f"Resuming after {counted(done.tokens, 'token')}.")
    # Two bytes a token halve the files of most vocabularies.
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    with (aside / _IDS).open("ab") as ids, (aside / _LENGTHS).open("ab") as lengths:
        # What was written after the last note is written again.
        ids.truncate(done.tokens * dtype.itemsize)
        lengths.truncate(done.documents * _LENGTH_BYTES)
        noted = done.tokens
        for texts in _batches(source, done.texts, note):
            for row in _rows(texts, tokenizer):
                ids.write(np.asarray(row, dtype).tobytes())
                lengths.write(np.int64(len(row)).tobytes())
                done.documents += 1
                done.tokens += len(row)
            done.texts += len(texts)
            if done.tokens - noted >= NOTE_EVERY_TOKENS:
                _settle(aside / _PROGRESS, vars(done), ids, lengths)
                noted = done.tokens
                note(f"{counted(done.tokens, 'token')} of {source.name}.")
        if not done.tokens:
            raise DocumentError(f"{source.name} holds no text to train on: give other data.")
        index = {"format": FORMAT, "source": source.name, "dtype": dtype.name} | vars(done)
        _settle(aside / _INDEX, index, ids, lengths)
    (aside / _PROGRESS).unlink(missing_ok=True)


def _read_progress(aside: Path) -> _Progress:
    try:
        noted: dict[str, Any] = parse_object((aside / _PROGRESS).read_bytes())
        return _Progress(**noted)
    except (OSError, ValueError, TypeError):  # nothing was noted: from the beginning
        return _Progress()


def _rows(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Yields the token ids of each text that has words, with the EOS token behind them."""
    end = tokenizer.eos_token_id
    encoded = encode(tokenizer, list(texts), return_attention_mask=False, verbose=False)
    for text, row in zip(texts, encoded["input_ids"], strict=True):
        if not text:  # it had no words
            continue
        # Some tokenizers put the EOS token behind every text themselves.
        ends = end is None or row[-1:] == [end]
        yield row if ends else [*row, end]


def _batches(source: Source, skip: int, note: Callable[[str], None]) -> Iterator[list[str]]:
    """Yields lists of the texts after the first `skip`; a text without words is empty in them."""
    batch: list[str] = []
    characters = 0
    for number, text in enumerate(source.texts(note)):
        if number < skip:
            continue
        batch.append(text if text.strip() else "")
        characters += len(text)
        if len(batch) == _BATCH_TEXTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch = []
            characters = 0
    if batch:
        yield batch


def _settle(path: Path, value: JsonObject, *files: BinaryIO) -> None:
    """Brings files to the disk, and then, at one stroke, says so in `path`."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    # Not in place: half of it would be read as damaged.
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(value))
    scratch.replace(path)
