"""Which files a folder stands for."""

import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from longreach.corpus.documents.base import show_path
from longreach.errors import UsageError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

# What programs and systems leave behind. Names that begin with a dot are omitted anyway.
_LITTER = re.compile(
    r"~\$.*|~.*\.tmp|.*~|#.*#|thumbs\.db|ehthumbs(_vista)?\.db|desktop\.ini|icon\r|.*\.(tmp|temp|swp|crdownload|part)",
    re.IGNORECASE | re.DOTALL,
)
_LITTER_FOLDERS = frozenset(
    {"__macosx", "$recycle.bin", "system volume information", "@eadir", "lost+found"}
)


class Skipped(NamedTuple):
    """What was not read, and the one sentence that says why and what to do."""

    name: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """Which files in folders are meant; files that are named themselves are always read.

    A pattern is one of gitignore: without a slash in it, it is about the name of a file or of a
    folder at any depth (`*.pdf`, `drafts`); with a slash, about the path from the folder that was
    named (`2024/*.txt`, `**/old/*.md`, `/notes.md`). Upper and lower case differ. A folder that
    matches stands for all that is in it.

    Attributes:
        include: Only files that match one of these; without any, all files.
        exclude: No files that match one of these. A pattern after `!` takes back what an earlier
            one excluded.
        follow_links: Follow links to folders, and to files outside the folder that was named.

    Raises:
        UsageError: A pattern matches nothing or cannot be read.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_links: bool = False

    def __post_init__(self) -> None:
        # Now, and not when the first folder is read; a str would be taken for patterns of one
        # letter.
        for patterns in (self.include, self.exclude):
            if not isinstance(patterns, tuple):
                raise UsageError(f"Patterns are {patterns!r}: give a list of strings.")
        # Reading the patterns raises for wrong ones.
        if self.include or self.exclude:
            assert self._included is not None and self._excluded is not None

    @classmethod
    def of(
        cls, include: Sequence[str] = (), exclude: Sequence[str] = (), follow_links: bool = False
    ) -> "Selection":
        """Returns a selection by patterns in lists, or by one pattern that is not in a list."""
        if isinstance(include, str):
            include = [include]
        if isinstance(exclude, str):
            exclude = [exclude]
        return cls(tuple(include), tuple(exclude), follow_links)

    def takes(self, relative: str) -> bool:
        """Returns whether a file is meant.

        It is named by its path from the folder that was named, with slashes.
        """
        if self.include and not self._included.match_file(relative):
            return False
        return not (self.exclude and self._excluded.match_file(relative))

    @cached_property
    def _included(self) -> "GitIgnoreSpec":
        return _parse_patterns(self.include)

    @cached_property
    def _excluded(self) -> "GitIgnoreSpec":
        return _parse_patterns(self.exclude)


def _parse_patterns(patterns: tuple[str, ...]) -> "GitIgnoreSpec":
    from pathspec import GitIgnoreSpec

    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern.strip() or pattern.startswith("#"):
            raise UsageError(
                f"The pattern {pattern!r} matches nothing: give one such as '*.pdf' or 'drafts/'."
            )
    try:
        return GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise UsageError(
            f"The patterns {', '.join(patterns)} cannot be read ({error}): correct them."
        ) from error


@dataclass
class Listing:
    """What is in a folder and below.

    Attributes:
        files: Files of kinds that are read; links to files that are followed come last.
        unread: Files of other kinds.
        links: Links that were not followed.
        folders: The real paths of the folders that were looked into.
        skipped: Folders that may not be listed.
        is_empty: Whether there was nothing to choose from: no file and no link, or only hidden ones
            and litter.
    """

    files: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    skipped: list[Skipped] = field(default_factory=list)
    is_empty: bool = True


def list_files(folder: str | Path, suffixes: Collection[str], selection: Selection) -> Listing:
    """Lists the files in a folder and below, sorted, without hidden ones and litter.

    Args:
        folder: The folder; it may itself be a link.
        suffixes: In lower case, of the kinds that are read.
        selection: Which of them are meant.
    """
    # Whether a link leads out of the folder is told by real paths.
    root = os.path.realpath(folder)
    listing = Listing()
    # After the others: a file that is there itself comes before links to it.
    followed = list[Path]()
    walk = os.walk(root, onerror=_make_noter(listing), followlinks=selection.follow_links)
    for top, folders, files in walk:
        real = os.path.realpath(top)
        if real in listing.folders:
            # A link that leads back, or to where another one leads.
            folders.clear()
            continue
        listing.folders.add(real)
        folders[:] = sorted(filter(_is_meant, folders))
        for name in sorted(files):
            path = Path(top, name)
            if _is_hidden(name) or _LITTER.fullmatch(name):
                continue
            listing.is_empty = False
            if not selection.takes(_make_relative(path, root)):
                continue
            if path.suffix.lower() not in suffixes:
                listing.unread.append(path)
            elif not path.is_symlink():
                listing.files.append(path)
            elif selection.follow_links or _is_inside(path, root):
                followed.append(path)
            else:
                listing.links.append(path)
        if not selection.follow_links:
            _note_links(listing, [Path(top, name) for name in folders], root, selection)
    listing.files += followed
    return listing


def _make_noter(listing: Listing) -> Callable[[OSError], None]:
    """Returns what notes a folder that may not be listed."""

    def note(error: OSError) -> None:
        listing.is_empty = False
        name = show_path(error.filename)
        reason = f"{name} may not be listed ({error.strerror}): ask for permission, or omit it."
        listing.skipped.append(Skipped(name, reason))

    return note


def _note_links(listing: Listing, folders: list[Path], root: str, selection: Selection) -> None:
    for path in folders:
        if path.is_symlink():
            listing.is_empty = False
            if not selection.exclude or selection.takes(_make_relative(path, root)):
                listing.links.append(path)


def _is_meant(folder: str) -> bool:
    return not _is_hidden(folder) and folder.lower() not in _LITTER_FOLDERS


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _make_relative(path: Path, root: str) -> str:
    return path.relative_to(root).as_posix()


def _is_inside(link: Path, root: str) -> bool:
    """Returns whether a link leads to a file below `root`."""
    try:
        real = link.resolve(strict=True)
    except (OSError, RuntimeError):
        # It leads nowhere, or in circles.
        return False
    return real.is_file() and real.is_relative_to(root)


def explain_link(link: Path) -> Skipped:
    """Says of a link that was not followed what to do to have it read."""
    name = show_path(link)
    try:
        link.stat()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        return Skipped(name, f"{name} is a link that leads nowhere ({why}): check the path.")
    kind = "a file outside the folder"
    if link.is_dir():
        kind = "a folder"
    return Skipped(
        name,
        f"{name} is a link to {kind}, not followed: allow it with --follow-links, or name the"
        " target.",
    )


def count_kinds(unread: Collection[Path]) -> dict[str, int]:
    """Counts files by their suffix in lower case, the most frequent first.

    Files without a suffix are counted under "".
    """
    counts: dict[str, int] = {}
    for path in unread:
        suffix = show_path(path.suffix.lower())
        counts[suffix] = counts.get(suffix, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
