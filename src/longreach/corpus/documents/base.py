"""What all converters share: their result, and failures as one sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from longreach.corpus.documents.encodings.decode import silence_libraries
from longreach.errors import DocumentError, out_of_memory


class Converted(NamedTuple):
    """The text of a file, and a sentence for each part of it that could not be read.

    A sentence is, for example, "Page 3 has no text layer."
    """

    text: str
    notes: tuple[str, ...] = ()


@contextmanager
def explain_failures(name: str, suffix: str) -> Iterator[None]:
    """Silences the converters, and turns whatever they raise into one sentence.

    Raises:
        DocumentError: The work inside failed.
    """
    try:
        with silence_libraries():
            yield
    # These are for the caller: one has its sentence, the other ends the worker.
    except (DocumentError, MemoryError):
        raise
    # Made-up files nest as deep as they like.
    except RecursionError as error:
        raise DocumentError(
            f"{name} nests its parts too deeply to be read: export it as text."
        ) from error
    except Exception as error:
        # As libxml2 says it.
        if out_of_memory(error) or "memory allocation failed" in str(error).lower():
            raise MemoryError from error
        what = f"{name} is damaged or is not a {suffix} file"
        raise DocumentError(
            f"{what}: open it in its own program and save it again, or export it as text."
        ) from error


def show_path(path: str | Path) -> str:
    """Returns a path as it can be printed, whatever bytes are in it."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()
