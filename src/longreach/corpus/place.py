"""Where corpora live. Imports no torch."""

import os
from pathlib import Path

import platformdirs

from longreach.errors import UsageError


def store_folder(given: str | Path | None = None) -> Path:
    """Returns the folder of corpora: the one given, else $LONGREACH_STORE, else the user's.

    It need not exist yet.

    Raises:
        UsageError: It cannot be a folder.
    """
    data = platformdirs.user_data_path("longreach", appauthor=False) / "corpora"
    folder = Path(os.path.expanduser(given or os.environ.get("LONGREACH_STORE") or data))  # noqa: PTH111 (never raises)
    # The first part that is there must be a folder, and the rest can be made.
    for path in (folder, *folder.absolute().parents):
        if not os.path.lexists(path):
            continue
        if path.is_dir():
            break
        raise UsageError(
            f"The store '{folder}' is not a folder, nor can it be made: give one with --store."
        )
    return folder
