"""What a study replaced, kept so that `study --undo` can take it back.

The folder <corpus>/study/before/N holds adapter/ and scorecard.json as they were before study N, as
far as there were some, and whole.json, the hashes of both. That one is written last: a folder
without it was not finished.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from longreach.corpus.artefacts import ADAPTER, Artefacts
from longreach.corpus.head import replace_file
from longreach.corpus.schema import SCORECARD
from longreach.errors import CorpusDamaged, UsageError
from longreach.jsontext import NotJson, parse_object

if TYPE_CHECKING:
    from longreach.corpus.store import Corpus

_BEFORE = "before"
_WHOLE = "whole.json"
_MOST = 5  # states that are kept; older ones go


class Undone(NamedTuple):
    """What a corpus is read with after a study was taken back.

    Attributes:
        adapter: Folder of its adapter; None where it has none.
        scorecard: Whether there is a scorecard that says which policy to read by; else it is the
            default one.
    """

    adapter: Path | None
    scorecard: bool


def keep_state(artefacts: Artefacts) -> None:
    """Keeps the adapter and the scorecard that a corpus has now.

    The caller holds the lock of writers. A scorecard that is missing although something was kept
    before belongs to a study that was stopped between its two changes: what that one replaced is
    kept already.
    """
    entries = _entries(artefacts.work_path)
    if entries and not artefacts.has(SCORECARD):
        return
    number = 1
    if entries:
        number = _number(entries[-1]) + 1
    place = artefacts.work_path / _BEFORE / str(number)
    # A process that was killed before it wrote the hashes left a part under this number.
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    artefacts.copy(ADAPTER, place / ADAPTER)
    artefacts.copy(SCORECARD, place / SCORECARD)
    replace_file(place / _WHOLE, json.dumps(_hashes(place)).encode())
    # The state that was just written counts as one of those kept.
    for old in entries[: max(0, len(entries) + 1 - _MOST)]:
        shutil.rmtree(old, ignore_errors=True)


def last_kept(corpus: Corpus) -> int:
    """Returns the number of the state that was kept last; 0 where there is none."""
    entries = _entries(corpus.work_path)
    return _number(entries[-1]) if entries else 0


def undo(corpus: Corpus) -> Undone:
    """Gives a corpus the adapter and the policy back that it had before its last study.

    Killed anywhere, the corpus has one adapter or the other, and the same call completes it. The
    caller is the only one that studies the corpus: see `folder.working`.

    Raises:
        UsageError: There is no study to take back.
        CorpusDamaged: What was kept is not what was there.
        CorpusBusy: Another process writes.
    """
    entries = _entries(corpus.work_path)
    if not entries:
        raise UsageError(
            f"Corpus '{corpus.name}' has no study that could be undone: run `longreach study`"
            " first."
        )
    entry = entries[-1]
    # Checked before the corpus changes: damaged files must not take the place of whole ones.
    _check(entry)
    with corpus.changing("undo") as artefacts:
        if (entry / ADAPTER).is_dir():
            artefacts.put(ADAPTER, entry / ADAPTER)
        else:
            # Before that study the corpus answered without an adapter.
            artefacts.remove(ADAPTER)
        if (entry / SCORECARD).exists():
            artefacts.put(SCORECARD, entry / SCORECARD)
        # What was kept goes last: until then the same call does all of this once more.
        (entry / _WHOLE).unlink()
    shutil.rmtree(entry, ignore_errors=True)
    return Undone(corpus.adapter_path, corpus.artefacts.has(SCORECARD))


def _entries(work: Path) -> list[Path]:
    """Returns the states that were kept whole, the oldest first."""
    found = []
    for path in (work / _BEFORE).glob(f"*/{_WHOLE}"):
        if path.parent.name.isdecimal():
            found.append(path.parent)
    return sorted(found, key=_number)


def _number(entry: Path) -> int:
    return int(entry.name)


def _hashes(entry: Path) -> dict[str, str]:
    found = {}
    for path in sorted(entry.rglob("*")):
        if path.is_file() and path.name != _WHOLE:
            name = path.relative_to(entry).as_posix()
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _check(entry: Path) -> None:
    try:
        told = parse_object((entry / _WHOLE).read_bytes())
    except NotJson:
        told = {}
    if told != _hashes(entry):
        raise CorpusDamaged(
            f"What the last study replaced, kept in '{entry}', is damaged: delete that folder, and"
            " study again."
        )
