"""Adds documents to a corpus: read, cut, compress, append, commit.

Passages are appended while their document is still being compressed; the document itself appears
with one row at the end. So a reader sees whole documents only, and a writer that was killed resumes
after the last appended passage.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from tqdm import tqdm

from longreach.corpus.documents import Document, Found, Limits, Skipped, read_all
from longreach.corpus.documents.base import show_path
from longreach.corpus.faults import explain_storage_faults
from longreach.corpus.integrity import FileLog
from longreach.corpus.rows import BLOBS, NOTES, positions_of, rows_of
from longreach.corpus.schema import (
    AddReport,
    Settings,
    checksum,
    digest,
    revision_of,
    sha256,
)
from longreach.corpus.tables import passage_rows
from longreach.errors import DocumentError, UsageError
from longreach.jobs import Job
from longreach.models.sharing import encode

if TYPE_CHECKING:
    from longreach.compressors.base import Compressor
    from longreach.compressors.memory import Memory

FLUSH_PASSAGES = 256
FLUSH_SECONDS = 10.0


@dataclass
class _Piece:
    """A passage to be: the tokens and the characters of one segment."""

    tokens: range
    start: int
    end: int


@dataclass
class _Work:
    """A revision being compressed, and the documents that will have it."""

    revision: str
    text: str
    pieces: list[_Piece]
    documents: list[Document]
    checksums: list[str] = field(default_factory=list)
    positions: int = 0


class _Identity(NamedTuple):
    """What must be equal for a document to be unchanged."""

    revision: str
    notes: tuple[str, ...]


def _identity(row: dict[str, Any]) -> _Identity:
    return _Identity(row["revision"], tuple(row.get(NOTES) or ()))


def cut(text: str, compressor: "Compressor") -> tuple[list[int], list[_Piece]]:
    """Tokenizes a text and cuts it into passages whose character spans tile it.

    Raises:
        UsageError: the tokenizer cannot say which characters a token stands for.
    """
    tokenizer = compressor.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"{type(tokenizer).__name__} cannot say which characters a token stands for: load the"
            " model with its fast tokenizer (tokenizer.json)."
        )
    encoded = encode(
        tokenizer,
        text,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    ranges = compressor.segments(len(ids))
    starts = [0]
    # The tokens of one character share its offsets, and normalizers may step back.
    for tokens in ranges[1:]:
        starts.append(min(max(starts[-1], offsets[tokens.start][0]), len(text)))
    ends = [*starts[1:], len(text)]
    return ids, [_Piece(*piece) for piece in zip(ranges, starts, ends, strict=False)]


def uninterrupted(work: Callable[[], None]) -> None:
    """Runs `work` in a thread and waits for its end, so that Ctrl-C cannot let go of the lock amid
    a commit."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    try:
        thread.start()
        thread.join()
    finally:
        if thread.ident is not None:
            thread.join()
    if failures:
        raise failures[0]


