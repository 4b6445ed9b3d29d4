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
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from tqdm import tqdm

from longreach.compressors.jobs import Job
from longreach.corpus.documents import Document, Found, Limits, Skipped, read_all
from longreach.corpus.documents.base import show_path
from longreach.corpus.faults import explain_storage_faults
from longreach.corpus.integrity import FileLog
from longreach.corpus.rows import BLOBS, NOTES, positions_of, rows_of
from longreach.corpus.schema import (
    AddReport,
    Settings,
    name_revision,
    sha256,
    sum_row,
    sum_rows,
)
from longreach.corpus.tables import Row, read_passages
from longreach.errors import DocumentError, UsageError
from longreach.models.sharing import encode

if TYPE_CHECKING:
    from lancedb.db import DBConnection

    from longreach.compressors.base import Compressor
    from longreach.compressors.memory import Memory

FLUSH_PASSAGES = 256
FLUSH_SECONDS = 10.0


@dataclass
class _Draft:
    """A passage to be: its tokens and characters, and the number of the segment it lies in."""

    tokens: range
    start: int
    end: int
    segment: int


@dataclass
class _Work:
    """A revision being compressed, and the documents that will have it."""

    revision: str
    text: str
    drafts: list[_Draft]
    documents: list[Document]
    checksums: list[str] = field(default_factory=list)
    positions: int = 0


class _Identity(NamedTuple):
    """What must be equal for a document to be unchanged."""

    revision: str
    notes: tuple[str, ...]


def _identify(row: Row) -> _Identity:
    return _Identity(row["revision"], tuple(row.get(NOTES) or ()))


