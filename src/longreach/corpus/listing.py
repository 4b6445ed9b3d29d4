"""The files that say which documents a corpus has, held against the file log when they are read.

Rows carry checksums of their own, so a damaged row is noticed. A whole data file in the place of
another one, as a backup that was restored in part leaves it, holds sound rows of an earlier state.
The data files of the listing are small and never change once they are written: they are hashed
when they are first read, and again where their size or time differs.
"""

import os
from pathlib import Path

from longreach.corpus.integrity import FileLog, hash_file
from longreach.corpus.tables import DATABASE

_DATA = f"{DATABASE}/documents.lance/data"


class DocumentFiles:
    """The newest version of the table `documents` as files.

    Args:
        folder: The folder of the corpus.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._proven: dict[str, tuple[int, int, int]] = {}

    def find_changed(self, manifest: str | None) -> str | None:
        """Returns the relative path of a file that is not what was written; None where all are.

        A file that the log does not know yet belongs to a writer at work, and is not judged.

        Args:
            manifest: The relative path of the newest manifest of the table; None where it has none.
        """
        unproven = {}
        for path in self._list_files(manifest):
            stat = (self._folder / path).stat()
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if self._proven.get(path) != stamp:
                unproven[path] = stamp
        if not unproven:
            return None
        known = FileLog(self._folder).files
        for path, stamp in unproven.items():
            if path not in known:
                continue
            if hash_file(self._folder / path) != known[path]:
                return path
            self._proven[path] = stamp
        return None

    def _list_files(self, manifest: str | None) -> list[str]:
        """Returns the data files that a version is made of: its manifest names them."""
        folder = self._folder / _DATA
        if manifest is None or not folder.is_dir():
            return []
        content = (self._folder / manifest).read_bytes()
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
        return [f"{_DATA}/{name}" for name in names if name.encode() in content]
