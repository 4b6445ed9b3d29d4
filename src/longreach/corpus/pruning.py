"""Which documents `prune` may remove: those whose files are gone, not those whose disk is away."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from longreach.corpus.documents import Document
from longreach.corpus.documents.base import show_path
from longreach.corpus.documents.names import to_path
from longreach.errors import UsageError
from longreach.wording import counted

_MOST_SHARE = 0.5
"""Of the documents that came from one folder: losing more than this at once is rarely meant."""


@dataclass
class _Origin:
    """A folder that documents came from.

    Attributes:
        gone: The documents whose files are no longer there.
        there: The number of the others.
    """

    gone: list[str] = field(default_factory=list)
    there: int = 0


def find_vanished(
    names: Sequence[str], sources: Sequence[str | Path | Document], *, force: bool = False
) -> list[str]:
    """Returns the documents that came from files at or under `sources` which are no longer there.

    A folder that is itself away says nothing about its files.

    Args:
        names: The documents of the corpus.
        sources: What is being added; texts have no files.
        force: Return them however many they are.

    Raises:
        UsageError: They are most of the documents of a folder, or all files of a folder that is
            still there are gone, as under a disk that is not mounted; unless `force`.
    """
    folders, files = _split(sources)
    places: dict[Path, _Origin] = {}
    for name in names:
        path = to_path(name)
        if not path.is_absolute():
            continue
        root = _find_folder(path, folders)
        if root is None and path not in files:
            continue
        if not is_gone(path):
            places.setdefault(root or path.parent, _Origin()).there += 1
            continue
        # A file that was named itself counts with its neighbors, where its folder is empty or
        # away.
        usual = root or path.parent
        for folder in {usual, _find_emptied(path, root) or usual}:
            places.setdefault(folder, _Origin()).gone.append(name)
    if not force:
        for folder, place in places.items():
            _check(folder, place, named=folder not in folders)
    found: dict[str, None] = {}
    for place in places.values():
        found.update(dict.fromkeys(place.gone))
    return list(found)


def _split(sources: Sequence[str | Path | Document]) -> tuple[list[Path], set[Path]]:
    """Returns the real paths of the folders among the sources, longest first, and the rest."""
    folders = set[Path]()
    files = set[Path]()
    for source in sources:
        if isinstance(source, Document) or "\0" in str(source):
            continue
        try:
            real = Path(os.path.realpath(source))
            is_folder = real.is_dir()
        except (OSError, ValueError):
            # It is longer than a path can be, or in no encoding: it is a text.
            continue
        if is_folder:
            folders.add(real)
        else:
            files.add(real)
    return sorted(folders, key=lambda folder: -len(folder.parts)), files


def _find_folder(path: Path, folders: Sequence[Path]) -> Path | None:
    """Returns the innermost of the folders, which come longest first, that a file lies in."""
    for folder in folders:
        if path.is_relative_to(folder):
            return folder
    return None


def is_gone(path: Path) -> bool:
    """Returns whether a file is no longer there, for certain."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        # It cannot be told, so the document stays.
        return False
    return False


def _find_emptied(path: Path, root: Path | None) -> Path | None:
    """Returns the empty folder above a file that is gone, as where no disk is mounted."""
    for folder in path.parents:
        if folder.is_dir():
            try:
                is_empty = not any(folder.iterdir())
            except OSError:
                is_empty = True
            return folder if is_empty else None
        if folder == root:
            return None
    return None


def _check(folder: Path, place: _Origin, *, named: bool) -> None:
    count = len(place.gone)
    total = count + place.there
    most = count > _MOST_SHARE * total
    # A file or two of those that were named one by one is what was asked for.
    if not most or (named and count == 1):
        return
    documents = counted(total, "document")
    raise UsageError(
        f"--prune would remove {count:,} of the {documents} of {show_path(folder)},"
        " whose files are no longer there: nothing was changed; check that its disk is mounted, or"
        " confirm with --force (force=True)."
    )
