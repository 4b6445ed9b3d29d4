"""The durable store: documents as passages and memory, safe from kill -9 and bit rot.

    <store>/<corpus>/corpus.json   what all its vectors have in common (schema.Settings)
                     db/           two LanceDB tables: `passages`, immutable and named by content;
                     `documents`, small files.jsonl   size and hash of every file
                     (integrity.FileLog) files.head    where that log ends, and the newest version
                     of each table (head) adapter/      the PEFT adapter trained for it, if any
                     reader/       the one that its compressor came with, if any
                     scorecard.json  how well each way of reading answers, if that was measured
                     study/        training under way: not answered for

A document exists when its row in `documents` does. Replacing one appends the passages of the new
revision first, then commits that row; the old passages stay, for `rollback`, until `compact`.
Writers hold one lock, readers none.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from longreach.corpus.artefacts import Artefacts, find_adapter, finish_swap
from longreach.corpus.compaction import drop_unused, keep_newest
from longreach.corpus.documents import Document, Limits, Selection, find
from longreach.corpus.documents.names import to_path
from longreach.corpus.faults import explain_storage_faults
from longreach.corpus.ingest import Ingest
from longreach.corpus.integrity import CHANGING, LOG, FileLog
from longreach.corpus.leftovers import discard, doom, make_draft, sweep
from longreach.corpus.lock import hold_lock
from longreach.corpus.naming import resolve
from longreach.corpus.pruning import find_vanished, is_gone
from longreach.corpus.reading import LOCK_SECONDS, CorpusReading
from longreach.corpus.repair import RepairReport, repair
from longreach.corpus.rows import NEWEST, rows_of
from longreach.corpus.schema import (
    READER,
    SETTINGS,
    AddReport,
    Settings,
    check_name,
    is_valid_name,
)
from longreach.corpus.tables import check_version, connect, read_documents
from longreach.errors import (
    CorpusDamaged,
    CorpusExists,
    CorpusNotFound,
    FingerprintMismatch,
    UsageError,
)

if TYPE_CHECKING:
    from longreach.compressors.base import Compressor


class Corpus(CorpusReading):
    """Documents that share a compressor and an adapter. Make one with `create` or `open`.

    Reading needs no lock, always sees the newest committed state, and may be done from several
    threads. Every method may raise CorpusNotFound (the folder is gone), CorpusDamaged (stored bytes
    are not those that were written) and StorageError (the disk refused); those that write may raise
    CorpusBusy (another process writes and did not end within `lock_seconds`).
    """

    @classmethod
    def names(cls, path: str | Path) -> list[str]:
        """Returns the corpora of the store at `path`, sorted."""
        with explain_storage_faults(Path(path)):
            found = sorted(Path(path).glob(f"*/{SETTINGS}"))
        return [file.parent.name for file in found if is_valid_name(file.parent.name)]

    @classmethod
    def create(
        cls,
        path: str | Path,
        name: str,
        compressor: "Compressor",
        *,
        model_ref: str | None = None,
        compressor_ref: str | None = None,
        exist_ok: bool = False,
        lock_seconds: float = LOCK_SECONDS,
    ) -> "Corpus":
        """Makes an empty corpus, whole or not at all.

        Args:
            path: The store, a folder; made if it is not there.
            name: 1 to 100 printable characters without path separators.
            compressor: Makes the vectors of this corpus, now and later.
            model_ref: How a later process can load the compressor's model, such as "smollm2" or a
                path; None: what the model was loaded from.
            compressor_ref: The name or folder of a trained compressor, for the same purpose; None:
                its own.
            exist_ok: Open the corpus where there is one of that name already, as `open` does.
            lock_seconds: How long a write waits for another writer.

        Raises:
            CorpusExists: There is a corpus, or another file, of that name.
            FingerprintMismatch: The corpus that is there was made by another compressor or model.
            UsageError: No corpus can have that name.
        """
        target = Path(path).absolute() / check_name(name)
        # Said before the folder is made, and when another process was faster.
        exists = CorpusExists(
            f"{target} exists already: open that corpus, delete it, or choose another name."
        )
        if exist_ok and (target / SETTINGS).is_file():
            return cls.open(path, name, compressor, lock_seconds=lock_seconds)
        if os.path.lexists(target):
            raise exists
        compressor.check_tokenizer()
        settings = Settings(
            format=NEWEST.number,
            name=name,
            compressor=compressor.describe(),
            fingerprint=compressor.fingerprint,
            model_fingerprint=compressor.model_fingerprint,
            model_ref=compressor.model_ref if model_ref is None else model_ref,
            compressor_ref=compressor.ref if compressor_ref is None else compressor_ref,
            dim=compressor.dim,
            dtype=str(compressor.dtype).removeprefix("torch."),
            segment_tokens=compressor.segment_tokens,
            created=datetime.now(UTC).isoformat(),
        )
        with explain_storage_faults(target.parent):
            # What killed processes left behind is looked for by whoever makes or deletes a corpus.
            sweep(target.parent)
            with make_draft(target.parent) as draft:
                (draft / LOG).touch()
                with FileLog(draft).change("create"):
                    settings.save(draft)
                    if compressor.reader:
                        with tempfile.TemporaryDirectory() as scratch:
                            made = Path(scratch) / READER
                            compressor.write_reader(made)
                            Artefacts(draft, writable=True).put(READER, made)
                    database = connect(draft)
                    database.create_table("passages", schema=NEWEST.passages)
                    database.create_table("documents", schema=NEWEST.documents)
                try:
                    draft.rename(target)
                except OSError as error:
                    if os.path.lexists(target):
                        raise exists from error
                    raise
        return cls(target, settings, compressor, lock_seconds=lock_seconds)

    @classmethod
    def open(
        cls,
        path: str | Path,
        name: str,
        compressor: "Compressor | None" = None,
        *,
        lock_seconds: float = LOCK_SECONDS,
    ) -> "Corpus":
        """Opens a corpus of the store at `path`; give the `compressor` to add documents to it.

        Raises:
            CorpusNotFound: There is none of that name.
            FingerprintMismatch: The corpus was made by another compressor or model.
            UsageError: No corpus can have that name.
        """
        folder = Path(path).absolute() / check_name(name)
        with explain_storage_faults(folder):
            if not (folder / SETTINGS).is_file():
                there = ", ".join(cls.names(path)) or "none yet"
                raise CorpusNotFound(
                    f"There is no corpus {name!r} in {path}: choose one that is there ({there})."
                )
            settings = Settings.load(folder)
        if compressor is not None and compressor.fingerprint != settings.fingerprint:
            other = "other settings"
            if compressor.model_fingerprint != settings.model_fingerprint:
                other = "another model"
            described = ", ".join(f"{key} {value}" for key, value in settings.compressor.items())
            raise FingerprintMismatch(
                f"Corpus {name!r} was made with {other} (model"
                f" {settings.model_ref or settings.model_fingerprint} in {settings.dtype},"
                f" {described}): use those, or ingest into a new corpus."
            )
        return cls(folder, settings, compressor, lock_seconds=lock_seconds)

    @classmethod
    def open_damaged(
        cls, path: str | Path, name: str, *, lock_seconds: float = LOCK_SECONDS
    ) -> "Corpus":
        """Opens a corpus whose settings may be lost, to be verified, repaired or deleted.

        Raises:
            CorpusNotFound: There is none of that name.
            UsageError: No corpus can have that name.
        """
        try:
            return cls.open(path, name, lock_seconds=lock_seconds)
        except (CorpusDamaged, CorpusNotFound):
            folder = Path(path).absolute() / name
            if not (folder / LOG).exists():
                raise
        return cls(folder, cast(Settings, None), None, lock_seconds=lock_seconds)

    def add(
        self,
        sources: "str | Path | Document | Sequence[str | Path | Document]",
        *,
        prune: bool = False,
        force: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        follow_links: bool = False,
        limits: Limits | None = None,
        progress: bool = False,
        batch_size: int | None = None,
    ) -> AddReport:
        """Adds documents, and replaces those whose content has changed; resumes after a failure.

        A file that cannot be read is skipped, and its earlier state stays.

        Args:
            sources: files, folders, texts or documents; one alone need not be in a list.
            prune: Remove documents whose files lay under `sources` and no longer exist. What is
                excluded stays.
            force: prune even where most documents of a folder would go, or all of one that is empty
                now.
            include: Of the files in folders, only those that match one of these patterns; see
                `Selection`.
            exclude: Of the files in folders, none that match one of these.
            follow_links: Follow links in folders to other folders and to files elsewhere.
            limits: What one file may cost; see `Limits`.
            progress: Show a bar in tokens per second on stderr.
            batch_size: Segments in one forward pass; None chooses by device.

        Raises:
            UsageError: The corpus was opened without its compressor, the compressor's tokenizer is
                not a fast one, a pattern matches nothing, or `prune` would remove too much.
        """
        if self.compressor is None:
            raise UsageError(
                f"Corpus {self.name!r} was opened to read: open it with its compressor to add"
                " documents."
            )
        sources = [sources] if isinstance(sources, (str, Path, Document)) else list(sources)
        selection = Selection.of(include, exclude, follow_links)
        with self._open_log() as log:
            with explain_storage_faults(self.path):
                sweep(self.path.parent)
                ingest = Ingest(self._database, log, self.settings, self.compressor)
            gone = list[str]()
            if prune:
                names = [document.document for document in self.documents()]
                # Before anything is changed: it may refuse.
                gone = find_vanished(names, sources, force=force)
            found = find(sources, selection)
            report = ingest.run(found, limits or Limits(), progress=progress, batch_size=batch_size)
            if prune:
                gone = [name for name in gone if is_gone(to_path(name))]
                with explain_storage_faults(self.path):
                    self._drop(log, gone)
                report.removed.extend(gone)
        return report

    def remove(self, names: str | Sequence[str]) -> list[str]:
        """Takes documents out of the corpus; their passages stay for `rollback` until `compact`.

        Args:
            names: Of documents, as `resolve` takes them.

        Returns:
            The names of those that were removed.

        Raises:
            UsageError: One of these names is of no document, or of more than one; then none is
                removed.
        """
        names = [names] if isinstance(names, str) else list(names)
        with self._open_log() as log, explain_storage_faults(self.path):
            there = [row["document"] for row in read_documents(self._database)]
            found = sorted({resolve(name, there, self.name) for name in names})
            self._drop(log, found)
        return found

    def rollback(self, version: int) -> None:
        """Makes the documents what they were in `version`, as a new version.

        Raises:
            UsageError: There is no such version.
        """
        with self._open_log() as log, explain_storage_faults(self.path):
            known = [entry.version for entry in self.versions()]
            if version not in known:
                listed = ", ".join(map(str, known))
                raise UsageError(
                    f"Corpus {self.name!r} has no version {version}: choose one of {listed}."
                )
            # Passages that it needs may be damaged: then nothing is changed.
            check_version(self._database, version)
            with log.change("rollback"):
                self._database.open_table("documents").restore(version)

    def compact(self) -> None:
        """Drops passages no document refers to, and all earlier versions, and merges small files.

        A process that reads at that moment may have to read again, which `Corpus` does by itself.
        """
        with self._open_log() as log, explain_storage_faults(self.path):
            used = {row["revision"] for row in read_documents(self._database)}
            with log.change("compact"):
                # Versions first: one that is still listed can then be rolled back to, wherever a
                # kill comes.
                keep_newest(self.path, self._database, "documents")
                drop_unused(self._database, used)
                keep_newest(self.path, self._database, "passages")
            log.rewrite()

    def repair(self) -> RepairReport:
        """Rebuilds the file log, and keeps what is proven to be as written.

        The proof is the old log, a row's checksum or a seal.

        Raises:
            CorpusDamaged: The settings or the tables cannot be read at all.
        """
        with hold_lock(self.path, self.lock_seconds), explain_storage_faults(self.path):
            finish_swap(self.path)
            return repair(self.path)

    def delete(self) -> None:
        """Deletes the corpus with everything in it."""
        with hold_lock(self.path, self.lock_seconds), explain_storage_faults(self.path):
            discard(doom(self.path))  # gone at once for everybody, then byte by byte
            sweep(self.path.parent)

    @contextmanager
    def changing(self, what: str) -> Iterator[Artefacts]:
        """Lets training change the artefacts, under the lock.

        What is there at the end is recorded, so that `verify` answers for it.
        """
        with (
            self._open_log() as log,
            explain_storage_faults(self.path),
            log.change(CHANGING + what),
        ):
            yield Artefacts(self.path, writable=True)

    @contextmanager
    def _open_log(self) -> Iterator[FileLog]:
        with hold_lock(self.path, self.lock_seconds):
            with explain_storage_faults(self.path):
                self._check_same()
                finish_swap(self.path)
                log = FileLog(self.path)
                if log.intent is not None and log.intent.startswith(CHANGING):
                    # A killed study leaves one that is whole, or it is damaged.
                    find_adapter(self.path)
                log.recover()
            yield log

    def _drop(self, log: FileLog, names: Sequence[str]) -> None:
        if not names:
            return
        table = self._database.open_table("documents")
        kept = [row for row in table.to_arrow().to_pylist() if row["document"] not in set(names)]
        # In the format of the corpus, which may be an earlier one.
        schema = rows_of(self.settings.format).documents
        # Written anew: names hold any character, so no filter has to quote them.
        with log.change("documents"):
            table.add(pa.Table.from_pylist(kept, schema=schema), mode="overwrite")
