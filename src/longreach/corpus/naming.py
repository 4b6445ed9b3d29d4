"""Which document of a corpus is meant by what a person writes."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePath

from longreach.corpus.documents.names import to_name, to_path
from longreach.errors import UsageError

_MOST_NAMED = 3


def find_fitting(given: str, documents: Sequence[str]) -> list[str]:
    """Returns the documents that `given` may stand for; one alone means that it is clear.

    A document is named by its whole name, by a path to its file from the current folder, or by the
    end of its path, with or without the suffix. Each of these comes before the next.
    """
    names = {document: _normalize(document) for document in documents}
    wanted = [given, *_list_paths(given)]
    for name in wanted:
        if name in names:
            return [name]
    # macOS decomposes the letters of file names, people write composed ones.
    for name in map(_normalize, wanted):
        found = [document for document in names if names[document] == name]
        if found:
            return found
    end = PurePath(_normalize(given)).parts
    if not end:
        return []
    whole = []
    without_suffix = []
    for document, name in names.items():
        path = PurePath(name)
        if path.parts[-len(end) :] == end:
            whole.append(document)
        elif (*path.parts[:-1], path.stem)[-len(end) :] == end:
            without_suffix.append(document)
    return whole or without_suffix


def resolve(given: str, documents: Sequence[str], corpus: str) -> str:
    """Returns the name of the one document that is meant; see `find_fitting`.

    Raises:
        UsageError: There is none, or more than one.
    """
    found = find_fitting(given, documents)
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(map(repr, found[:_MOST_NAMED]))
        if len(found) > _MOST_NAMED:
            listed += f" or {len(found) - _MOST_NAMED} more"
        raise UsageError(f"{given!r} may be {listed} of corpus {corpus!r}: write more of its path.")
    raise UsageError(
        f"Corpus {corpus!r} has no document {given!r}: `longreach corpus show {corpus}` lists them."
    )


def _normalize(name: str) -> str:
    """Returns a name as people compare it: composed and decomposed letters are the same."""
    return unicodedata.normalize("NFC", name)


def _list_paths(given: str) -> list[str]:
    """Returns the names that the file at a path would have: the link, and where it leads."""
    if not given:
        return []
    try:
        path = to_path(given)
        return [
            to_name(Path(os.path.realpath(path))),
            to_name(Path(os.path.realpath(path.parent), path.name)),
        ]
    except (OSError, ValueError):
        # No path can be written like this: it holds a NUL or half a character.
        return []
