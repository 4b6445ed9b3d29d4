"""The durable store: documents as passages and vectors, in a folder that survives kill -9, a full disk and bit rot.

    <store>/<corpus>/corpus.json   what all its vectors have in common (schema.Settings)
                     db/           two LanceDB tables: `passages`, immutable and named by content; `documents`, small
                     files.jsonl   size and hash of every file (integrity.FileLog)
                     adapter/      the PEFT adapter trained for it, if any

A document exists when its row in `documents` does. Replacing one appends the passages of the new revision first, then
commits that row; the old passages stay, for `rollback`, until `compact`. Writers hold one lock, readers none.
"""

import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import torch

from longreach.corpus.documents import Document
from longreach.corpus.ingest import Ingest, vanished
from longreach.corpus.integrity import LOG, FileLog, locked, require, storage_faults
from longreach.corpus.schema import (
    DOCUMENTS,
    FORMAT,
    PASSAGES,
    SETTINGS,
    AddReport,
    DocumentInfo,
    PassageInfo,
    Settings,
    Version,
    to_tensor,
    valid_name,
)
from longreach.corpus.tables import check_document, connect, document_rows, passage_rows
from longreach.corpus.verify import VerifyReport, verify
from longreach.errors import (
    CorpusDamaged,
    CorpusExists,
    CorpusNotFound,
    FingerprintMismatch,
    UsageError,
)

if TYPE_CHECKING:
    from longreach.compressors.base import Compressor

LOCK_SECONDS = 60.0
_T = TypeVar("_T")


