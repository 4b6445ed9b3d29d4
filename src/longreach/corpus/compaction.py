"""Freeing the disk of what no document refers to.

Old text is gone from the disk afterwards, whatever any clock said.
"""

import warnings
from collections.abc import Collection, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from longreach.corpus.head import list_manifests
from longreach.corpus.tables import DATABASE

if TYPE_CHECKING:
    from lancedb.db import DBConnection
    from lancedb.table import Table

_BATCH_ROWS = 256
_BATCH_REVISIONS = 500
# Of the files that Lance writes.
_SUFFIXES = {".lance", ".manifest", ".arrow", ".bin", ".txn", ".json", ".idx"}


def drop_unused(database: "DBConnection", used: Collection[str]) -> None:
    """Deletes the passages of every revision that is not in `used`."""
    passages = database.open_table("passages")
    stored = set(passages.search().select(["revision"]).to_arrow()["revision"].to_pylist())
    unused = sorted(stored.difference(used))
    # Not all in one filter: it would grow without bounds.
    for at in range(0, len(unused), _BATCH_REVISIONS):
        listed = ", ".join(f"'{revision}'" for revision in unused[at : at + _BATCH_REVISIONS])
        passages.delete(f"revision IN ({listed})")


def keep_newest(folder: Path, database: "DBConnection", name: str) -> None:
    """Merges the small files of a table, and deletes all versions but the newest.

    Args:
        folder: Of the corpus.
        database: Its database.
        name: Of the table.
    """
    table = database.open_table(name)
    with warnings.catch_warnings():
        # Lance warns that readers may fail: ours read again.
        warnings.simplefilter("ignore", UserWarning)
        _optimize(table)
        if list((folder / DATABASE / f"{name}.lance" / "_deletions").glob("*")):
            # Lance rewrites a file only where a tenth of its rows is deleted; until then their text
            # stays in it.
            rewrite(table, table.search().to_batches(batch_size=_BATCH_ROWS))
        table.checkout_latest()  # type: ignore[no-untyped-call]
        # Lance would ask the clock which of them are old.
        for manifest in list_manifests(folder, name)[:-1]:
            manifest.unlink()
        _optimize(table)
    for path in (folder / DATABASE / f"{name}.lance").rglob("*"):
        # Half a file of a writer that was killed.
        if path.is_file() and path.suffix not in _SUFFIXES:
            path.unlink()


def rewrite(table: "Table", batches: Iterator[pa.RecordBatch]) -> None:
    """Replaces the rows of a table by those of `batches`, as a new version.

    The batches may come out of the same table.
    """
    table.add(pa.RecordBatchReader.from_batches(table.schema, batches), mode="overwrite")


def _optimize(table: "Table") -> None:
    table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
