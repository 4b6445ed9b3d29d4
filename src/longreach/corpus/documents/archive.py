"""ZIP archives that are documents: DOCX, EPUB and the like."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Literal

from longreach.corpus.documents.base import explain_failures
from longreach.corpus.documents.encodings.decode import OLE
from longreach.corpus.documents.limits import explain_excess, get_limits
from longreach.errors import DocumentError
from longreach.wording import counted

_CHUNK_BYTES = 1 << 20


class BoundedArchive(zipfile.ZipFile):
    """An archive that unpacks no more than the limits allow, whatever its headers say.

    Members are unpacked when they are read, not before, so those that nobody reads cost nothing. A
    member that is read twice counts twice.
    """

    def __init__(self, raw: bytes, name: str) -> None:
        super().__init__(io.BytesIO(raw))
        self._named = name
        self._limits = get_limits()
        self._unpacked_bytes = 0
        if len(self.filelist) > self._limits.members:
            parts = counted(len(self.filelist), "part")
            raise explain_excess(name, f"has {parts}", "members", self._limits)

    def open(
        self,
        name: str | zipfile.ZipInfo,
        mode: Literal["r", "w"] = "r",
        pwd: bytes | None = None,
        *,
        force_zip64: bool = False,
    ) -> IO[bytes]:
        """Opens a member to be read, unpacked.

        Raises:
            DocumentError: More than the limit has been unpacked by now.
        """
        # Into memory, as the libraries that read on want to seek.
        unpacked = io.BytesIO()
        with super().open(name, mode, pwd, force_zip64=force_zip64) as member:
            while chunk := member.read(_CHUNK_BYTES):
                # Counted as it comes: the sizes in the headers may be lies.
                self._unpacked_bytes += len(chunk)
                if self._unpacked_bytes > self._limits.unpacked_bytes:
                    raise explain_excess(
                        self._named,
                        "unpacks to more than is allowed",
                        "unpacked_bytes",
                        self._limits,
                    )
                unpacked.write(chunk)
        unpacked.seek(0)
        return unpacked


@contextmanager
def open_archive(raw: bytes, name: str, suffix: str) -> Iterator[zipfile.ZipFile]:
    """Opens an archive whose members can be read without a password, within the limits.

    Raises:
        DocumentError: It is no archive, damaged, locked, or too large; also for whatever fails
            inside the `with` block.
    """
    # Office encrypts a file as a whole, into a container of its older formats.
    if raw.startswith(OLE):
        advice = f"remove the password, or save it again as {suffix}."
        raise DocumentError(f"{name} is password-protected, or an old Office file: {advice}")
    with explain_failures(name, suffix), BoundedArchive(raw, name) as archive:
        for member in archive.infolist():
            # The flag of an encrypted member.
            if member.flag_bits & 1:
                raise DocumentError(explain_password(name))
        yield archive


def check_unpacked(archive: zipfile.ZipFile, name: str, suffixes: tuple[str, ...] = ("",)) -> None:
    """Checks an archive before a library unpacks it by itself, by the sizes in its headers.

    That is enough: no more of a member is unpacked than its header says, and a header that says
    less is an error.

    Args:
        archive: The archive.
        name: The file as messages call it.
        suffixes: How the names end of those members that are unpacked.

    Raises:
        DocumentError: They unpack to more than the limit.
    """
    total = 0
    for member in archive.infolist():
        if member.filename.lower().endswith(suffixes):
            total += member.file_size
    limits = get_limits()
    if total > limits.unpacked_bytes:
        raise explain_excess(name, "unpacks to more than is allowed", "unpacked_bytes", limits)


def explain_password(name: str) -> str:
    """Returns the sentence for a document that needs a password."""
    return f"{name} is password-protected: remove the password or the copy protection first."