class Ingest:
    """One run of `Corpus.add`, under the corpus's lock."""

    def __init__(
        self, database: Any, log: FileLog, settings: Settings, compressor: "Compressor"
    ) -> None:
        self.database = database
        self.log = log
        self.settings = settings
        self.format = rows_of(settings.format)
        self.compressor = compressor
        self.passages = database.open_table("passages")
        self.documents = database.open_table("documents")
        self.report = AddReport()
        self._old = {
            row["document"]: _identity(row) for row in self.documents.to_arrow().to_pylist()
        }
        self._stored = set(
            self.passages.search().select(["revision"]).to_arrow()["revision"].to_pylist()
        )
        self._work: dict[str, _Work] = {}
        self._finished: dict[str, dict[str, Any]] = {}
        self._rows: list[dict[str, Any]] = []
        self._ready: dict[str, dict[str, Any]] = {}
        self._flushed_at = time.monotonic()

    def run(
        self, found: Found, limits: Limits, *, progress: bool, batch_size: int | None
    ) -> AddReport:
        """Adds what was found, and says what was done."""
        began = time.monotonic()
        self.report.unread.update(found.unread)
        passages = tokens = 0
        hidden = None if progress else True  # None: shown on a terminal only
        with tqdm(
            unit="tok", unit_scale=True, disable=hidden, desc="compress", mininterval=0.5
        ) as bar:
            for key, segment, memory in self.compressor.stream(
                self._jobs(found, limits), batch_size=batch_size
            ):
                work = self._work[str(key)]
                count = self._take(work, segment, memory)
                passages, tokens = passages + 1, tokens + count
                bar.update(count)
                if (
                    len(self._rows) >= FLUSH_PASSAGES
                    or time.monotonic() - self._flushed_at >= FLUSH_SECONDS
                ):
                    self.flush()
        assert not self._work, f"the compressor omitted segments of {next(iter(self._work))}"
        self.flush()
        return replace(
            self.report, passages=passages, tokens=tokens, seconds=time.monotonic() - began
        )

    def _jobs(self, found: Found, limits: Limits) -> Iterator[Job]:
        for item in read_all(found, limits):
            if isinstance(item, Skipped):
                self.report.skipped.append(item)
                continue
            revision = revision_of(item.text, self.settings.fingerprint)
            if item.notes:
                self.report.notes[item.name] = item.notes
            if self._old.get(item.name) == _Identity(revision, item.notes):
                self.report.unchanged.append(item.name)
            elif revision in self._work:
                self._work[revision].documents.append(item)
            elif revision in self._finished:
                self._publish(item, self._finished[revision])
            else:
                try:
                    ids, pieces = cut(item.text, self.compressor)
                    if not ids:
                        raise DocumentError("It has no tokens in this model's vocabulary: omit it.")
                    self.compressor.check(len(ids))
                except (DocumentError, MemoryError) as error:
                    said = (
                        "Its tokens need more memory than there is: split it."
                        if not str(error)
                        else str(error)
                    )
                    self.report.skipped.append(
                        Skipped(item.name, f"{show_path(item.name)}: {said}")
                    )
                    self.report.notes.pop(item.name, None)
                    continue
                work = self._work[revision] = _Work(revision, item.text, pieces, [item])
                done = self._resume(work) if revision in self._stored else []
                if work.revision in self._work:
                    yield Job(revision, ids, done)

    def _resume(self, work: _Work) -> "list[Memory]":
        """Takes over the passages that an earlier run appended; returns their memories."""
        with explain_storage_faults(self.log.folder):
            rows = passage_rows(self.database, work.revision, memory=True)[work.revision]
            good = []
            for number, (piece, row) in enumerate(zip(work.pieces, rows, strict=False)):
                expected = (number, piece.start, piece.end, len(piece.tokens))
                if not row["intact"] or expected != (
                    row["index"],
                    row["start"],
                    row["end"],
                    row["tokens"],
                ):
                    break
                good.append(row)
            # A gap, a copy or a damaged row: keep what is good and make the rest again.
            if len(good) < len(rows):
                with self.log.change("repair"):
                    self.passages.delete(f"revision = '{work.revision}'")
                    if good:
                        self.passages.add(pa.Table.from_pylist(good, schema=self.format.passages))
        for row in good:
            self._note(work, row)
        return [self.format.memory(row, self.settings.compressor) for row in good]

    def _take(self, work: _Work, segment: int, memory: "Memory") -> int:
        assert segment == len(work.checksums), (
            f"segment {segment} of {work.revision} came out of order"
        )
        piece = work.pieces[segment]
        row: dict[str, Any] = {
            "revision": work.revision,
            "index": segment,
            "start": piece.start,
            "end": piece.end,
            "text": work.text[piece.start : piece.end],
            "tokens": len(piece.tokens),
            "fingerprint": self.settings.fingerprint,
            "model_fingerprint": self.settings.model_fingerprint,
        }
        row |= self.format.columns(memory)
        for name in BLOBS:
            if name in row:
                row[f"{name}_sha256"] = sha256(row[name])
        row["checksum"] = checksum(row)
        self._rows.append(row)
        self._note(work, row)
        return len(piece.tokens)

    def _note(self, work: _Work, row: dict[str, Any]) -> None:
        work.checksums.append(row["checksum"])
        work.positions += positions_of(row)
        if len(work.checksums) == len(work.pieces):
            self._finished[work.revision] = {
                "revision": work.revision,
                "characters": len(work.text),
                "tokens": work.pieces[-1].tokens.stop,
                "passages": len(work.pieces),
                self.format.total: work.positions,
                "digest": digest(work.checksums),
            }
            del self._work[work.revision]
            for document in work.documents:
                self._publish(document, self._finished[work.revision])

    def _publish(self, document: Document, finished: dict[str, Any]) -> None:
        row = {
            "document": document.name,
            "added": datetime.now(UTC).isoformat(timespec="seconds"),
        } | finished
        row[NOTES] = list(document.notes) or None
        self._ready[document.name] = row | {"checksum": checksum(row)}

    def flush(self) -> None:
        """Appends the passages that wait, then commits the documents that are complete."""
        with explain_storage_faults(self.log.folder):  # also where the system starts no thread
            uninterrupted(self._flush)

    def _flush(self) -> None:
        with explain_storage_faults(self.log.folder):
            if self._rows:
                with self.log.change("passages"):
                    self.passages.add(pa.Table.from_pylist(self._rows, schema=self.format.passages))
                self._rows = []
            if self._ready:
                with self.log.change("documents"):
                    rows = self._document_table(list(self._ready.values()))
                    merge = self.documents.merge_insert("document").when_matched_update_all()
                    merge.when_not_matched_insert_all().execute(rows)
                for name in self._ready:
                    (self.report.replaced if name in self._old else self.report.added).append(name)
                self._ready = {}
        self._flushed_at = time.monotonic()

    def _document_table(self, rows: list[dict[str, Any]]) -> pa.Table:
        """Rows of `documents` as its table takes them: a table from before notes gets that column
        when one is there."""
        table = pa.Table.from_pylist(rows, schema=self.format.documents)
        if NOTES in self.documents.schema.names:
            return table
        if table[NOTES].null_count == len(table):
            return table.drop_columns(NOTES)
        self.documents.add_columns(self.format.documents.field(NOTES))
        return table
