"""What a corpus stores: its settings, its rows, and the checksum of each.

A row's checksum covers every other field of it in one canonical encoding, so that nobody who reads
has to trust the file format below. It covers the bytes of a passage's memory by their own hash: a
row read without them can be checked too. Notes that are null count as absent: a row is the same
before and after its table gets that column.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from longreach.corpus.rows import BLOBS, FORMATS, NOTES, rows_of
from longreach.errors import CorpusDamaged, CorpusError, UsageError
from longreach.jsontext import JsonObject, Kinds, NotJson, misfit, parse_object, read_field

if TYPE_CHECKING:
    from longreach.corpus.documents import Skipped

READER = "reader"
"""The folder of the adapter that a compressor came with."""
SETTINGS = "corpus.json"
SCORECARD = "scorecard.json"


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """A document of a corpus.

    Attributes:
        document: Its name.
        revision: Names its text as the compressor reads it.
        characters: Of its text.
        tokens: Of its text.
        passages: The number of its passages.
        vectors: The positions that the memory of all its passages takes.
        added: When it was added or last replaced; UTC, ISO 8601.
        notes: One sentence for each part of its file that could not be read.
    """

    document: str
    revision: str
    characters: int
    tokens: int
    passages: int
    vectors: int
    added: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PassageInfo:
    """A passage without its memory: `text` is characters `start` to `end` of the document.

    Attributes:
        document: Name of the document.
        index: Number of the passage in its document.
        start: First character.
        end: One past the last character.
        text: Its text.
        tokens: Of its text.
        n_vectors: Positions that the memory of its segment takes.
        revision: Names the document's text as the compressor reads it.
        segment: Number of the passage that has the memory of the segment, which may be longer than
            a passage; None where that is this one.
        reach: Positions of the model's window that the segment's memory stands for, where these
            are more than it takes; else 0.
    """

    document: str
    index: int
    start: int
    end: int
    text: str
    tokens: int
    n_vectors: int
    revision: str
    segment: int | None = None
    reach: int = 0


class Version(NamedTuple):
    """A state of the corpus that `rollback` can return to.

    It has the number of its `documents` and the time of its writing (UTC).
    """

    version: int
    timestamp: datetime
    documents: int


@dataclass(frozen=True)
class AddReport:
    """What `Corpus.add` did: document names by outcome.

    Attributes:
        added: Documents that are new.
        replaced: Documents whose text, or what is known to be missing from it, is another than
            before.
        unchanged: Documents that are as they were.
        removed: Documents whose files are gone; see `prune`.
        skipped: What was not read, and why.
        unread: How many files in folders are of kinds that are not read, by suffix in lower case
            ("" for none).
        notes: For each document that was read without some parts of its file, one sentence for each
            part.
        passages: The number of passages that were compressed just now.
        tokens: The number of their tokens.
        seconds: How long it took.
    """

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    skipped: "list[Skipped]" = field(default_factory=list)
    unread: dict[str, int] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    passages: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Settings:
    """What every vector of a corpus has in common: the content of corpus.json."""

    format: int
    name: str
    compressor: dict[str, Any]
    fingerprint: str
    model_fingerprint: str
    model_ref: str
    compressor_ref: str
    dim: int
    dtype: str
    segment_tokens: int
    created: str

    def save(self, folder: Path) -> None:
        """Writes corpus.json with a checksum of its own, whole or not at all."""
        values = asdict(self)
        draft = folder / f"{SETTINGS}.tmp"
        with draft.open("w", encoding="utf-8") as file:
            # The checksum is over the values as they are read back, in one canonical order.
            file.write(json.dumps(values | {"sha256": sha256(_encode(values))}, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / SETTINGS)

    @classmethod
    def load(cls, folder: Path) -> "Settings":
        """Reads corpus.json.

        Raises:
            CorpusDamaged: It is not what `save` wrote.
            CorpusError: A later release of longreach wrote it.
        """
        path = folder / SETTINGS
        damaged = CorpusDamaged(
            f"{path} is damaged: restore it from a backup, or delete the corpus and ingest again."
        )
        try:
            values = parse_object(path.read_bytes())
            intact = values.pop("sha256", None) == sha256(_encode(values))
        except NotJson as error:
            raise damaged from error
        if not intact:
            raise damaged
        if values.get("format") not in FORMATS:
            known = " and ".join(map(str, FORMATS))
            raise CorpusError(
                f"Corpus {folder.name!r} has format {values.get('format')!r}, and this release"
                f" reads {known}: use the release that wrote it, or ingest again."
            )
        if not _is_sound(values):
            raise damaged
        fields: dict[str, Any] = values
        return cls(**fields)


_TEXT = (
    "name",
    "fingerprint",
    "model_fingerprint",
    "model_ref",
    "compressor_ref",
    "dtype",
    "created",
)
_COUNTS = ("format", "dim", "segment_tokens")
_FIELDS: Kinds = (
    {"compressor": (dict,)} | dict.fromkeys(_COUNTS, (int,)) | dict.fromkeys(_TEXT, (str,))
)
_DTYPES = ("float16", "bfloat16", "float32", "float64")


def _is_sound(values: JsonObject) -> bool:
    """Returns whether values are what `Settings` takes.

    A file whose checksum holds may still have been written by hand.
    """
    if misfit(values, _FIELDS) or len(values) != len(_FIELDS):
        return False
    compressor = read_field(values, "compressor", dict)
    if misfit(compressor, {"method": (str,)}):
        return False
    if not rows_of(read_field(values, "format", int)).is_sound(compressor):
        return False
    sizes = [read_field(values, name, int) for name in ("dim", "segment_tokens")]
    return values["dtype"] in _DTYPES and min(sizes) >= 1


def is_valid_name(name: str) -> bool:
    """Returns whether a corpus may be called so."""
    if not isinstance(name, str) or not name.isprintable():
        return False
    if not re.fullmatch(r"(?!\.)[^/\\:]{1,100}", name):
        return False
    return ".." not in name and name == name.strip()


def check_name(name: str) -> str:
    """Returns `name` if a corpus may be called so, else raises UsageError with the allowed form."""
    if not is_valid_name(name):
        raise UsageError(
            f"{name!r} cannot be the name of a corpus: use 1 to 100 printable characters, no '/',"
            " '\\', ':' or '..', no '.' in front and no space at either end."
        )
    return name


def name_revision(text: str, fingerprint: str) -> str:
    """Returns the name of a text as one compressor reads it.

    Equal contents have equal revisions, whatever the file is called.
    """
    return sha256(text.encode(), b"\0", fingerprint.encode())[:32]


def sha256(*parts: bytes) -> str:
    """Returns the SHA-256 of the parts in order, as hex."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def sum_row(row: Mapping[str, object]) -> str:
    """Returns the checksum of a row: over all its other fields, bytes by their hash."""
    fields = {}
    for key, value in row.items():
        if key == "checksum" or isinstance(value, bytes):
            continue
        # A table that got its column of notes later has nulls there, which no checksum could know
        # of.
        if key == NOTES and value is None:
            continue
        fields[key] = value
    return sha256(_encode(fields))


def is_row_intact(row: Mapping[str, object]) -> bool:
    """Returns whether a row, read with or without its memory, is what was written."""
    for name in BLOBS:
        raw = row.get(name)
        if isinstance(raw, bytes) and row[f"{name}_sha256"] != sha256(raw):
            return False
    return row["checksum"] == sum_row(row)


def sum_rows(checksums: Iterable[str]) -> str:
    """Returns the digest of a document, over the checksums of its passages in order."""
    return sha256("\n".join(checksums).encode())


def _encode(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
