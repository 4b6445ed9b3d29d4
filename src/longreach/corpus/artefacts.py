"""What training puts into a corpus: adapters and the scorecard, which carry their own proof, and
how they get in.

An adapter's folder holds `sha256.json`, the hashes of its files; the scorecard holds its own. Those
of corpora made before there were such hashes are compared with the file log. A new adapter takes
the place of the old one by two renames, which the next writer undoes where a kill came between
them.
"""

import hashlib
import json
import shutil
from pathlib import Path

from longreach.corpus.integrity import CHANGING, LOG, WORK, FileLog, Recorded, file_hash
from longreach.corpus.schema import READER, SCORECARD, sha256
from longreach.errors import CorpusDamaged
from longreach.jsontext import NotJson, parse_object

ADAPTER = "adapter"
SEAL = "sha256.json"
_NEW, _OLD, _OLD_CARD = "new-adapter", "old-adapter", "old-scorecard.json"  # in the work folder


def adapter_folder(corpus: Path) -> Path | None:
    """Returns the folder of the adapter that a corpus is read with; None where it has none.

    Raises:
        CorpusDamaged: its files are not those that were stored.
    """
    places = {corpus / ADAPTER: ADAPTER, corpus / WORK / _OLD: ADAPTER, corpus / READER: READER}
    for folder, name in places.items():
        if folder.is_dir():
            if not is_intact(corpus, folder, name):
                raise CorpusDamaged(
                    f"The adapter in '{folder}' is not what was stored: restore it from a backup,"
                    " or make it again"
                    f" ({'`longreach study`' if name == ADAPTER else 'ingest into a new corpus'})."
                )
            return folder
    return None


def is_intact(
    corpus: Path, folder: Path, name: str, known: dict[str, Recorded] | None = None
) -> bool:
    """Whether the files of an adapter are those that were stored.

    Args:
        corpus: The folder of the corpus.
        folder: Where the adapter lies now.
        name: What it is called in the file log.
        known: What is known of the corpus' files; None asks the file log.
    """
    there = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    if SEAL in there:
        recorded = _sealed(there.pop(SEAL))
    else:
        log = FileLog(corpus)
        if known is None and log.intent is not None and log.intent.startswith(CHANGING):
            # It is being written, or its writer was killed: the next one notes what is there.
            return True
        files = log.files if known is None else known
        recorded = {
            path.removeprefix(f"{name}/"): file
            for path, file in files.items()
            if path.startswith(f"{name}/")
        }
    return recorded is not None and recorded == {
        path: file_hash(file) for path, file in there.items()
    }


def seal(folder: Path) -> None:
    """Notes the hashes of the files of a folder in it."""
    (folder / SEAL).unlink(missing_ok=True)
    files = {
        path.relative_to(folder).as_posix(): file_hash(path)
        for path in folder.rglob("*")
        if path.is_file()
    }
    (folder / SEAL).write_text(_seal_text(files), encoding="utf-8")


def _seal_text(files: dict[str, Recorded]) -> str:
    values = {"files": {path: list(file) for path, file in sorted(files.items())}}
    return json.dumps(values | {"sum": sha256(json.dumps(values).encode())}, indent=1) + "\n"


def _sealed(path: Path) -> dict[str, Recorded] | None:
    try:
        text = path.read_text(encoding="utf-8")
        found = {name: Recorded(*file) for name, file in parse_object(text)["files"].items()}
        return found if text == _seal_text(found) else None
    except (NotJson, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return None


def scorecard_is_intact(corpus: Path, raw: bytes, known: dict[str, Recorded] | None = None) -> bool:
    """Whether the bytes of a scorecard are those that were stored; see `is_intact`."""
    try:
        values = parse_object(raw)
    except NotJson:
        return False
    told = values.pop("sha256", None)
    if told is not None:
        return bool(told == scorecard_sum(values))
    if known is None and not (corpus / LOG).exists():
        return True  # a scorecard outside of a corpus
    log = FileLog(corpus)
    if known is None and log.intent is not None and log.intent.startswith(CHANGING):
        return True
    files = log.files if known is None else known
    return files.get(SCORECARD) == Recorded(len(raw), hashlib.sha256(raw).hexdigest())


def scorecard_sum(values: dict[str, object]) -> str:
    """Returns the checksum of a scorecard's values."""
    return sha256(json.dumps(values, sort_keys=True).encode())


def swap_in(corpus: Path, made: Path) -> Path:
    """Puts an adapter into the place of an earlier one, whose scorecard goes with it. The caller
    holds the lock."""
    new, work = corpus / WORK / _NEW, corpus / WORK
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(made, new)
    seal(new)
    if (corpus / ADAPTER).exists():
        (corpus / ADAPTER).rename(work / _OLD)
    if (corpus / SCORECARD).exists():
        (corpus / SCORECARD).rename(work / _OLD_CARD)
    new.rename(corpus / ADAPTER)
    put_back(corpus)
    return corpus / ADAPTER


def swap_out(corpus: Path) -> None:
    """Takes the adapter that was trained for a corpus out of it, and its scorecard. The caller
    holds the lock.

    Killed before the end, the next writer puts both back.
    """
    work = corpus / WORK
    shutil.rmtree(work / _OLD, ignore_errors=True)
    if (corpus / SCORECARD).exists():
        (corpus / SCORECARD).rename(work / _OLD_CARD)
    if (corpus / ADAPTER).exists():
        (corpus / ADAPTER).rename(work / _OLD)
    shutil.rmtree(work / _OLD, ignore_errors=True)
    (work / _OLD_CARD).unlink(missing_ok=True)


def put_back(corpus: Path) -> None:
    """Ends a swap that a kill cut short; undoes it where the new adapter is not there. The caller
    holds the lock."""
    old, card = corpus / WORK / _OLD, corpus / WORK / _OLD_CARD
    if not (corpus / ADAPTER).exists():
        if old.exists():
            old.rename(corpus / ADAPTER)
        if card.exists() and not (corpus / SCORECARD).exists():
            card.rename(corpus / SCORECARD)
    shutil.rmtree(old, ignore_errors=True)
    card.unlink(missing_ok=True)
