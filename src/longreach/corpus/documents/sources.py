"""Files, folders and texts in, documents out.

What cannot be read is named, with one sentence that says why and what to do, and the rest is read.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longreach.corpus.documents import apart
from longreach.corpus.documents.base import shown
from longreach.corpus.documents.convert import read
from longreach.corpus.documents.encodings.decode import encodable
from longreach.corpus.documents.folders import (
    Selection,
    Skipped,
    count_kinds,
    explain_link,
    list_files,
)
from longreach.corpus.documents.formats import list_suffixes
from longreach.corpus.documents.limits import Limits
from longreach.corpus.documents.names import name_of
from longreach.errors import DocumentError, UsageError


@dataclass(frozen=True)
class Document:
    """A text and the name it goes by.

    Attributes:
        name: Unique within a corpus: the absolute, resolved posix path of a file, or a name the
            caller chose.
        text: The text itself.
        notes: One sentence for each part of the file that could not be read.
    """

    name: str
    text: str
    notes: tuple[str, ...] = ()


class Found(list["Path | Document | Skipped"]):
    """What sources stand for, in order.

    Attributes:
        unread: How many files in folders are of kinds that are not read, by suffix in lower case
            ("" for none).
    """

    def __init__(
        self,
        items: "Iterable[Path | Document | Skipped]" = (),
        unread: dict[str, int] | None = None,
    ) -> None:
        super().__init__(items)
        self.unread = unread or {}


def find(sources: "Sequence[str | Path | Document]", selection: Selection | None = None) -> Found:
    """Says what `sources` stand for, without reading any file.

    A folder stands for the files in it and below whose kind is read, sorted; see `Selection`.
    Hidden files and what programs leave behind (`~$lease.docx`, `Thumbs.db`) are omitted. A link in
    it is followed to a file of the same folder, and no further. A str is the path that exists, else
    a mistyped path if it looks like one, else a text. Nothing comes twice.

    Args:
        sources: Paths, texts and documents; one alone need not be in a list.
        selection: Which files of folders are meant; None for all.

    Raises:
        UsageError: A source is none of these.
    """
    finder = _Finder(selection or Selection())
    listed: Sequence[Any] = [sources] if isinstance(sources, (str, Path, Document)) else sources
    for source in listed:
        for item in _expand(source, finder):
            finder.take(item)
    return finder.finish()


def read_all(
    sources: "Found | Sequence[str | Path | Document]", limits: Limits | None = None
) -> Iterator[Document | Skipped]:
    """Reads what `sources` stand for, one at a time, in the order of `find`.

    What cannot be read comes as `Skipped`.

    Args:
        sources: As for `find`, or what it returned.
        limits: What one file may cost; None for the defaults.
    """
    try:
        for item in sources if isinstance(sources, Found) else find(sources):
            if not isinstance(item, Path):
                yield item
                continue
            try:
                text, notes = read(item, limits)
                yield Document(name_of(item), text, notes)
            except DocumentError as error:
                yield Skipped(shown(item), str(error))
    finally:
        apart.close()


class _Finder:
    """Collects what sources stand for, each thing once."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._found: dict[str, Path | Document | Skipped] = {}
        self._unread: dict[str, Path] = {}
        self._links: dict[str, Path] = {}
        self._folders = set[str]()

    def take(self, item: Path | Document | Skipped) -> None:
        key = os.path.realpath(item) if isinstance(item, Path) else item.name
        first = self._found.setdefault(key, item)
        # Refused in a folder, then named itself.
        if isinstance(first, Skipped) and not isinstance(item, Skipped):
            self._found[key] = item
        elif isinstance(item, Document) and item != first:
            reason = (
                f"{item.name} is already the name of another document: give this one its own name."
            )
            self._found[f"{key}\0{len(self._found)}"] = Skipped(item.name, reason)
        elif isinstance(item, Path) and isinstance(first, Document):
            reason = f"{key} is already the name of another document: give that one its own name."
            self._found[f"{key}\0{len(self._found)}"] = Skipped(key, reason)

    def look_into(self, folder: Path) -> Iterator[Path | Skipped]:
        listing = list_files(folder, list_suffixes(), self._selection)
        for path in listing.files:
            yield _named(path)
        yield from listing.skipped
        if listing.is_empty:
            yield Skipped(shown(folder), f"{shown(folder)} holds no files: check the folder.")
        self._unread.update((os.path.realpath(path), path) for path in listing.unread)
        self._links.update((str(path), path) for path in listing.links)
        self._folders |= listing.folders

    def finish(self) -> Found:
        for link in self._links.values():
            target = os.path.realpath(link)
            # What a link leads to may be read all the same: then nothing is missing.
            if target not in self._folders and target not in self._found:
                self.take(explain_link(link))
        unread = [path for real, path in self._unread.items() if real not in self._found]
        return Found(self._found.values(), count_kinds(unread))


def _expand(source: str | Path | Document, finder: _Finder) -> Iterator[Path | Document | Skipped]:
    if isinstance(source, str):
        if _exists(source):
            source = Path(source)
        elif re.match(r"https?://\S+$", source):
            yield Skipped(
                source,
                f"{source} is a web address and nothing is fetched: download it and name the file.",
            )
            return
        elif _looks_like_path(source):
            reason = (
                "does not exist: check the path, or wrap it in a Document if it is itself the text."
            )
            yield Skipped(shown(source), f"{shown(source)} {reason}")
            return
        else:
            digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
            source = Document(f"text-{digest[:12]}", source)
    if isinstance(source, Document):
        if not source.text.strip():
            yield Skipped(
                source.name,
                f"{source.name} is empty, it holds no text: give it content, or omit it.",
            )
        elif not encodable(source.name + source.text):
            reason = "holds half characters (lone surrogates): decode it from its bytes again."
            yield Skipped(shown(source.name), f"{shown(source.name)} {reason}")
        else:
            yield source
    elif not isinstance(source, Path):
        raise UsageError(
            f"a source is a path, a text or a Document, not {type(source).__name__}: convert it"
            " first."
        )
    else:
        try:
            yield from finder.look_into(source) if source.is_dir() else [_named(source)]
        except (OSError, ValueError) as error:
            yield Skipped(
                shown(source), f"{shown(source)} cannot be reached ({error}): check the path."
            )


def _named(path: Path) -> Path | Skipped:
    real = Path(os.path.realpath(path))
    # paper.pdf -> blobs/3f2a: only the link's name tells the format.
    if real.suffix.lower() != path.suffix.lower():
        real = Path(os.path.realpath(path.parent), path.name)
    if not encodable(name_of(real)):
        return Skipped(shown(real), f"{shown(real)} has a name that is not valid text: rename it.")
    return real


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).exists()
    except PermissionError:
        return True
    except (OSError, ValueError):  # too long for a path, or it holds a NUL
        return False


def _looks_like_path(text: str) -> bool:
    if not 0 < len(text) < 4096 or len(text.splitlines()) > 1 or not text.isprintable():
        return False
    # Longer than a file's name can be.
    if max(len(os.fsencode(part)) for part in re.split(r"[/\\]", text)) > 255:
        return False
    if Path(text).suffix.lower() in list_suffixes():
        return True
    return not re.search(r"\s", text) and bool(re.search(r"[/\\]|[^.]\.[A-Za-z0-9]{1,8}$", text))
