"""The file log of a corpus.

Lance never changes a file it has written, so one hash for each file, noted as it is written, finds
every changed byte. `files.jsonl` is append-only. Each line carries a checksum chained to the line
before it:
    {"intent": what}                      fsynced before a change; a killed writer leaves it open
    {"file": path, "bytes", "sha256"}     a new file, or a later state of one of the few mutable
    ones {"removed": path}                     compaction took it away
    {"done": what}                        fsynced after the change and the lines above
    {"head": path}                        from here on the file `files.head` is kept
While an intent is open, files the log does not know are expected; the next writer notes them and
closes it.

`files.head` is written after every change; see `head`. After a kill the log may be ahead of its
head, and never behind it: that is how a log that lost its end is found.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from longreach.corpus.head import (
    HEAD,
    find_lost_versions,
    find_newest_manifests,
    read_head,
    replace_file,
    sync_folder,
    write_head,
)
from longreach.corpus.schema import SETTINGS, sha256
from longreach.corpus.tables import DATABASE
from longreach.errors import CorpusDamaged
from longreach.jsontext import JsonObject, Kinds, misfit, parse_object, read_field

LOG = "files.jsonl"
LOCK = ".lock"
# The folder where training is under way; what comes of it is moved out, and answered for there.
WORK = "study"
CHANGING = "changing: "
"""How intents of work outside the database begin."""
HINT = "latest_version_hint.json"
"""The one file that Lance rewrites."""


class Recorded(NamedTuple):
    """Size and SHA-256 of a file when it was written."""

    bytes: int
    sha256: str


class FileLog:
    """The file log of one corpus folder. Writers use it under the corpus's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LOG
        self.files: dict[str, Recorded] = {}
        self.problems: list[str] = []
        self.intent: str | None = None
        self._chain = ""
        self._chains = {""}
        self._headed = False
        self._torn = 0
        self._read()
        self._check_head()

    def _read(self) -> None:
        raw = b""
        if self.path.exists():
            raw = self.path.read_bytes()
        lines = raw.split(b"\n")
        tail = lines.pop()
        for number, line in enumerate(lines, 1):
            if not self._take(line):
                self.problems.append(f"{LOG}: line {number} is not what was written.")
                return
        if not tail:
            return
        # A whole line and one wrong byte: nobody tears a write like that.
        if self._parse(tail[:-1]) is not None:
            self.problems.append(f"{LOG}: the last line is not what was written.")
        else:
            # The disk was full or the machine went down in the middle of a line; what it told of
            # was never promised.
            self._torn = len(tail)

    def _check_head(self) -> None:
        if self.problems:
            return
        if not self._chain and (self.folder / SETTINGS).exists():
            self.problems.append(f"{LOG} is missing or empty.")
            return
        head = read_head(self.folder)
        if head is None:
            if self._headed or (self.folder / HEAD).exists():
                self.problems.append(f"{HEAD} is missing or not what was written.")
            return
        # The log may be ahead of its head by what a killed writer appended.
        if self._chains.isdisjoint(head.chains):
            self.problems.append(f"{LOG} ends too early: lines are missing at its end.")
        self.problems.extend(find_lost_versions(head, find_newest_manifests(self.folder)))

    def _write_head(self, *chains: str) -> None:
        """Notes how far the log has come.

        `chains` names more than one end while the log is replaced.
        """
        write_head(self.folder, chains or (self._chain,))

    def _parse(self, line: bytes) -> JsonObject | None:
        try:
            entry = parse_object(line)
            told = entry.pop("sum")
            same = json.dumps(entry | {"sum": told}).encode() == line
        except (ValueError, KeyError, AttributeError, TypeError):
            return None
        if not same or told != self._sum_entry(entry) or not is_sound(entry):
            return None
        return entry

    def _sum_entry(self, entry: JsonObject) -> str:
        return sha256(self._chain.encode(), json.dumps(entry).encode())[:16]

    def _take(self, line: bytes) -> bool:
        entry = self._parse(line)
        if entry is None:
            return False
        self._chain = self._sum_entry(entry)
        self._chains.add(self._chain)
        if "head" in entry:
            self._headed = True
        elif "file" in entry:
            name = read_field(entry, "file", str)
            digest = read_field(entry, "sha256", str)
            self.files[name] = Recorded(read_field(entry, "bytes", int), digest)
        elif "removed" in entry:
            self.files.pop(read_field(entry, "removed", str), None)
        else:
            self.intent = read_field(entry, "intent", str) if "intent" in entry else None
        return True

    def _append(self, *entries: JsonObject) -> None:
        out = self._encode(entries)
        with self.path.open("ab") as file:
            # A line that was torn would spoil the one after it.
            if self._torn:
                file.truncate(file.seek(0, os.SEEK_END) - self._torn)
                self._torn = 0
            file.write(out)
            file.flush()
            os.fsync(file.fileno())

    def _encode(self, entries: Iterable[JsonObject]) -> bytes:
        """Returns the lines of entries, which are taken to be in the log from now on."""
        lines = []
        for entry in entries:
            line = json.dumps(entry | {"sum": self._sum_entry(entry)}).encode()
            self._take(line)
            lines.append(line + b"\n")
        return b"".join(lines)

    def list_present(self) -> dict[str, os.stat_result]:
        """Returns every file under the folder that the log answers for, by relative path."""
        found = {}
        for top, folders, names in os.walk(self.folder):
            # Training under way changes files at any time.
            if top == str(self.folder) and WORK in folders:
                folders.remove(WORK)
            for name in names:
                path = Path(top, name)
                relative = path.relative_to(self.folder).as_posix()
                if relative not in (LOG, LOCK, HEAD) and not name.endswith(".tmp"):
                    found[relative] = path.lstat()
        return found

    @contextmanager
    def change(self, what: str) -> Iterator[None]:
        """Notes the intent, lets the caller change files, and notes what is new.

        An error leaves the intent open.
        """
        before = self.list_present()
        if not self._headed:
            # In this order: a log that names a head is damaged without one.
            self._write_head()
            self._append({"head": HEAD})
        # From here on a kill leaves an intent that the next writer closes.
        self._append({"intent": what})
        yield
        after = self.list_present()
        news = []
        for path, stat in after.items():
            if path not in before or _stamp(stat) != _stamp(before[path]):
                news.append(path)
        gone = []
        for path in before:
            if path not in after and path in self.files:
                gone.append(path)
        self._record(what, news, gone)

    def recover(self) -> None:
        """Closes the intent of a writer that was killed.

        Its files are noted as they are; row checksums cover them.

        Raises:
            CorpusDamaged: The log itself is not what was written, or a file it answers for is gone
                or has another size.
        """
        present = self.list_present()
        problems = [*self.problems, *self._find_lost(present)]
        if problems:
            raise CorpusDamaged(
                f"Corpus {self.folder.name!r} is damaged, so nothing more is written to it."
                f" {problems[0]} Restore it from a backup, or keep what can be kept with `longreach"
                f" corpus repair {self.folder.name}`."
            )
        if self.intent is None:
            return
        gone = []
        for path in self.files:
            if path not in present and self._is_removable(path):
                gone.append(path)
        news = []
        for path in present:
            if path not in self.files or self._is_mutable(path):
                news.append(path)
        self._record(self.intent, news, gone)

    def _find_lost(self, present: dict[str, os.stat_result]) -> Iterator[str]:
        """Yields one sentence for each file that is damaged, without reading all of them.

        Only the newest manifests are read; of the other files, sizes are compared.
        """
        newest = set(find_newest_manifests(self.folder).values())
        for path, recorded in self.files.items():
            if self._is_mutable(path):
                continue
            if path not in present:
                if not self._is_removable(path):
                    yield f"{path} is missing."
                continue
            same = present[path].st_size == recorded.bytes
            if not same or (path in newest and hash_file(self.folder / path) != recorded):
                yield f"{path} is not what was written."

    def _is_mutable(self, path: str) -> bool:
        """Returns whether the writer that was killed may have been changing this file."""
        if self.intent is None:
            return False
        return path.endswith("/" + HINT) or self._is_of_other_work(path)

    def _is_removable(self, path: str) -> bool:
        """Returns whether the writer that was killed may have taken this file away."""
        return self.intent == "compact" or self._is_of_other_work(path)

    def _is_of_other_work(self, path: str) -> bool:
        """Returns whether a file belongs to work outside the database that was under way."""
        outside = not path.startswith(DATABASE + "/") and path != SETTINGS
        return outside and self.intent is not None and self.intent.startswith(CHANGING)

    def _record(self, what: str, news: list[str], gone: list[str]) -> None:
        lines: list[JsonObject] = []
        for path in sorted(news):
            size, digest = hash_file(self.folder / path, sync=True)
            # A file that was touched and has not changed needs no line.
            if self.files.get(path) != (size, digest):
                lines.append({"file": path, "bytes": size, "sha256": digest})
        # A file that is not named on the disk is lost, even if its bytes are there.
        for folder in {(self.folder / path).parent for path in news}:
            sync_folder(folder)
        for path in gone:
            lines.append({"removed": path})
        self._append(*lines, {"done": what})
        self._write_head()

    def rewrite(self, files: Mapping[str, Recorded] | None = None) -> None:
        """Replaces the log by a short one of `files`, by default those it answers for now."""
        kept = dict(self.files if files is None else files)
        entries: list[JsonObject] = [{"head": HEAD}]
        for path, (size, digest) in sorted(kept.items()):
            entries.append({"file": path, "bytes": size, "sha256": digest})
        entries.append({"done": "rewrite"})
        before = self._chain
        self.files = {}
        self.problems = []
        self._chain = ""
        out = self._encode(entries)
        # Either log is right until the new one is there.
        self._write_head(before, self._chain)
        replace_file(self.path, out)
        self._torn = 0
        self._write_head()

    def check(self) -> list[str]:
        """Returns one sentence for each file that is missing, changed or unknown.

        A damaged log gives a sentence, too.
        """
        problems = list(self.problems)
        present = self.list_present()
        for path, recorded in self.files.items():
            if path not in present:
                if not self._is_removable(path):
                    problems.append(f"{path} is missing.")
                continue
            try:
                same = hash_file(self.folder / path) == recorded
            except OSError as error:
                problems.append(f"{path} cannot be read: {error.strerror}.")
                continue
            if not same and not self._is_mutable(path):
                problems.append(f"{path} is not what was written.")
        # While something is being written, there are files that the log does not know yet.
        if self.intent is None and not self.problems:
            for path in present:
                if path not in self.files:
                    problems.append(f"{path} was not written by longreach.")
        return problems


def is_sound(entry: JsonObject) -> bool:
    """Returns whether an entry of a file log has the fields of its kind.

    Its checksum alone is no proof, as it has no key.
    """
    kinds: Kinds = {}
    if "file" in entry:
        kinds = {"file": (str,), "bytes": (int,), "sha256": (str,)}
    elif "removed" in entry:
        kinds = {"removed": (str,)}
    elif "intent" in entry:
        kinds = {"intent": (str,)}
    return misfit(entry, kinds) is None


def _stamp(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def hash_file(path: Path, *, sync: bool = False) -> Recorded:
    """Returns the size and the hash of a file.

    `sync` brings the file to the disk first, because Lance leaves that to the system.
    """
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
        return Recorded(size, hashlib.file_digest(file, "sha256").hexdigest())
