"""Files, folders and texts in, documents out.

What cannot be read is named, with one sentence that says why and what to do, and the rest goes on.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from longreach.corpus.documents.base import shown
from longreach.corpus.documents.convert import SUFFIXES, read
from longreach.corpus.documents.encoding import encodable
from longreach.errors import DocumentError, UsageError


@dataclass(frozen=True)
class Document:
    """A text and the name it goes by.

    Attributes:
        name: Unique within a corpus: the absolute, resolved posix path of a file, or a name the caller chose.
        text: The text itself.
        notes: One sentence for each part of the file that could not be read.
    """

    name: str
    text: str
    notes: tuple[str, ...] = ()


class Skipped(NamedTuple):
    """What was not read, and the one sentence that says why and what to do."""

    name: str
    reason: str


def find(sources: Sequence[str | Path | Document]) -> list[Path | Document | Skipped]:
    """Say what `sources` stand for, without reading any file.

    A folder stands for the files in it and below, sorted, without hidden ones and without following links to folders.
    A str is the path that exists, else a mistyped path if it looks like one, else a text. Nothing comes twice.

    Args:
        sources: Paths, texts and documents; one alone need not be in a list.

    Raises:
        UsageError: A source is none of these.
    """
    listed: Sequence[Any] = [sources] if isinstance(sources, (str, Path, Document)) else sources
    found: dict[str, Path | Document | Skipped] = {}
    for item in (item for source in listed for item in _expand(source)):
        key = os.path.realpath(item) if isinstance(item, Path) else item.name
        first = found.setdefault(key, item)
        if isinstance(first, Skipped) and not isinstance(item, Skipped):  # left out of a folder, then named itself
            found[key] = item
        elif isinstance(item, Document) and item != first:
            reason = f"{item.name} is already the name of another document: give this one its own name."
            found[f"{key}\0{len(found)}"] = Skipped(item.name, reason)
        elif isinstance(item, Path) and isinstance(first, Document):
            reason = f"{key} is already the name of another document: give that one its own name."
            found[f"{key}\0{len(found)}"] = Skipped(key, reason)
    return list(found.values())


def read_all(sources: Sequence[str | Path | Document]) -> Iterator[Document | Skipped]:
    """Read what `sources` stand for, one at a time, in the order of `find`; what cannot be read comes as Skipped."""
    for item in find(sources):
        if not isinstance(item, Path):
            yield item
            continue
        try:
            text, notes = read(item)
            yield Document(item.as_posix(), text, notes)
        except DocumentError as error:
            yield Skipped(shown(item), str(error))


def _expand(source: str | Path | Document) -> Iterator[Path | Document | Skipped]:
    if isinstance(source, str):
        if _exists(source):
            source = Path(source)
        elif re.match(r"https?://\S+$", source):
            yield Skipped(source, f"{source} is a web address and nothing is fetched: download it and name the file.")
            return
        elif _looks_like_path(source):
            reason = "does not exist: check the path, or wrap it in a Document if it is itself the text."
            yield Skipped(shown(source), f"{shown(source)} {reason}")
            return
        else:
            digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
            source = Document(f"text-{digest[:12]}", source)
    if isinstance(source, Document):
        if not source.text.strip():
            yield Skipped(source.name, f"{source.name} is empty, it holds no text: give it content or leave it out.")
        elif not encodable(source.name + source.text):
            reason = "holds half characters (lone surrogates): decode it from its bytes again."
            yield Skipped(shown(source.name), f"{shown(source.name)} {reason}")
        else:
            yield source
    elif not isinstance(source, Path):
        raise UsageError(f"a source is a path, a text or a Document, not {type(source).__name__}: convert it first.")
    else:
        try:
            yield from _walk(source) if source.is_dir() else [_named(source)]
        except (OSError, ValueError) as error:
            yield Skipped(shown(source), f"{shown(source)} cannot be reached ({error}): check the path.")


def _walk(folder: Path) -> Iterator[Path | Skipped]:
    refused: list[OSError] = []
    empty = True
    for top, folders, files in os.walk(os.path.realpath(folder), onerror=refused.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(top, name) for name in sorted(files) if not name.startswith(".")):
            empty = False
            if path.suffix.lower() in SUFFIXES:
                yield _named(path)
            else:
                kind = f"of a kind ({path.suffix}) that is not read" if path.suffix else "without a suffix"
                yield Skipped(shown(path), f"{shown(path)} is {kind}: name the file itself to try it as plain text.")
        for link in (path for path in (Path(top, name) for name in folders) if path.is_symlink()):
            empty = False
            yield Skipped(shown(link), f"{shown(link)} is a link to a folder, not followed: name the folder itself.")
    for error in refused:
        name = shown(error.filename)
        yield Skipped(name, f"{name} may not be listed ({error.strerror}): ask for permission, or leave it out.")
    if empty and not refused:
        yield Skipped(shown(folder), f"{shown(folder)} holds no files: check the folder.")


def _named(path: Path) -> Path | Skipped:
    real = Path(os.path.realpath(path))
    if real.suffix.lower() != path.suffix.lower():  # paper.pdf -> blobs/3f2a: only the link's name tells the format
        real = Path(os.path.realpath(path.parent), path.name)
    if not encodable(str(real)):
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
    if max(len(os.fsencode(part)) for part in re.split(r"[/\\]", text)) > 255:  # longer than a file's name can be
        return False
    if Path(text).suffix.lower() in SUFFIXES:
        return True
    return not re.search(r"\s", text) and bool(re.search(r"[/\\]|[^.]\.[A-Za-z0-9]{1,8}$", text))
