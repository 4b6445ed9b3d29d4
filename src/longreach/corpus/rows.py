"""The rows of both tables in each format, and how a memory lies in a row.

Format 2 keeps a memory as its `kind`, the number of its `positions` and its `payload`. Format 1
knew summary vectors only, as raw bytes with their shape and dtype beside them, and one scale for
the whole corpus among the settings of its compressor. Corpora of either format are read and added
to as they are: a row is written in the format of its corpus.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from longreach.errors import CorpusDamaged, UsageError
from longreach.jsontext import JsonValue, misfit, read_field

if TYPE_CHECKING:
    from longreach.compressors.memory import Memory

# The column of `documents` that tables made before it lack; null where there are none.
NOTES = "notes"
# Columns of bytes, in one format or the other: large, and hashed by themselves.
BLOBS = ("payload", "vectors")

# Kinds of memory, by the names that `compressors.memory` gives them: it takes torch to import.
CACHED = "keys-values"
_WITHIN = "within"

_PLACE = [
    ("revision", pa.string()),
    ("index", pa.int64()),
    ("start", pa.int64()),
    ("end", pa.int64()),
    ("text", pa.large_string()),
    ("tokens", pa.int64()),
]
_OWNER = [("fingerprint", pa.string()), ("model_fingerprint", pa.string())]
_DTYPES = ("float16", "bfloat16", "float32", "float64")


def _documents(total: str) -> pa.Schema:
    """Returns the schema of `documents`; `total` counts the positions of all passages."""
    return pa.schema(
        [
            ("document", pa.string()),
            ("revision", pa.string()),
            ("characters", pa.int64()),
            ("tokens", pa.int64()),
            ("passages", pa.int64()),
            (total, pa.int64()),
            ("added", pa.string()),
            ("digest", pa.string()),
            ("checksum", pa.string()),
            (NOTES, pa.list_(pa.string())),
        ]
    )


class RowFormat(ABC):
    """How the rows of a corpus look.

    Attributes:
        number: The format that corpus.json names.
        passages: The schema of `passages`.
        documents: The schema of `documents`.
        count: The column of `passages` with the positions of a passage.
        total: The column of `documents` with those of all passages.
    """

    number: ClassVar[int]
    passages: ClassVar[pa.Schema]
    documents: ClassVar[pa.Schema]
    count: ClassVar[str]
    total: ClassVar[str]

    @abstractmethod
    def columns(self, memory: "Memory") -> dict[str, object]:
        """Returns the columns of a passage that hold its memory, all but the hash of the bytes.

        Raises:
            UsageError: This format cannot hold such a memory.
        """

    @abstractmethod
    def memory(self, row: Mapping[str, Any], compressor: Mapping[str, JsonValue]) -> "Memory":
        """Returns the memory of a row.

        Args:
            row: Of `passages`, with its bytes.
            compressor: The description of the compressor in the corpus's settings.

        Raises:
            CorpusDamaged: The row holds none.
        """

    def is_sound(self, compressor: Mapping[str, JsonValue]) -> bool:
        """Returns whether the description of a compressor is one that rows can be read with."""
        return True


class MemoryRows(RowFormat):
    """Format 2."""

    number = 2
    count = "positions"
    total = "positions"
    passages = pa.schema(
        [
            *_PLACE,
            ("kind", pa.string()),
            ("positions", pa.int64()),
            *_OWNER,
            ("payload_sha256", pa.string()),
            ("payload", pa.large_binary()),
            ("checksum", pa.string()),
        ]
    )
    documents = _documents("positions")

    def columns(self, memory: "Memory") -> dict[str, object]:
        """See `RowFormat.columns`."""
        return {
            "kind": memory.kind,
            "positions": memory.positions,
            "payload": memory.to_bytes(),
        }

    def memory(self, row: Mapping[str, Any], compressor: Mapping[str, JsonValue]) -> "Memory":
        """See `RowFormat.memory`."""
        # Whoever lists or checks a corpus needs no torch, which takes seconds.
        from longreach.compressors.memory import read_memory

        return read_memory(row["kind"], row["payload"])


class VectorRows(RowFormat):
    """Format 1."""

    number = 1
    count = "n_vectors"
    total = "vectors"
    passages = pa.schema(
        [
            *_PLACE,
            ("n_vectors", pa.int64()),
            ("dim", pa.int64()),
            ("dtype", pa.string()),
            *_OWNER,
            ("vectors_sha256", pa.string()),
            ("vectors", pa.large_binary()),
            ("checksum", pa.string()),
        ]
    )
    documents = _documents("vectors")

    def columns(self, memory: "Memory") -> dict[str, object]:
        """See `RowFormat.columns`."""
        import torch

        from longreach.compressors.memory import Vectors

        if not isinstance(memory, Vectors):
            raise UsageError(
                f"A corpus of format 1 cannot hold memories of the kind '{memory.kind}': ingest"
                " into a new corpus."
            )
        count, size = memory.vectors.shape
        raw = memory.vectors.detach().cpu().contiguous().view(torch.uint8)
        return {
            "n_vectors": count,
            "dim": size,
            "dtype": str(memory.vectors.dtype).removeprefix("torch."),
            "vectors": raw.numpy().tobytes(),
        }

    def memory(self, row: Mapping[str, Any], compressor: Mapping[str, JsonValue]) -> "Memory":
        """See `RowFormat.memory`."""
        import torch

        from longreach.compressors.memory import Vectors

        if row["dtype"] not in _DTYPES:
            raise CorpusDamaged(
                f"A passage's vectors have the dtype {row['dtype']!r}: restore the corpus from a"
                " backup, or add its document again."
            )
        dtype = getattr(torch, row["dtype"])
        shape = (row["n_vectors"], row["dim"])
        if row["vectors"]:
            vectors = torch.frombuffer(bytearray(row["vectors"]), dtype=dtype).view(shape)
        else:
            vectors = torch.empty(shape, dtype=dtype)
        return Vectors(vectors, read_field({"scale": 1.0, **compressor}, "scale", float))

    def is_sound(self, compressor: Mapping[str, JsonValue]) -> bool:
        """See `RowFormat.is_sound`; the scale of all vectors is there."""
        return not misfit({"scale": 1.0} | dict(compressor), {"scale": (int, float)})


NEWEST: RowFormat = MemoryRows()
_FORMATS = {rows.number: rows for rows in (VectorRows(), NEWEST)}
FORMATS = tuple(_FORMATS)
"""The formats that are read and written."""


def rows_of(number: int) -> RowFormat:
    """Returns the format of this number, which is one of `FORMATS`."""
    return _FORMATS[number]


def group_by_segment(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Returns the rows of a document's passages, in order, segment by segment.

    The first row of a segment has its memory.
    """
    found: list[list[dict[str, Any]]] = []
    for row in rows:
        if found and row.get("kind") == _WITHIN:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def positions_of(row: Mapping[str, Any]) -> int:
    """Returns the positions of a passage or of a document, in whatever format its row is."""
    for name in ("positions", "n_vectors"):
        if name in row:
            return row[name]
    return row["vectors"]
