"""Which document of a corpus is meant by what a person writes."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePath

from longreach.corpus.documents.names import to_name, to_path
from longreach.errors import UsageError

_MOST_NAMED = 3


def fitting(given: str, documents: Sequence[str]) -> list[str]:
    """Returns the documents that `given` may stand for; one alone means that it is clear.

    A document is named by its whole name, by a path to its file from the current folder, or by the
    end of its path, with or without the suffix. Each of these comes before the next.
    """
    plain = _plain(given)
    names = {document: _plain(document) for document in documents}
    for wanted in (given, *_paths(given)):
        if wanted in names:
            return [wanted]
    for wanted in (plain, *map(_plain, _paths(given))):
        found = [document for document, name in names.items() if name == wanted]
        if found:
            return found
    end = PurePath(plain).parts
    if not end:
        return []
    paths = {document: PurePath(name) for document, name in names.items()}
    found = [document for document, path in paths.items() if path.parts[-len(end) :] == end]
    if found:
        return found
    return [
        document
        for document, path in paths.items()
        if (*path.parts[:-1], path.stem)[-len(end) :] == end
    ]


def resolve(given: str, documents: Sequence[str], corpus: str) -> str:
    """Returns the name of the one document that is meant; see `fitting`.

    Raises:
        UsageError: there is none, or more than one.
    """
    found = fitting(given, documents)
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(repr(document) for document in found[:_MOST_NAMED])
        more = f" or {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        raise UsageError(
            f"{given!r} may be {listed}{more} of corpus {corpus!r}: write more of its path."
        )
    raise UsageError(
        f"Corpus {corpus!r} has no document {given!r}: `longreach corpus show {corpus}` lists them."
    )


def _plain(name: str) -> str:
    """Returns a name as people compare it: composed and decomposed letters are the same."""
    return unicodedata.normalize("NFC", name)


def _paths(given: str) -> list[str]:
    """Returns the names that the file at a path would have: the link, and where it leads."""
    if not given:
        return []
    try:
        path = to_path(given)
        return [
            to_name(Path(os.path.realpath(path))),
            to_name(Path(os.path.realpath(path.parent), path.name)),
        ]
    except (OSError, ValueError):  # no path can be written so: it holds a NUL or half a character
        return []
