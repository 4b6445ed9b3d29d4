"""What can be trained on: text files, JSON lines, Parquet, folders of these, Hub data sets.

A source gives texts, the same ones in the same order each time, and a digest of what decides them.
Which of them are learned, and as what, is the business of whoever asks.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from longreach.corpus.documents import Document, Selection, Skipped, apart
from longreach.corpus.documents import find as find_documents
from longreach.corpus.documents.base import show_path
from longreach.corpus.documents.convert import read
from longreach.corpus.documents.encodings.decode import is_encodable
from longreach.corpus.documents.folders import Listing, explain_link, list_files
from longreach.corpus.documents.formats import list_suffixes
from longreach.datasets.hub import load_hub_rows
from longreach.datasets.jsonlines import Record, read_records
from longreach.errors import DocumentError, reason_of

FIELD = "text"  # of JSON lines, Parquet files and data sets
_TABLES = frozenset({".jsonl", ".parquet"})


@dataclass(frozen=True)
class Source:
    """One of the things that a run is given to train on, a domain where data are mixed.

    Attributes:
        name: As it was given.
        digest: SHA-256 of everything that decides which texts come out; it does not depend on where
            files lie.
        texts: Makes an iterator over the texts, the same ones in the same order at every call. It
            raises DocumentError for what cannot be read, and tells the function it is given what it
            omits.
    """

    name: str
    digest: str
    texts: Callable[[Callable[[str], None]], Iterator[str]]


def find(given: str | Path) -> Source:
    """Returns what a path or the id of a Hub data set stands for.

    A folder stands for the files in it and below whose kind is known, sorted, without hidden ones
    and what programs leave behind; links in it are followed to files of the same folder only, as
    when documents are ingested. In a folder, files without text are omitted with a note; a file
    that was named itself is refused.

    Args:
        given: A path, or `owner/name`, `owner/name:config` or `owner/name:config@split` (split
            "train" unless told otherwise).

    Raises:
        DocumentError: There is nothing of that name, or nothing in it of a kind that can be read.
        MissingDependency: It can only be a Hub data set, and the library `datasets` is not
            installed.
    """
    path = Path(given)
    try:
        if path.is_dir():
            kinds = _TABLES.union(list_suffixes())
            listing = list_files(path, kinds, Selection())
            # The text of a file that another one links to would be learned twice.
            files = _without_twins(listing.files)
        elif path.exists():
            listing = Listing()
            files = [path]
        else:
            return find_hub(str(given))
        # Read now, not when texts are asked for: a run is refused before it begins.
        digests = [_digest_file(file) for file in files]
    except OSError as error:
        reason = error.strerror or error
        raise DocumentError(
            f"{show_path(path)} cannot be read ({reason}): check the path and its permissions."
        ) from error
    if not files:
        listed = ", ".join(sorted(kinds))
        raise DocumentError(
            f"{show_path(path)} holds no file to train on; the kinds that are read are {listed}."
        )

    def texts(note: Callable[[str], None]) -> Iterator[str]:
        _explain_omissions(listing, note)
        try:
            for file in files:
                yield from _texts(file, file == path, note)
        finally:
            apart.close()

    return Source(str(given), hashlib.sha256(b"".join(digests)).hexdigest(), texts)


def make_source(documents: Sequence[Document]) -> Source:
    """Returns a source of texts that are at hand already.

    Those without words, and names that come twice, are omitted with a note.
    """
    found = find_documents(documents)
    digests = []
    for item in found:
        if isinstance(item, Document):
            digests.append(hashlib.sha256(item.text.encode()).digest())

    def texts(note: Callable[[str], None]) -> Iterator[str]:
        for item in found:
            if isinstance(item, Document):
                yield item.text
            elif isinstance(item, Skipped):
                note(f"Omitted: {item.reason}")

    return Source("the documents given", hashlib.sha256(b"".join(digests)).hexdigest(), texts)


def find_hub(given: str, folder: Path | None = None) -> Source:
    """Returns a data set of the Hub, or of the local `folder`, as a source.

    Raises:
        DocumentError: There is no such data set, or it has no column of texts.
        MissingDependency: The library `datasets` is not installed.
    """
    data = load_hub_rows(given, folder)
    if FIELD not in data.column_names:
        raise DocumentError(
            f"The data set {given} has no column '{FIELD}', only {', '.join(data.column_names)}:"
            " rename one."
        )

    def texts(note: Callable[[str], None]) -> Iterator[str]:
        for batch in data.select_columns([FIELD]).iter(256):
            for text in batch[FIELD]:
                # A null is a row without a text, which is no fault of the data set.
                if text is not None:
                    yield _text_of(Record(f"A row of the data set {given}", {FIELD: text}))

    # The library has no public name for the contents of a data set.
    digest = hashlib.sha256(f"hub {given} {data._fingerprint}".encode()).hexdigest()
    return Source(given, digest, texts)


def _without_twins(files: list[Path]) -> list[Path]:
    """Returns files less the links to others of them."""
    found: dict[str, Path] = {}
    for file in files:
        found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def _digest_file(path: Path) -> bytes:
    """Returns a digest of a file's bytes and of its suffix, which says how they are read."""
    suffix = hashlib.sha256(path.suffix.lower().encode())
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest() + suffix.digest()


def _explain_omissions(listing: Listing, note: Callable[[str], None]) -> None:
    for skipped in listing.skipped:
        note(f"Omitted: {skipped.reason}")
    for link in listing.links:
        # Else all that is in it is read anyway.
        if os.path.realpath(link) not in listing.folders:
            note(f"Omitted: {explain_link(link).reason}")


def _texts(path: Path, named: bool, note: Callable[[str], None]) -> Iterator[str]:
    if path.suffix.lower() == ".jsonl":
        yield from _json_lines(path)
    elif path.suffix.lower() == ".parquet":
        yield from _parquet(path)
    else:
        try:
            text, notes = read(path)
        except DocumentError as error:
            if named:
                raise
            note(f"Omitted: {error}")
            return
        for sentence in notes:
            note(f"Incomplete: {show_path(path)}: {sentence}")
        yield text


def _json_lines(path: Path) -> Iterator[str]:
    for record in read_records(path):
        if FIELD not in record.values:
            raise record.error(f"has no field '{FIELD}': add it or remove the line")
        yield _text_of(record)


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    name = show_path(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if FIELD not in columns:
                raise DocumentError(
                    f"{name} has no column '{FIELD}', only {', '.join(columns)}: rename one."
                )
            row = 0
            # In batches, because a file may be larger than the memory.
            for batch in file.iter_batches(batch_size=256, columns=[FIELD]):
                for text in batch.column(0).to_pylist():
                    # Nulls count as well, so that a message names the row of the file.
                    row += 1
                    if text is not None:
                        yield _text_of(Record(f"Row {row} of '{name}'", {FIELD: text}))
    except pyarrow.ArrowException as error:
        reason = reason_of(error)
        raise DocumentError(
            f"{name} cannot be read as Parquet ({reason}): write it again."
        ) from error


def _text_of(record: Record) -> str:
    text = record.values[FIELD]
    if not isinstance(text, str):
        kind = type(text).__name__
        raise record.error(f"has a value of type {kind} as its '{FIELD}': give a string")
    if not is_encodable(text):
        raise record.error("holds half characters (lone surrogates): write it again as UTF-8")
    return text
