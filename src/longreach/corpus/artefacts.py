"""What training keeps with a corpus: an adapter and a scorecard, beside the compressor's adapter.

An adapter's folder holds `sha256.json`, the hashes of its files; the scorecard holds its own. Those
of corpora made before there were such hashes are compared with the file log. A new adapter takes
the place of the old one by two renames, which the next writer undoes if the process was killed
between them.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from longreach.corpus.head import replace_file
from longreach.corpus.integrity import CHANGING, LOG, WORK, FileLog, Recorded, hash_file
from longreach.corpus.schema import READER, SCORECARD, sha256
from longreach.errors import CorpusDamaged
from longreach.jsontext import JsonObject, NotJson, parse_object, read_field

ADAPTER = "adapter"
SEAL = "sha256.json"
# In the work folder, while an adapter is replaced.
_NEW = "new-adapter"
_OLD = "old-adapter"
_OLD_CARD = "old-scorecard.json"


class Artefacts:
    """The artefacts of a corpus by name: `ADAPTER`, `READER` and `SCORECARD`.

    Reading takes no lock. Changes are made with the object that `Corpus.changing` yields.

    Args:
        corpus: The folder of the corpus.
        writable: Whether the caller holds the writers' lock, and so may change something.
    """

    def __init__(self, corpus: Path, *, writable: bool = False) -> None:
        self._corpus = corpus
        self._writable = writable

    @property
    def work_path(self) -> Path:
        """The folder for training under way; see `Corpus.work_path`."""
        return self._corpus / WORK

    def has(self, name: str) -> bool:
        """Returns whether there is such an artefact, intact or not."""
        return (self._corpus / name).exists()

    def get(self, name: str) -> Path | None:
        """Returns the folder of an adapter; None if there is none.

        Args:
            name: `ADAPTER`, which was trained for this corpus, or `READER`, which came with its
                compressor.

        Raises:
            CorpusDamaged: Its files are not those that were stored.
        """
        places = [self._corpus / name]
        if name == ADAPTER:
            # A writer that was killed moved it there; the next one puts it back. One that is at
            # work may have put a new one into its place between the first two looks.
            places += [self.work_path / _OLD, self._corpus / name]
        for folder in places:
            if not folder.is_dir():
                continue
            if not is_intact(self._corpus, folder, name):
                again = "`longreach study`" if name == ADAPTER else "ingest into a new corpus"
                raise CorpusDamaged(
                    f"The adapter in '{folder}' is not what was stored: restore it from a backup,"
                    f" or make it again ({again})."
                )
            return folder
        return None

    def load_scorecard(self) -> JsonObject | None:
        """Returns the values of the scorecard; None if there is none.

        Raises:
            CorpusDamaged: They are not those that were stored.
        """
        try:
            raw = (self._corpus / SCORECARD).read_bytes()
        except FileNotFoundError:
            return None
        # Read once, so that what is checked is what is returned.
        if not scorecard_is_intact(self._corpus, raw):
            raise self.explain_damage()
        values = parse_object(raw)
        values.pop("sha256", None)
        return values

    def explain_damage(self) -> CorpusDamaged:
        """Returns the error for a scorecard that does not hold what it must."""
        return CorpusDamaged(
            f"{self._corpus / SCORECARD} is damaged: measure again with `longreach study"
            f" {self._corpus.name} --gate-only`."
        )

    def is_intact(self, name: str) -> bool:
        """Returns whether there is such an adapter, and its files are those that were stored."""
        folder = self._corpus / name
        return folder.is_dir() and is_intact(self._corpus, folder, name)

    def holds(self, name: str, made: Path) -> bool:
        """Returns whether an adapter has the same files as the folder `made`, seals aside."""
        folder = self._corpus / name
        if not folder.is_dir():
            return False
        names = {path.name for path in (*made.iterdir(), *folder.iterdir())} - {SEAL}
        for file in names:
            one = made / file
            other = folder / file
            # A file that only one of them has is a difference.
            if not (one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()):
                return False
        return True

    def copy(self, name: str, target: Path) -> None:
        """Copies an artefact to `target` if there is one; an adapter only if it is intact."""
        source = self._corpus / name
        if name == SCORECARD and source.exists():
            shutil.copyfile(source, target)
        elif name != SCORECARD and self.is_intact(name):
            shutil.copytree(source, target)

    def put(self, name: str, made: Path | Mapping[str, object]) -> None:
        """Stores an artefact in the place of an earlier one, whole or not at all.

        A new adapter takes the scorecard away, which was measured with the earlier one.

        Args:
            name: `ADAPTER`, `READER` (into a corpus that is being made) or `SCORECARD`.
            made: The folder of an adapter; the values of a scorecard, or a file that `copy` wrote.
        """
        assert self._writable, "changes need the object that Corpus.changing yields"
        if name == SCORECARD:
            raw = made.read_bytes() if isinstance(made, Path) else _seal_values(made)
            replace_file(self._corpus / SCORECARD, raw)
            return
        assert isinstance(made, Path)
        if name == ADAPTER:
            _swap_in(self._corpus, made)
        else:
            assert name == READER
            shutil.copytree(made, self._corpus / name)
            seal(self._corpus / name)

    def seal(self, name: str) -> None:
        """Notes the files of an adapter anew, which are known to be right."""
        assert self._writable, "changes need the object that Corpus.changing yields"
        seal(self._corpus / name)

    def remove(self, name: str) -> None:
        """Removes an artefact; with the adapter goes its scorecard.

        If the process is killed before the end, the next writer puts both back.
        """
        assert self._writable, "changes need the object that Corpus.changing yields"
        if name == SCORECARD:
            (self._corpus / SCORECARD).unlink(missing_ok=True)
        else:
            assert name == ADAPTER
            _swap_out(self._corpus)


def find_adapter(corpus: Path) -> Path | None:
    """Returns the folder of the adapter that a corpus is read with; None if it has none.

    Raises:
        CorpusDamaged: Its files are not those that were stored.
    """
    artefacts = Artefacts(corpus)
    return artefacts.get(ADAPTER) or artefacts.get(READER)


def is_intact(
    corpus: Path, folder: Path, name: str, known: dict[str, Recorded] | None = None
) -> bool:
    """Returns whether the files of an adapter are those that were stored.

    Args:
        corpus: The folder of the corpus.
        folder: Where the adapter lies now.
        name: Its name in the file log.
        known: What is known of the corpus' files; None asks the file log.
    """
    present = _hash_files(folder)
    if present.pop(SEAL, None) is not None:
        recorded = _read_seal(folder / SEAL)
        return recorded is not None and recorded == present
    log = FileLog(corpus)
    if known is None and _is_changing(log):
        # It is being written, or its writer was killed: the next one notes what is there.
        return True
    files = log.files if known is None else known
    prefix = f"{name}/"
    logged = {}
    for path, file in files.items():
        if path.startswith(prefix):
            logged[path.removeprefix(prefix)] = file
    return logged == present


def _is_changing(log: FileLog) -> bool:
    """Returns whether work outside the database is under way, or was cut short."""
    return log.intent is not None and log.intent.startswith(CHANGING)


def _hash_files(folder: Path) -> dict[str, Recorded]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = hash_file(path)
    return found


def seal(folder: Path) -> None:
    """Writes the hashes of the files of a folder into it."""
    # The seal does not answer for itself.
    (folder / SEAL).unlink(missing_ok=True)
    (folder / SEAL).write_text(_format_seal(_hash_files(folder)), encoding="utf-8")


def _format_seal(files: dict[str, Recorded]) -> str:
    listed = {path: list(file) for path, file in sorted(files.items())}
    values: dict[str, object] = {"files": listed}
    values["sum"] = sha256(json.dumps(values).encode())
    return json.dumps(values, indent=1) + "\n"


def _read_seal(path: Path) -> dict[str, Recorded] | None:
    """Returns the hashes that a seal holds; None if it is not what was written."""
    found = {}
    try:
        text = path.read_text(encoding="utf-8")
        for name, file in read_field(parse_object(text), "files", dict).items():
            found[name] = Recorded(*file)
        return found if text == _format_seal(found) else None
    except (NotJson, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return None


def scorecard_is_intact(corpus: Path, raw: bytes, known: dict[str, Recorded] | None = None) -> bool:
    """Returns whether the bytes of a scorecard are those that were stored; see `is_intact`."""
    try:
        values = parse_object(raw)
    except NotJson:
        return False
    told = values.pop("sha256", None)
    if told is not None:
        return bool(told == _sum_values(values))
    if known is None and not (corpus / LOG).exists():
        return True  # a scorecard outside of a corpus
    log = FileLog(corpus)
    if known is None and _is_changing(log):
        return True
    files = log.files if known is None else known
    return files.get(SCORECARD) == Recorded(len(raw), hashlib.sha256(raw).hexdigest())


def _seal_values(values: Mapping[str, object]) -> bytes:
    # As it is read back, so that the checksum is that of what `load_scorecard` sees.
    plain = json.loads(json.dumps(dict(values)))
    sealed = plain | {"sha256": _sum_values(plain)}
    return json.dumps(sealed, indent=1).encode() + b"\n"


def _sum_values(values: dict[str, object]) -> str:
    return sha256(json.dumps(values, sort_keys=True).encode())


def _swap_in(corpus: Path, made: Path) -> None:
    """Puts an adapter into the place of an earlier one, whose scorecard goes with it."""
    work = corpus / WORK
    # Copied beside its place first: renames alone cannot leave half a folder.
    new = work / _NEW
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(made, new)
    seal(new)
    if (corpus / ADAPTER).exists():
        (corpus / ADAPTER).rename(work / _OLD)
    if (corpus / SCORECARD).exists():
        (corpus / SCORECARD).rename(work / _OLD_CARD)
    # From here on the new adapter is the one that counts.
    new.rename(corpus / ADAPTER)
    finish_swap(corpus)


def _swap_out(corpus: Path) -> None:
    """Takes the adapter that was trained for a corpus out of it, and its scorecard."""
    work = corpus / WORK
    shutil.rmtree(work / _OLD, ignore_errors=True)
    if (corpus / SCORECARD).exists():
        (corpus / SCORECARD).rename(work / _OLD_CARD)
    if (corpus / ADAPTER).exists():
        (corpus / ADAPTER).rename(work / _OLD)
    shutil.rmtree(work / _OLD, ignore_errors=True)
    (work / _OLD_CARD).unlink(missing_ok=True)


def finish_swap(corpus: Path) -> None:
    """Ends a swap that was cut short, or undoes it if the new adapter is not in its place.

    The caller holds the lock.
    """
    old = corpus / WORK / _OLD
    card = corpus / WORK / _OLD_CARD
    if not (corpus / ADAPTER).exists():
        if old.exists():
            old.rename(corpus / ADAPTER)
        if card.exists() and not (corpus / SCORECARD).exists():
            card.rename(corpus / SCORECARD)
    shutil.rmtree(old, ignore_errors=True)
    card.unlink(missing_ok=True)
