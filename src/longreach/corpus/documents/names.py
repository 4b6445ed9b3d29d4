"""The name of a document and the file it stands for, in whatever encoding the system has.

Names are text, and files have bytes. Both are UTF-8 nearly everywhere; where the locale knows ASCII
only, Python hides the other bytes of a path in half characters, and takes no other letters.
"""

import os
from pathlib import Path


def to_name(path: Path) -> str:
    """Returns the name that a file has as a document.

    A name that is not UTF-8 keeps its half characters.
    """
    # A path from a system with an ASCII locale holds a half character for each byte beyond it.
    text = path.as_posix()
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text


def to_path(name: str) -> Path:
    """Returns the path of the file that a document's name stands for, as the system takes it."""
    try:
        return Path(os.fsdecode(name.encode("utf-8", "surrogateescape")))
    except UnicodeError:
        return Path(name)
