"""How far a corpus has come: the end of its file log, and the newest version of each table.

`files.head` is replaced after every change. By it a writer notices a log that was cut, and writers
and readers notice a table that lost its newest version. Versions are told apart by the numbers in
file names, not by a clock.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from longreach.corpus.schema import sha256
from longreach.corpus.tables import DATABASE
from longreach.jsontext import NotJson, misfit, parse_object, read_field

HEAD = "files.head"
TABLES = ("passages", "documents")


class Head(NamedTuple):
    """The checksums that the log may end in, and the newest version of each table."""

    chains: list[str]
    tables: dict[str, int]


def read_head(folder: Path) -> Head | None:
    """Returns the head of a corpus; None where there is none, or it is not what was written."""
    try:
        raw = (folder / HEAD).read_bytes()
        values = parse_object(raw)
    except (FileNotFoundError, NotJson):
        return None
    if misfit(values, {"chains": (list,), "tables": (dict,)}):
        return None
    chains = read_field(values, "chains", list)
    tables = read_field(values, "tables", dict)
    if set(map(type, chains)) - {str}:
        return None
    # A made-up head must not raise anywhere else.
    if misfit(tables, dict.fromkeys(tables, (int,))):
        return None
    head = Head(chains, tables)
    # The checksum is part of what is compared.
    return head if raw == _encode(head) else None


def write_head(folder: Path, chains: Sequence[str]) -> None:
    """Notes the ends that the log may have, and the versions that are there now."""
    versions = parse_versions(find_newest_manifests(folder))
    replace_file(folder / HEAD, _encode(Head(list(chains), versions)))


def _encode(head: Head) -> bytes:
    values = json.dumps(head._asdict(), sort_keys=True)
    return json.dumps({**json.loads(values), "sum": sha256(values.encode())[:16]}).encode() + b"\n"


def parse_versions(newest: Mapping[str, str]) -> dict[str, int]:
    """Returns the version of each table, of what `find_newest_manifests` gave."""
    return {table: parse_version(Path(path)) for table, path in newest.items()}


def find_lost_versions(head: Head, newest: Mapping[str, str]) -> list[str]:
    """Returns one sentence for each table that lost its newest version.

    Args:
        head: Notes which version that is.
        newest: What `find_newest_manifests` gave after the head was read.
    """
    there = parse_versions(newest)
    problems = []
    for table, version in head.tables.items():
        if there.get(table, 0) < version:
            problems.append(f"The newest version ({version}) of the table '{table}' is missing.")
    return problems


def list_manifests(folder: Path, table: str) -> list[Path]:
    """Returns the files of the versions of a table, oldest first."""
    found = (folder / DATABASE / f"{table}.lance" / "_versions").glob("*.manifest")
    return sorted((path for path in found if path.stem.isdecimal()), key=parse_version)


def parse_version(manifest: Path) -> int:
    """Returns the version that a manifest's name stands for.

    Lance counts down from 2^64 - 1, and earlier releases counted up.
    """
    number = int(manifest.stem)
    if number < 1 << 63:
        return number
    return (1 << 64) - 1 - number


def find_newest_manifests(folder: Path) -> dict[str, str]:
    """Returns the relative path of the newest manifest of each table."""
    found = {}
    for table in TABLES:
        there = list_manifests(folder, table)
        if there:
            found[table] = there[-1].relative_to(folder).as_posix()
    return found


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file that is either the old or the new one, whenever the process ends."""
    # Neither the file log nor `verify` counts files that end in .tmp.
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    # Without this, the new name may be lost when the machine goes down.
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