def cut(text: str, compressor: "Compressor") -> tuple[list[int], list[_Draft]]:
    """Tokenizes a text and cuts it into passages whose character spans tile it.

    Raises:
        UsageError: The tokenizer cannot say which characters a token stands for.
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
    ids = encoded["input_ids"]
    offsets = encoded["offset_mapping"]
    drafts: list[_Draft] = []
    for number, segment in enumerate(compressor.segments(len(ids))):
        for tokens in compressor.passages(segment):
            start = 0
            if drafts:
                # The tokens of one character share its offsets, and normalizers may step back.
                start = min(max(drafts[-1].start, offsets[tokens.start][0]), len(text))
                drafts[-1].end = start
            drafts.append(_Draft(tokens, start, len(text), number))
    return ids, drafts


def run_uninterrupted(work: Callable[[], None]) -> None:
    """Runs `work` in a thread and waits for its end.

    So Ctrl-C cannot let go of the lock in the middle of a commit.
    """
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
        # Ctrl-C ends the first wait, and the work continues: it is waited for once more.
        if thread.ident is not None:
            thread.join()
    if failures:
        raise failures[0]


class Ingest:
    """One run of `Corpus.add`, under the corpus's lock."""

    def __init__(
        self, database: "DBConnection", log: FileLog, settings: Settings, compressor: "Compressor"
    ) -> None:
        self.database = database
        self.log = log
        self.settings = settings
        self.format = rows_of(settings.format)
        self.compressor = compressor
        self.passages = database.open_table("passages")
        self.documents = database.open_table("documents")
        self.report = AddReport()
        self._old: dict[str, _Identity] = {}
        for row in self.documents.to_arrow().to_pylist():
            self._old[row["document"]] = _identify(row)
        revisions = self.passages.search().select(["revision"]).to_arrow()["revision"]
        self._stored = set(revisions.to_pylist())
        self._work: dict[str, _Work] = {}
        self._finished: dict[str, Row] = {}
        self._rows: list[Row] = []
        self._ready: dict[str, Row] = {}
        self._flushed_at = time.monotonic()

    def run(
        self, found: Found, limits: Limits, *, progress: bool, batch_size: int | None
    ) -> AddReport:
        """Adds what was found, and says what was done."""
        began = time.monotonic()
        self.report.unread.update(found.unread)
        passages = 0
        tokens = 0
        # None shows the bar on a terminal only.
        hidden = None if progress else True
        bar = tqdm(unit="tok", unit_scale=True, disable=hidden, desc="compress", mininterval=0.5)
        with bar:
            stream = self.compressor.stream(self._make_jobs(found, limits), batch_size=batch_size)
            for key, segment, memory in stream:
                work = self._work[str(key)]
                before = len(work.checksums)
                count = self._take(work, segment, memory)
                passages += len(work.checksums) - before
                tokens += count
                bar.update(count)
                waited = time.monotonic() - self._flushed_at
                if len(self._rows) >= FLUSH_PASSAGES or waited >= FLUSH_SECONDS:
                    self.flush()
        assert not self._work, f"the compressor omitted segments of {next(iter(self._work))}"
        self.flush()
        seconds = time.monotonic() - began
        return replace(self.report, passages=passages, tokens=tokens, seconds=seconds)

    def _make_jobs(self, found: Found, limits: Limits) -> Iterator[Job]:
        for item in read_all(found, limits):
            if isinstance(item, Skipped):
                self.report.skipped.append(item)
                continue
            revision = name_revision(item.text, self.settings.fingerprint)
            if item.notes:
                self.report.notes[item.name] = item.notes
            if self._old.get(item.name) == _Identity(revision, item.notes):
                self.report.unchanged.append(item.name)
            # The same text under another name, in this very run.
            elif revision in self._work:
                self._work[revision].documents.append(item)
            elif revision in self._finished:
                self._publish(item, self._finished[revision])
            else:
                try:
                    ids, drafts = cut(item.text, self.compressor)
                    if not ids:
                        raise DocumentError("It has no tokens in this model's vocabulary: omit it.")
                    self.compressor.check(len(ids))
                except (DocumentError, MemoryError) as error:
                    # A MemoryError says nothing.
                    said = str(error) or "Its tokens need more memory than there is: split it."
                    self.report.skipped.append(
                        Skipped(item.name, f"{show_path(item.name)}: {said}")
                    )
                    self.report.notes.pop(item.name, None)
                    continue
                work = self._work[revision] = _Work(revision, item.text, drafts, [item])
                done = []
                if revision in self._stored:
                    done = self._resume(work)
                # It is no longer there if an earlier run had appended all of its passages.
                if work.revision in self._work:
                    yield Job(revision, ids, done)

    def _resume(self, work: _Work) -> "list[Memory]":
        """Takes over the passages that an earlier run appended; returns their memories."""
        with explain_storage_faults(self.log.folder):
            rows = read_passages(self.database, work.revision, memory=True)[work.revision]
            good = []
            for number, (draft, row) in enumerate(zip(work.drafts, rows, strict=False)):
                expected = (number, draft.start, draft.end, len(draft.tokens))
                stored = (row["index"], row["start"], row["end"], row["tokens"])
                if not row["intact"] or stored != expected:
                    break
                good.append(row)
            # A segment is made again whole: its memory lies with its first passage.
            while 0 < len(good) < len(work.drafts):
                if work.drafts[len(good)].segment != work.drafts[len(good) - 1].segment:
                    break
                good.pop()
            # A gap, a copy or a damaged row: keep what is good and make the rest again.
            if len(good) < len(rows):
                with self.log.change("repair"):
                    self.passages.delete(f"revision = '{work.revision}'")
                    if good:
                        self.passages.add(pa.Table.from_pylist(good, schema=self.format.passages))
        for row in good:
            self._note(work, row)
        done = []
        for at, row in enumerate(good):
            if at == 0 or work.drafts[at].segment != work.drafts[at - 1].segment:
                done.append(self.format.memory(row, self.settings.compressor))
        return done

    def _take(self, work: _Work, segment: int, memory: "Memory") -> int:
        """Appends the passages of a segment; returns its tokens."""
        from longreach.compressors.memory import Within

        first = len(work.checksums)
        assert work.drafts[first].segment == segment, (
            f"segment {segment} of {work.revision} came out of order"
        )
        tokens = 0
        for at in range(first, len(work.drafts)):
            if work.drafts[at].segment != segment:
                break
            tokens += self._append(work, at, memory if at == first else Within())
        return tokens

    def _append(self, work: _Work, index: int, memory: "Memory") -> int:
        draft = work.drafts[index]
        row: Row = {
            "revision": work.revision,
            "index": index,
            "start": draft.start,
            "end": draft.end,
            "text": work.text[draft.start : draft.end],
            "tokens": len(draft.tokens),
            "fingerprint": self.settings.fingerprint,
            "model_fingerprint": self.settings.model_fingerprint,
        }
        row |= self.format.columns(memory)
        for name in BLOBS:
            if name in row:
                row[f"{name}_sha256"] = sha256(row[name])
        row["checksum"] = sum_row(row)
        self._rows.append(row)
        self._note(work, row)
        return len(draft.tokens)

    def _note(self, work: _Work, row: Row) -> None:
        work.checksums.append(row["checksum"])
        work.positions += positions_of(row)
        if len(work.checksums) == len(work.drafts):
            self._finished[work.revision] = {
                "revision": work.revision,
                "characters": len(work.text),
                "tokens": work.drafts[-1].tokens.stop,
                "passages": len(work.drafts),
                self.format.total: work.positions,
                "digest": sum_rows(work.checksums),
            }
            del self._work[work.revision]
            for document in work.documents:
                self._publish(document, self._finished[work.revision])

    def _publish(self, document: Document, finished: Row) -> None:
        row: Row = {
            "document": document.name,
            "added": datetime.now(UTC).isoformat(timespec="seconds"),
        } | finished
        # Null, because a checksum treats it as absent.
        row[NOTES] = list(document.notes) or None
        self._ready[document.name] = row | {"checksum": sum_row(row)}

    def flush(self) -> None:
        """Appends the passages that wait, then commits the documents that are complete."""
        # Also where the system starts no thread.
        with explain_storage_faults(self.log.folder):
            run_uninterrupted(self._flush)

    def _flush(self) -> None:
        with explain_storage_faults(self.log.folder):
            if self._rows:
                with self.log.change("passages"):
                    self.passages.add(pa.Table.from_pylist(self._rows, schema=self.format.passages))
                self._rows = []
            if self._ready:
                with self.log.change("documents"):
                    rows = self._make_document_table(list(self._ready.values()))
                    merge = self.documents.merge_insert("document").when_matched_update_all()
                    merge.when_not_matched_insert_all().execute(rows)
                for name in self._ready:
                    if name in self._old:
                        self.report.replaced.append(name)
                    else:
                        self.report.added.append(name)
                self._ready = {}
        self._flushed_at = time.monotonic()

    def _make_document_table(self, rows: list[Row]) -> pa.Table:
        """Returns rows of `documents` as its table takes them.

        A table from before notes gets that column with the first document that has some.
        """
        table = pa.Table.from_pylist(rows, schema=self.format.documents)
        if NOTES in self.documents.schema.names:
            return table
        if table[NOTES].null_count == len(table):
            return table.drop_columns(NOTES)
        self.documents.add_columns(self.format.documents.field(NOTES))
        return table
