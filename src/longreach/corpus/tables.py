"""The two tables as checked rows: what documents promise, and whether passages keep it."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longreach.corpus.rows import BLOBS
from longreach.corpus.schema import is_row_intact, sum_rows
from longreach.errors import CorpusDamaged
from longreach.wording import counted

if TYPE_CHECKING:
    from lancedb.db import DBConnection

DATABASE = "db"
# Memories are large: 256 rows of vectors of an 8B model are 100 MB.
_BATCH_ROWS = 256

Row = dict[str, Any]


def connect(folder: Path) -> "DBConnection":
    """Connects to the database of a corpus folder.

    Tables opened from it show the newest version at that moment.
    """
    # It takes a second to import.
    import lancedb

    return lancedb.connect(folder / DATABASE)


def read_documents(database: "DBConnection") -> list[Row]:
    """Returns the rows of `documents`, sorted by name.

    Raises:
        CorpusDamaged: One is not what was written.
    """
    rows = database.open_table("documents").to_arrow().to_pylist()
    for row in rows:
        if not is_row_intact(row):
            raise CorpusDamaged(
                f"The row of document {row['document']!r} is not what was written: {_ADVICE}"
            )
    return sorted(rows, key=lambda row: row["document"])


def read_passages(
    database: "DBConnection",
    revision: str | None = None,
    indices: Sequence[int] | None = None,
    *,
    memory: bool,
    check: bool = True,
) -> dict[str, list[Row]]:
    """Returns the rows of `passages` by revision, in order.

    Each has a field `intact`: whether its checksum held.

    Args:
        database: What `connect` returned.
        revision: Only those of one revision.
        indices: Only those of these numbers.
        memory: Keep the bytes of memories in the rows.
        check: Read these bytes to check them, even if they are not kept.
    """
    table = database.open_table("passages")
    query = table.search()
    if revision is not None:
        # Names of revisions are hexadecimal: any other one has no passages, and is not quoted.
        where = f"revision = '{revision}'" if revision.isalnum() else "false"
        if indices is not None:
            listed = ", ".join(map(str, map(int, indices))) or "NULL"
            where += f" AND `index` IN ({listed})"
        query = query.where(where)
    if not (memory or check):
        query = query.select([name for name in table.schema.names if name not in BLOBS])
    found: dict[str, list[Row]] = defaultdict(list)
    for batch in query.to_batches(batch_size=_BATCH_ROWS):
        for row in batch.to_pylist():
            row["intact"] = is_row_intact(row)
            if not memory:
                for name in BLOBS:
                    row.pop(name, None)
            found[row["revision"]].append(row)
    for rows in found.values():
        # Damage can make the index null.
        rows.sort(key=lambda row: row["index"] or 0)
    return found


def check_document(document: Row, passages: Sequence[Row]) -> None:
    """Holds the passages of a document against its row.

    Raises:
        CorpusDamaged: One is missing, there twice, changed, or another than was committed.
    """
    problem = None
    if not is_row_intact(document):
        problem = "its row is not what was written"
    end = 0
    for number, row in enumerate(passages):
        if problem:
            break
        if not row["intact"]:
            problem = f"passage {number} is not what was written"
        elif row["index"] > number:
            problem = f"passage {number} is missing"
        elif row["index"] < number:
            problem = f"passage {number - 1} is there twice"
        elif row["start"] != end or row["end"] < end:
            problem = f"passage {number} starts at character {row['start']}, not at {end}"
        end = row["end"]
    if problem is None and len(passages) != document["passages"]:
        problem = f"{len(passages)} of its {counted(document['passages'], 'passage')} are there"
    if problem is None and end != document["characters"]:
        problem = f"its passages end at character {end} of {document['characters']}"
    # Each passage may be sound, and yet be of another state of the document.
    if problem is None and sum_rows(row["checksum"] for row in passages) != document["digest"]:
        problem = "its passages are not those that were committed"
    if problem:
        raise CorpusDamaged(f"Document {document['document']!r} is damaged, {problem}: {_ADVICE}")


def check_version(database: "DBConnection", version: int) -> None:
    """Raises CorpusDamaged if passages of an earlier version of `documents` are missing."""
    table = database.open_table("documents")
    table.checkout(version)
    documents = table.to_arrow().to_pylist()
    passages = read_passages(database, memory=False, check=False)
    for document in documents:
        check_document(document, passages[document["revision"]])


_ADVICE = "remove it and add it again, or restore the corpus from a backup."
