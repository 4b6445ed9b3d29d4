"""Reading a corpus: no lock, always the newest committed state, from several threads."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from datetime import UTC
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from longreach.corpus.artefacts import Artefacts, find_adapter
from longreach.corpus.faults import explain_storage_faults
from longreach.corpus.head import find_lost_versions, find_newest_manifests, read_head
from longreach.corpus.integrity import WORK
from longreach.corpus.listing import DocumentFiles
from longreach.corpus.lock import hold_lock, require
from longreach.corpus.naming import resolve
from longreach.corpus.rows import CACHED, NOTES, group_by_segment, positions_of, rows_of
from longreach.corpus.schema import DocumentInfo, PassageInfo, Settings, Version
from longreach.corpus.tables import Row, check_document, connect, read_documents, read_passages
from longreach.corpus.verify import VerifyReport, verify
from longreach.errors import CorpusDamaged, CorpusNotFound

if TYPE_CHECKING:
    import torch
    from lancedb.db import DBConnection

    from longreach.compressors.base import Compressor
    from longreach.compressors.memory import Memory
    from longreach.corpus.search.retrieval import Passage

LOCK_SECONDS = 60.0
_T = TypeVar("_T")


class CorpusReading:
    """The half of `Corpus` that changes nothing."""

    def __init__(
        self,
        path: Path,
        settings: Settings,
        compressor: "Compressor | None",
        *,
        lock_seconds: float = LOCK_SECONDS,
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
        """The folder of the PEFT adapter that the corpus is read with; None without any.

        It is the one trained for this corpus, else the one of its compressor.

        Raises:
            CorpusDamaged: Its files are not those that were stored.
        """
        return self._read(lambda _: find_adapter(self.path))

    @property
    def artefacts(self) -> Artefacts:
        """What training keeps with this corpus, to be read; `changing` lets it be changed."""
        return Artefacts(self.path)

    @property
    def work_path(self) -> Path:
        """The folder for training under way, which `verify` does not look into.

        It need not exist.
        """
        return self.path / WORK

    def state(self) -> str:
        """Returns a string that changes whenever the documents do."""
        version = self._read(lambda database: database.open_table("documents").version)
        return f"{self.settings.created}:{version}"

    def documents(self) -> list[DocumentInfo]:
        """Returns the documents, sorted by name."""
        found = []
        for row in self._read(read_documents):
            notes = tuple(row.get(NOTES) or ())
            found.append(_pick_fields(DocumentInfo, row, notes=notes, vectors=positions_of(row)))
        return found

    def passages(self, name: str | None = None) -> list[PassageInfo]:
        """Returns the passages of one document in order, or of all, without their memory.

        Texts are checked against their checksums.

        Raises:
            UsageError: There is no document of that name, or more than one; see `resolve`.
        """

        def read(database: "DBConnection") -> list[PassageInfo]:
            documents = read_documents(database)
            if name is not None:
                one = resolve(name, [row["document"] for row in documents], self.name)
                documents = [row for row in documents if row["document"] == one]
            only = None
            if name is not None:
                only = documents[0]["revision"]
            rows = read_passages(database, only, memory=False, check=False)
            found = []
            for document in documents:
                mine = rows[document["revision"]]
                check_document(document, mine)
                found += _make_passages(document["document"], mine)
            return found

        return self._read(read)

    def resolve(self, document: str) -> str:
        """Returns the name of the one document that is meant.

        It may be given by its name, a path to its file, or the end of its path.

        Raises:
            UsageError: There is no such document, or more than one.
        """
        return resolve(document, [info.document for info in self.documents()], self.name)

    def document_text(self, name: str) -> str:
        """Returns the text of a document, exactly as it was read.

        Raises:
            UsageError: There is no document of that name.
        """
        return "".join(passage.text for passage in self.passages(name))

    def memories(self, revision: str, indices: Sequence[int] | None = None) -> "list[Memory]":
        """Returns the memories of passages of a revision, on the CPU.

        Args:
            revision: As a `DocumentInfo` or a `PassageInfo` names it.
            indices: Of the passages, in the order wanted; None means all of them.

        Raises:
            CorpusDamaged: A passage is not there, or not what was written.
        """
        rows_format = rows_of(self.settings.format)

        def read(database: "DBConnection") -> "list[Memory]":
            found = read_passages(database, revision, indices, memory=True)[revision]
            rows = {row["index"]: row for row in found}
            wanted = indices
            if wanted is None:
                wanted = range(max(rows, default=0) + 1)
            memories = []
            for index in wanted:
                row = rows.get(index)
                is_ours = row is not None and row["fingerprint"] == self.settings.fingerprint
                if row is None or not is_ours or not row["intact"]:
                    raise CorpusDamaged(
                        f"Passage {index} of revision {revision} of corpus {self.name!r} is not"
                        " there or not what was written: `longreach corpus verify` says more."
                    )
                memories.append(rows_format.memory(row, self.settings.compressor))
            return memories

        return self._read(read)

    def vectors(self, revision: str, indices: Sequence[int] | None = None) -> "list[torch.Tensor]":
        """Returns the vectors [n, d] of passages as they were made, without their scale.

        Arguments and errors are those of `memories`.

        Raises:
            UsageError: The memory of this corpus is not summary vectors.
        """
        from longreach.compressors.memory import concatenated

        return [concatenated([memory]) for memory in self.memories(revision, indices)]

    def search(
        self,
        query: str,
        k: int = 5,
        retriever: str = "bm25",
        document: str | None = None,
        *,
        among: Collection[str] | None = None,
    ) -> "list[Passage]":
        """Returns the `k` passages nearest to `query`, best first.

        With `document`, only passages of that one are returned; with `among`, only passages of
        the documents of these names.
        """
        from longreach.corpus.search.retrieval import search

        if document is not None:
            document = self.resolve(document)
        return search(self, query, k, retriever, document, among)

    def versions(self) -> list[Version]:
        """Returns the states that `rollback` can return to, oldest first.

        The last one is the present.
        """
        listed = self._read(lambda db: db.open_table("documents").list_versions())
        found = []
        for entry in listed:
            written = entry["timestamp"].astimezone(UTC)
            count = int(entry["metadata"]["total_rows"])
            found.append(Version(entry["version"], written, count))
        # By number: the clock may have gone backwards.
        return sorted(found)

    def verify(self, *, lock_seconds: float = 5.0) -> VerifyReport:
        """Reads every byte of the corpus and says what is not as it was written.

        Raises:
            CorpusBusy: A writer did not end within `lock_seconds`; what it writes cannot be judged
                meanwhile.
        """
        with hold_lock(self.path, lock_seconds, reading=True):
            return verify(self.path)

    @cached_property
    def _document_files(self) -> DocumentFiles:
        return DocumentFiles(self.path)

    @cached_property
    def _database(self) -> "DBConnection":
        return connect(self.path)

    def _read(self, read: "Callable[[DBConnection], _T]") -> _T:
        for attempt in range(3):
            try:
                with explain_storage_faults(self.path):
                    self._check_same()
                    self._check_newest()
                    return read(self._database)
            except CorpusDamaged:
                require(self.path)
                if attempt == 2:
                    raise
            # Another process may have compacted the files away under this read.
            time.sleep(0.1)
        raise AssertionError

    def _check_same(self) -> None:
        """Raises CorpusNotFound if another corpus was made in the place of this one."""
        require(self.path)
        now = Settings.load(self.path)
        if (now.created, now.fingerprint) != (self.settings.created, self.settings.fingerprint):
            raise CorpusNotFound(f"Corpus {self.name!r} was deleted and made anew: open it again.")

    def _check_newest(self) -> None:
        """Raises CorpusDamaged if Lance would show an earlier state than the newest one."""
        head = read_head(self.path)
        # In this order: what is listed is never older than the head.
        newest = find_newest_manifests(self.path)
        lost = []
        if head is not None:
            lost = find_lost_versions(head, newest)
        changed = self._document_files.find_changed(newest.get("documents"))
        if changed is not None:
            lost.append(f"{changed} is not what was written.")
        if lost:
            raise CorpusDamaged(
                f"Corpus {self.name!r} is damaged. {lost[0]} Restore it from a backup, or keep what"
                f" can be kept with `longreach corpus repair {self.name}`."
            )


def _make_passages(document: str, rows: list[Row]) -> list[PassageInfo]:
    """Returns the passages of a document, given its rows in order."""
    found = []
    for held in group_by_segment(rows):
        owner = held[0]
        reach = 0
        # What is read next stands behind the whole segment, however few entries are kept of it.
        if owner.get("kind") == CACHED:
            reach = sum(row["tokens"] for row in held)
        for row in held:
            info = _pick_fields(
                PassageInfo,
                row,
                document=document,
                n_vectors=positions_of(owner),
                segment=None if row is owner else owner["index"],
                reach=reach,
            )
            found.append(info)
    return found


def _pick_fields(kind: type[_T], row: dict[str, object], **more: object) -> _T:
    """Returns the fields of a row that `kind`, a dataclass, has."""
    row = row | more
    return kind(**{field.name: row[field.name] for field in fields(kind)})  # type: ignore[arg-type]
