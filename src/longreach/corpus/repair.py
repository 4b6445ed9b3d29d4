"""Rebuilds the file log of a damaged corpus, and keeps what can be shown to be as it was written.

What shows it: a line of the old log whose checksum holds and whose file has that hash; for rows,
their own checksums and those of their document; for an adapter and a scorecard, the hashes that
they carry. What nothing vouches for is removed.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from longreach.corpus.artefacts import ADAPTER, is_intact, scorecard_is_intact
from longreach.corpus.compaction import keep_newest, rewrite
from longreach.corpus.head import (
    TABLES,
    find_lost_versions,
    find_newest_manifests,
    read_head,
)
from longreach.corpus.integrity import HINT, LOG, WORK, FileLog, Recorded, hash_file, is_sound
from longreach.corpus.rows import BLOBS
from longreach.corpus.schema import READER, SCORECARD, SETTINGS, Settings, is_row_intact, sha256
from longreach.corpus.tables import DATABASE, Row, check_document, connect
from longreach.errors import CorpusDamaged
from longreach.jsontext import JsonObject, NotJson, parse_object, read_field
from longreach.wording import counted

if TYPE_CHECKING:
    from lancedb.db import DBConnection
    from lancedb.table import Table

_BATCH_ROWS = 256
_SUM = re.compile(rb'"sum": "([0-9a-f]{16})"\}')


@dataclass(frozen=True)
class RepairReport:
    """What `Corpus.repair` did: the `documents` that are whole, and a sentence for each loss."""

    documents: int
    lost: list[str] = field(default_factory=list)


def repair(folder: Path) -> RepairReport:
    """Repairs a corpus. The caller holds the lock.

    Raises:
        CorpusDamaged: Corpus.json or a whole table cannot be read.
    """
    Settings.load(folder)
    log = FileLog(folder)
    known: dict[str, Recorded] = {}
    if (folder / LOG).exists():
        known = salvage((folder / LOG).read_bytes())
    lost = []
    head = read_head(folder)
    if head is not None:
        lost += find_lost_versions(head, find_newest_manifests(folder))
    lost += _judge_artefacts(folder, log, known)
    database = connect(folder)
    documents, broken = _judge_documents(database)
    lost += broken
    if broken:
        _keep_only(database, documents)
    if broken or not _is_all_known(folder, log, known):
        # Old versions would refer to files that nothing proves.
        earlier = len(database.open_table("documents").list_versions()) > 1
        for table in TABLES:
            keep_newest(folder, database, table)
        if earlier:
            lost.append("The earlier versions are gone: nothing vouches for them.")
    ours = (DATABASE + "/", ADAPTER + "/", READER + "/")
    kept = dict[str, Recorded]()
    for path in log.list_present():
        if path.startswith(ours) or path in (SETTINGS, SCORECARD):
            kept[path] = hash_file(folder / path, sync=True)
        else:
            lost.append(f"{path} was not written by longreach: move it out of the folder.")
    log.rewrite(kept)
    return RepairReport(len(documents), lost)


def salvage(raw: bytes) -> dict[str, Recorded]:
    """Returns what the sound lines of a file log say.

    The checksum of a line holds only with the line before it.
    """
    files = dict[str, Recorded]()
    before = b""
    for line in raw.split(b"\n"):
        entry: JsonObject = {}
        told = None
        with contextlib.suppress(NotJson):
            entry = parse_object(line)
            told = entry.pop("sum", None)
        if told == sha256(before, json.dumps(entry).encode())[:16] and is_sound(entry):
            if "file" in entry:
                size = read_field(entry, "bytes", int)
                files[read_field(entry, "file", str)] = Recorded(
                    size, read_field(entry, "sha256", str)
                )
            elif "removed" in entry:
                files.pop(read_field(entry, "removed", str), None)
        # Also of a damaged line, so that those after it can still be told.
        found = _SUM.search(line)
        before = b""
        if found is not None:
            before = found[1]
    return files


def _is_all_known(folder: Path, log: FileLog, known: dict[str, Recorded]) -> bool:
    """Returns whether the database has just the files that the old log vouches for."""
    present = set(filter(_is_of_database, log.list_present()))
    if present != set(filter(_is_of_database, known)):
        return False
    return all(hash_file(folder / path) == known[path] for path in present)


def _is_of_database(path: str) -> bool:
    """Returns whether a file is one of the database that Lance does not rewrite."""
    return path.startswith(DATABASE + "/") and not path.endswith("/" + HINT)


def _judge_artefacts(folder: Path, log: FileLog, known: dict[str, Recorded]) -> Iterator[str]:
    """Takes away an adapter and a scorecard that nothing vouches for; one sentence for each."""
    for name in (ADAPTER, READER):
        if (folder / name).is_dir() and not is_intact(folder, folder / name, name, known):
            aside = folder / WORK / f"unproven-{name}"
            aside.parent.mkdir(exist_ok=True)
            number = 1
            while aside.exists():
                number += 1
                aside = aside.with_name(f"unproven-{name}-{number}")
            # It is kept: whoever made it may know better.
            (folder / name).rename(aside)
            yield (
                f"The adapter in {name} is not what was stored, or nothing vouches for it: it lies"
                f" in {aside} now."
            )
    card = folder / SCORECARD
    if card.exists() and not scorecard_is_intact(folder, card.read_bytes(), known):
        card.unlink()
        yield (
            f"{SCORECARD} is not what was stored, or nothing vouches for it: measure again with"
            " `longreach study`."
        )


def _judge_documents(database: "DBConnection") -> tuple[list[Row], list[str]]:
    """Returns the rows of the documents that are whole, and one sentence for each of the others."""
    whole: list[Row] = []
    broken: list[str] = []
    rows = {name: _ReadableRows(database.open_table(name)) for name in TABLES}
    found: dict[str, list[Row]] = {}
    for row in rows["passages"]:
        row["intact"] = is_row_intact(row)
        for name in BLOBS:
            row.pop(name, None)
        found.setdefault(row["revision"], []).append(row)
    for passages in found.values():
        passages.sort(key=lambda row: row["index"] or 0)
    for document in rows["documents"]:
        try:
            check_document(document, found.get(document["revision"], []))
            whole.append(document)
        except CorpusDamaged as error:
            broken.append(str(error))
    for name, read in rows.items():
        if read.lost:
            rows_lost = counted(read.lost, "row")
            broken.append(
                f"{rows_lost} of the table '{name}' cannot be read: add again what `show` does not"
                " list."
            )
    return whole, broken


def _keep_only(database: "DBConnection", documents: list[Row]) -> None:
    """Writes both tables anew, with these documents and with every passage that is intact."""
    table = database.open_table("documents")
    table.add(pa.Table.from_pylist(documents, schema=table.schema), mode="overwrite")
    passages = database.open_table("passages")

    def batches() -> Iterator[pa.RecordBatch]:
        good = list[Row]()
        seen = set[tuple[str, int]]()
        for row in _ReadableRows(passages):
            place = (row["revision"], row["index"])
            # A writer that was killed may have appended a passage twice.
            if is_row_intact(row) and place not in seen:
                seen.add(place)
                good.append(row)
            if len(good) >= _BATCH_ROWS:
                yield pa.RecordBatch.from_pylist(good, schema=passages.schema)
                good.clear()
        yield pa.RecordBatch.from_pylist(good, schema=passages.schema)

    rewrite(passages, batches())


class _ReadableRows:
    """The rows of a table as far as they can be read.

    `lost` counts the others once the rows were walked through.
    """

    def __init__(self, table: "Table") -> None:
        self._table = table
        self.lost = 0

    def __iter__(self) -> Iterator[Row]:
        self.lost = 0
        count = self._table.count_rows()
        for start in range(0, count, _BATCH_ROWS):
            yield from self._read(start, min(_BATCH_ROWS, count - start))

    def _read(self, start: int, count: int) -> Iterator[Row]:
        try:
            rows = self._table.search().limit(count).offset(start).to_arrow().to_pylist()
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException:
            # A panic of Lance is no Exception. Halves are tried until the damaged row is alone.
            if count == 1:
                self.lost += 1
                return
            half = count // 2
            yield from self._read(start, half)
            yield from self._read(start + half, count - half)
            return
        yield from rows
