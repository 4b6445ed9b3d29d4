"""ZIP archives that are documents: DOCX and EPUB."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from longreach.corpus.documents.base import converting
from longreach.corpus.documents.encoding import OLE
from longreach.errors import DocumentError


@contextmanager
def opened(raw: bytes, name: str, suffix: str) -> Iterator[zipfile.ZipFile]:
    """Opens an archive whose members can be read without a password.

    Raises:
        DocumentError: It is no archive, damaged, or locked; also for whatever fails inside the `with` block.
    """
    if raw.startswith(OLE):
        advice = f"remove the password, or save it again as {suffix}."
        raise DocumentError(f"{name} is password-protected, or an old Office file: {advice}")
    with converting(name, suffix), zipfile.ZipFile(io.BytesIO(raw)) as archive:
        if any(member.flag_bits & 1 for member in archive.infolist()):
            raise DocumentError(locked(name))
        yield archive


def locked(name: str) -> str:
    """Says that a document needs a password."""
    return f"{name} is password-protected: remove the password or the copy protection first."
