"""The two tables as checked rows: what a document row promises, and whether the passages keep
it."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longreach.corpus.rows import BLOBS
from longreach.corpus.schema import digest, intact
from longreach.errors import CorpusDamaged
from longreach.wording import counted

DATABASE = "db"
_BATCH_ROWS = 256  # memories are large: 256 rows of vectors of an 8B model are 100 MB

Row = dict[str, Any]


def connect(folder: Path) -> Any:
    """Connects to the database of a corpus folder. Tables opened from it show the newest version at
    that moment."""
    import lancedb  # takes a second to import

    return lancedb.connect(folder / DATABASE)


def document_rows(database: Any) -> list[Row]:
    """The rows of `documents`, sorted by name.

    Raises:
        CorpusDamaged: one is not what was written.
    """
    rows = database.open_table("documents").to_arrow().to_pylist()
    for row in rows:
        if not intact(row):
            raise CorpusDamaged(
                f"The row of document {row['document']!r} is not what was written: {_ADVICE}"
            )
    return sorted(rows, key=lambda row: row["document"])


def passage_rows(
    database: Any,
    revision: str | None = None,
    indices: Sequence[int] | None = None,
    *,
    memory: bool,
    check: bool = True,
) -> dict[str, list[Row]]:
    """The rows of `passages` by revision, in order, each with `intact`: whether its checksum held.

    Args:
        database: what `connect` returned.
        revision: only those of one revision.
        indices: only those of these numbers.
        memory: Keep the bytes of memories in the rows.
        check: Read these bytes to check them, even if they are not kept.
    """
    table = database.open_table("passages")
    query = table.search()
    if revision is not None:
        where = f"revision = '{revision}'" if revision.isalnum() else "false"
        if indices is not None:
            where += (
                f" AND `index` IN ({', '.join(str(int(index)) for index in indices) or 'NULL'})"
            )
        query = query.where(where)
    if not (memory or check):
        query = query.select([name for name in table.schema.names if name not in BLOBS])
    found: dict[str, list[Row]] = defaultdict(list)
    for batch in query.to_batches(batch_size=_BATCH_ROWS):
        for row in batch.to_pylist():
            row["intact"] = intact(row)
            if not memory:
                for name in BLOBS:
                    row.pop(name, None)
            found[row["revision"]].append(row)
    for rows in found.values():
        rows.sort(key=lambda row: row["index"] or 0)  # damage can make it null
    return found


def check_document(document: Row, passages: Sequence[Row]) -> None:
    """Holds the passages of a document against its row.

    Raises:
        CorpusDamaged: one is missing, there twice, changed, or another than was committed.
    """
    problem = None if intact(document) else "its row is not what was written"
    end = 0
    for number, row in enumerate(passages):
        if problem:
            break
        if not row["intact"]:
            problem = f"passage {number} is not what was written"
        elif row["index"] != number:
            problem = (
                f"passage {number} is missing"
                if row["index"] > number
                else f"passage {number - 1} is there twice"
            )
        elif row["start"] != end or row["end"] < end:
            problem = f"passage {number} starts at character {row['start']}, not at {end}"
        end = row["end"]
    if problem is None and len(passages) != document["passages"]:
        problem = f"{len(passages)} of its {counted(document['passages'], 'passage')} are there"
    if problem is None and end != document["characters"]:
        problem = f"its passages end at character {end} of {document['characters']}"
    if problem is None and digest(row["checksum"] for row in passages) != document["digest"]:
        problem = "its passages are not those that were committed"
    if problem:
        raise CorpusDamaged(f"Document {document['document']!r} is damaged, {problem}: {_ADVICE}")


def check_version(database: Any, version: int) -> None:
    """Raises CorpusDamaged where the passages of an earlier version of `documents` are not all
    there."""
    table = database.open_table("documents")
    table.checkout(version)
    documents = table.to_arrow().to_pylist()
    passages = passage_rows(database, memory=False, check=False)
    for document in documents:
        check_document(document, passages[document["revision"]])


_ADVICE = "remove it and add it again, or restore the corpus from a backup."