class Corpus:
    """Documents that share a compressor and an adapter. Make one with `create` or `open`.

    Reading needs no lock, always sees the newest committed state, and may be done from several threads. Every method
    may raise CorpusNotFound (the folder is gone), CorpusDamaged (stored bytes are not those that were written) and
    StorageError (the disk refused); those that write may raise CorpusBusy (another process writes and did not end
    within `lock_seconds`).
    """

    def __init__(
        self, path: Path, settings: Settings, compressor: "Compressor | None", *, lock_seconds: float = LOCK_SECONDS
    ) -> None:
        self.path = path
        self.settings = settings
        self.compressor = compressor
        self.lock_seconds = lock_seconds

    def __repr__(self) -> str:
        return f"Corpus({str(self.path)!r})"

    @property
    def name(self) -> str:
        """What the corpus is called: the name of its folder."""
        return self.path.name

    @property
    def adapter_path(self) -> Path | None:
        """The folder of the PEFT adapter trained for this corpus, None while there is none."""
        folder = self.path / "adapter"
        return folder if folder.is_dir() else None

    @classmethod
    def names(cls, path: str | Path) -> list[str]:
        """The corpora of the store at `path`, sorted."""
        with storage_faults(Path(path)):
            found = sorted(Path(path).glob(f"*/{SETTINGS}"))
        return [file.parent.name for file in found if not file.parent.name.startswith(".")]

    @classmethod
    def create(
        cls,
        path: str | Path,
        name: str,
        compressor: "Compressor",
        *,
        model_ref: str = "",
        compressor_ref: str = "",
        lock_seconds: float = LOCK_SECONDS,
    ) -> "Corpus":
        """Makes an empty corpus, whole or not at all.

        Args:
            path: the store, a folder; made if it is not there.
            name: 1 to 100 printable characters without path separators.
            compressor: makes the vectors of this corpus, now and later.
            model_ref: how a later process can load the compressor's model, such as "smollm2" or a path.
            compressor_ref: the folder of a trained compressor, for the same purpose.
            lock_seconds: how long a write waits for another writer.

        Raises:
            CorpusExists: there is a corpus, or another file, of that name.
            UsageError: no corpus can have that name.
        """
        target = Path(path).absolute() / valid_name(name)
        exists = CorpusExists(f"{target} exists already: open that corpus, delete it, or choose another name.")
        if os.path.lexists(target):
            raise exists
        settings = Settings(
            format=FORMAT,
            name=name,
            compressor=compressor.describe(),
            fingerprint=compressor.fingerprint,
            model_fingerprint=compressor.model_fingerprint,
            model_ref=model_ref,
            compressor_ref=compressor_ref,
            dim=compressor.dim,
            dtype=str(compressor.dtype).removeprefix("torch."),
            segment_tokens=compressor.segment_tokens,
            created=datetime.now(UTC).isoformat(),
        )
        draft = target.parent / f".new-{uuid.uuid4().hex}"
        with storage_faults(target.parent):
            try:
                draft.mkdir(parents=True)
                (draft / LOG).touch()
                with FileLog(draft).change("create"):
                    settings.save(draft)
                    database = connect(draft)
                    database.create_table("passages", schema=PASSAGES)
                    database.create_table("documents", schema=DOCUMENTS)
                try:
                    draft.rename(target)
                except OSError as error:
                    raise (exists if os.path.lexists(target) else error) from error
            finally:
                shutil.rmtree(draft, ignore_errors=True)
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
            CorpusNotFound: there is none of that name.
            FingerprintMismatch: the corpus was made by another compressor or model.
            UsageError: no corpus can have that name.
        """
        folder = Path(path).absolute() / valid_name(name)
        with storage_faults(folder):
            if not (folder / SETTINGS).is_file():
                there = ", ".join(cls.names(path)) or "none yet"
                raise CorpusNotFound(f"There is no corpus {name!r} in {path}: choose one that is there ({there}).")
            settings = Settings.load(folder)
        if compressor is not None and compressor.fingerprint != settings.fingerprint:
            other = "another model" if compressor.model_fingerprint != settings.model_fingerprint else "other settings"
            raise FingerprintMismatch(
                f"Corpus {name!r} was made with {other} (model {settings.model_ref or settings.model_fingerprint}, "
                f"compressor {settings.compressor}): use those, or ingest into a new corpus."
            )
        return cls(folder, settings, compressor, lock_seconds=lock_seconds)

    # Reading

    def state(self) -> str:
        """A string that changes whenever the documents do."""
        return f"{self.settings.created}:{self._read(lambda db: db.open_table('documents').version)}"

    def documents(self) -> list[DocumentInfo]:
        """The documents, sorted by name."""
        return [_info(DocumentInfo, row) for row in self._read(document_rows)]

    def passages(self, name: str | None = None) -> list[PassageInfo]:
        """The passages of one document in order, or of all, without vectors; texts are checked against their checksums.

        Raises:
            UsageError: there is no document of that name.
        """

        def read(database: Any) -> list[PassageInfo]:
            documents = document_rows(database)
            if name is not None:
                documents = [row for row in documents if row["document"] == name]
            if name is not None and not documents:
                raise self._unknown([name])
            only = documents[0]["revision"] if name is not None else None
            rows = passage_rows(database, only, vectors=False, check=False)
            found = []
            for document in documents:
                mine = rows[document["revision"]]
                check_document(document, mine)
                found += [_info(PassageInfo, row, document=document["document"]) for row in mine]
            return found

        return self._read(read)

    def document_text(self, name: str) -> str:
        """The text of a document, exactly as it was read.

        Raises:
            UsageError: there is no document of that name.
        """
        return "".join(passage.text for passage in self.passages(name))

    def vectors(self, revision: str, indices: Sequence[int] | None = None) -> list[torch.Tensor]:
        """The vectors [n, d] of passages of a revision, on the CPU, in the order of `indices`; None means all.

        Raises:
            CorpusDamaged: a passage is not there, or not what was written.
        """

        def read(database: Any) -> list[torch.Tensor]:
            rows = {row["index"]: row for row in passage_rows(database, revision, indices, vectors=True)[revision]}
            wanted = range(max(rows, default=0) + 1) if indices is None else indices
            for index in wanted:
                if index not in rows or not rows[index]["intact"]:
                    raise CorpusDamaged(
                        f"Passage {index} of revision {revision} of corpus {self.name!r} is not there or not what was "
                        "written: `longreach corpus verify` says more."
                    )
            return [to_tensor(rows[index]) for index in wanted]

        return self._read(read)

    def search(self, query: str, k: int = 5, retriever: str = "bm25") -> list[Any]:
        """The `k` passages nearest to `query`, best first."""
        from longreach.corpus.retrieval import search

        return search(self, query, k, retriever)

    def versions(self) -> list[Version]:
        """The states that `rollback` can return to, oldest first; the last one is the present."""
        listed = self._read(lambda db: db.open_table("documents").list_versions())
        return [
            Version(entry["version"], entry["timestamp"].astimezone(UTC), int(entry["metadata"]["total_rows"]))
            for entry in listed
        ]

    # Writing

    def add(
        self,
        sources: "str | Path | Document | Sequence[str | Path | Document]",
        *,
        prune: bool = False,
        progress: bool = False,
        batch_size: int | None = None,
    ) -> AddReport:
        """Adds documents, and replaces those whose content has changed. Run again after a failure, it goes on.

        A file that cannot be read is skipped, and its earlier state stays.

        Args:
            sources: files, folders, texts or documents; one alone need not be in a list.
            prune: remove documents whose files lay under `sources` and no longer exist.
            progress: show a bar in tokens per second on stderr.
            batch_size: segments in one forward pass; None chooses by device.

        Raises:
            UsageError: the corpus was opened without its compressor, or the compressor's tokenizer is not a fast one.
        """
        if self.compressor is None:
            raise UsageError(f"Corpus {self.name!r} was opened to read: open it with its compressor to add documents.")
        sources = [sources] if isinstance(sources, (str, Path, Document)) else list(sources)
        with self._writing() as log:
            with storage_faults(self.path):
                ingest = Ingest(self._database, log, self.settings, self.compressor)
            report = ingest.run(sources, progress=progress, batch_size=batch_size)
            if prune:
                gone = [document.document for document in self.documents() if vanished(document.document, sources)]
                with storage_faults(self.path):
                    self._drop(log, gone)
                report.removed.extend(gone)
        return report

    def remove(self, names: str | Sequence[str]) -> None:
        """Takes documents out of the corpus; their passages stay for `rollback` until `compact`.

        Raises:
            UsageError: there is no document of one of these names; then none is removed.
        """
        names = [names] if isinstance(names, str) else list(names)
        with self._writing() as log, storage_faults(self.path):
            there = {row["document"] for row in document_rows(self._database)}
            if not there.issuperset(names):
                raise self._unknown([name for name in names if name not in there])
            self._drop(log, names)

    def rollback(self, version: int) -> None:
        """Makes the documents what they were in `version`, as a new version.

        Raises:
            UsageError: there is no such version.
        """
        with self._writing() as log, storage_faults(self.path):
            known = [entry.version for entry in self.versions()]
            if version not in known:
                listed = ", ".join(map(str, known))
                raise UsageError(f"Corpus {self.name!r} has no version {version}: choose one of {listed}.")
            with log.change("rollback"):
                self._database.open_table("documents").restore(version)

    def compact(self) -> None:
        """Drops passages no document refers to, and all earlier versions, and merges small files.

        A process that reads at that moment may have to read again, which `Corpus` does by itself.
        """
        with self._writing() as log, storage_faults(self.path):
            used = {row["revision"] for row in document_rows(self._database)}
            passages = self._database.open_table("passages")
            stored = set(passages.search().select(["revision"]).to_arrow()["revision"].to_pylist())
            unused = sorted(stored - used)
            with log.change("compact"):
                for at in range(0, len(unused), 500):
                    listed = ", ".join(f"'{revision}'" for revision in unused[at : at + 500])
                    passages.delete(f"revision IN ({listed})")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # that readers may fail: `_read` reads again
                    for table in (passages, self._database.open_table("documents")):
                        table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)

    def delete(self) -> None:
        """Deletes the corpus with everything in it."""
        with locked(self.path, self.lock_seconds), storage_faults(self.path):
            doomed = self.path.with_name(f".deleted-{uuid.uuid4().hex}")
            self.path.rename(doomed)  # gone at once for everybody, then byte by byte
            shutil.rmtree(doomed)

    @contextmanager
    def changing(self, what: str) -> Iterator[Path]:
        """Lets other work change files of the corpus folder outside the database, such as `adapter/`, under the lock.

        Yields the folder; what is there at the end is recorded, so that `verify` answers for it.
        """
        with self._writing() as log, storage_faults(self.path), log.change(what):
            yield self.path

    def verify(self, *, lock_seconds: float = 5.0) -> VerifyReport:
        """Reads every byte of the corpus and says what is not as it was written.

        Raises:
            CorpusBusy: a writer did not end within `lock_seconds`; what it writes cannot be judged meanwhile.
        """
        with locked(self.path, lock_seconds, reading=True):
            return verify(self.path)

    # Machinery

    @cached_property
    def _database(self) -> Any:
        return connect(self.path)

    def _read(self, read: Callable[[Any], _T]) -> _T:
        for attempt in range(3):
            try:
                with storage_faults(self.path):
                    return read(self._database)
            except CorpusDamaged:
                require(self.path)
                if attempt == 2:
                    raise
            time.sleep(0.1)  # another process may have compacted the files away under this read
        raise AssertionError

    @contextmanager
    def _writing(self) -> Iterator[FileLog]:
        with locked(self.path, self.lock_seconds):
            with storage_faults(self.path):
                log = FileLog(self.path)
                log.recover()
            yield log

    def _drop(self, log: FileLog, names: Sequence[str]) -> None:
        if not names:
            return
        table = self._database.open_table("documents")
        kept = [row for row in table.to_arrow().to_pylist() if row["document"] not in set(names)]
        with log.change("documents"):  # written anew: names hold any character, so no filter has to quote them
            table.add(pa.Table.from_pylist(kept, schema=DOCUMENTS), mode="overwrite")

    def _unknown(self, names: Sequence[str]) -> UsageError:
        return UsageError(
            f"Corpus {self.name!r} has no document {', '.join(map(repr, names))}: `longreach corpus show` lists them."
        )


def _info(kind: type[_T], row: dict[str, Any], **more: Any) -> _T:
    """The fields of a row that `kind`, a dataclass, has."""
    row = row | more
    return kind(**{field.name: row[field.name] for field in fields(kind)})  # type: ignore[arg-type]
