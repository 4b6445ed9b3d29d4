"""Files, folders and texts in, documents out.

What cannot be read is named, with one sentence that says why and what to do, and the rest is read.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from longreach.corpus.documents import apart
from longreach.corpus.documents.base import show_path
from longreach.corpus.documents.convert import read
from longreach.corpus.documents.encodings.decode import is_encodable
from longreach.corpus.documents.folders import (
    Selection,
    Skipped,
    count_kinds,
    explain_link,
    list_files,
)
from longreach.corpus.documents.formats import list_suffixes
from longreach.corpus.documents.limits import Limits
from longreach.corpus.documents.names import to_name
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
    listed = [sources] if isinstance(sources, (str, Path, Document)) else sources
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
        # The caller may have looked at what it found.
        found = sources if isinstance(sources, Found) else find(sources)
        for item in found:
            if not isinstance(item, Path):
                yield item
                continue
            try:
                text, notes = read(item, limits)
                yield Document(to_name(item), text, notes)
            except DocumentError as error:
                yield Skipped(show_path(item), str(error))
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
        # By the real path, so that two links to a file are one document.
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
            yield _resolve(path)
        yield from listing.skipped
        if listing.is_empty:
            name = show_path(folder)
            yield Skipped(name, f"{name} holds no files: check the folder.")
        for path in listing.unread:
            self._unread[os.path.realpath(path)] = path
        for path in listing.links:
            self._links[str(path)] = path
        self._folders |= listing.folders

    def finish(self) -> Found:
        for link in self._links.values():
            target = os.path.realpath(link)
            # What a link leads to may be read all the same: then nothing is missing.
            if target not in self._folders and target not in self._found:
                self.take(explain_link(link))
        # Some were named themselves, and are read as plain text.
        unread = [path for real, path in self._unread.items() if real not in self._found]
        return Found(self._found.values(), count_kinds(unread))


def _expand(source: object, finder: _Finder) -> Iterator[Path | Document | Skipped]:
    """Yields the files and documents that one source stands for."""
    if isinstance(source, str):
        yield from _expand_text(source, finder)
    elif isinstance(source, Document):
        yield _check(source)
    elif isinstance(source, Path):
        yield from _expand_path(source, finder)
    else:
        raise UsageError(
            f"a source is a path, a text or a Document, not {type(source).__name__}: convert it"
            " first."
        )


def _expand_text(source: str, finder: _Finder) -> Iterator[Path | Document | Skipped]:
    if _exists(source):
        yield from _expand_path(Path(source), finder)
    elif re.match(r"https?://\S+$", source):
        yield Skipped(
            source,
            f"{source} is a web address and nothing is fetched: download it and name the file.",
        )
    elif _looks_like_path(source):
        name = show_path(source)
        reason = "check the path, or wrap it in a Document if it is itself the text."
        yield Skipped(name, f"{name} does not exist: {reason}")
    else:
        # The same text has the same name, whoever adds it again.
        digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        yield _check(Document(f"text-{digest[:12]}", source))


def _expand_path(path: Path, finder: _Finder) -> Iterator[Path | Document | Skipped]:
    try:
        if path.is_dir():
            yield from finder.look_into(path)
        else:
            yield _resolve(path)
    except (OSError, ValueError) as error:
        name = show_path(path)
        yield Skipped(name, f"{name} cannot be reached ({error}): check the path.")


def _check(document: Document) -> Document | Skipped:
    name = document.name
    if not document.text.strip():
        return Skipped(name, f"{name} is empty, it holds no text: give it content, or omit it.")
    if not is_encodable(name + document.text):
        name = show_path(name)
        reason = "holds half characters (lone surrogates): decode it from its bytes again."
        return Skipped(name, f"{name} {reason}")
    return document


def _resolve(path: Path) -> Path | Skipped:
    """Returns where a path leads to, unless its name cannot be that of a document."""
    real = Path(os.path.realpath(path))
    # paper.pdf -> blobs/3f2a: only the link's name tells the format.
    if real.suffix.lower() != path.suffix.lower():
        real = Path(os.path.realpath(path.parent), path.name)
    if not is_encodable(to_name(real)):
        name = show_path(real)
        return Skipped(name, f"{name} has a name that is not valid text: rename it.")
    return real


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).exists()
    except PermissionError:
        return True
    except (OSError, ValueError):
        # It is too long for a path, or holds a NUL.
        return False


def _looks_like_path(text: str) -> bool:
    if not 0 < len(text) < 4096 or len(text.splitlines()) > 1 or not text.isprintable():
        return False
    parts = re.split(r"[/\\]", text)
    # Longer than a file's name can be.
    if max(len(os.fsencode(part)) for part in parts) > 255:
        return False
    # It may hold blanks, as file names do.
    if Path(text).suffix.lower() in list_suffixes():
        return True
    return not re.search(r"\s", text) and bool(re.search(r"[/\\]|[^.]\.[A-Za-z0-9]{1,8}$", text))
