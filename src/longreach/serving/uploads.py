"""Uploaded files: their bytes named by their content, their names only in the database.

No name from a client becomes a path: a file lies where its SHA-256 says.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from longreach.errors import StorageError
from longreach.jsontext import JsonObject
from longreach.serving.database import Database, Row
from longreach.serving.objects import new_id, now
from longreach.serving.problems import Problem, no_such
from longreach.serving.settings import ServeSettings

_LONGEST_NAME = 200
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Upload:
    """An uploaded file.

    Attributes:
        id: Its id, such as "file-...".
        sha256: Of its bytes.
        bytes: Its size.
        filename: Its name, without folders.
        purpose: What the client said that it is for.
        created_at: When it came; seconds.
    """

    id: str
    sha256: str
    bytes: int
    filename: str
    purpose: str
    created_at: int

    def to_dict(self) -> JsonObject:
        """Returns OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class Uploads:
    """The uploaded files of a server.

    Args:
        database: Where they are listed.
        settings: The server's limits.
    """

    def __init__(self, database: Database, settings: ServeSettings) -> None:
        self._database = database
        self._settings = settings
        self._folder = database.folder / "files"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # What an upload that was cut off by a kill left behind.
            for draft in self._folder.glob("*.part"):
                draft.unlink()
        except OSError as error:
            raise _refused(error) from error

    async def receive(
        self, read: Callable[[int], AsyncIterator[bytes]], filename: str, purpose: str
    ) -> Upload:
        """Takes a file, whole or not at all.

        Args:
            read: Gives its bytes in pieces of a size.
            filename: As the client calls it.
            purpose: As the client says.

        Raises:
            Problem: It is too large, or there are too many.
            StorageError: The disk refused it.
        """
        name = clean_filename(filename)
        self._check_number()
        try:
            descriptor, draft = tempfile.mkstemp(dir=self._folder, suffix=".part")
        except OSError as error:
            raise _refused(error) from error
        digest = hashlib.sha256()
        size = 0
        try:
            with os.fdopen(descriptor, "wb") as file:
                async for piece in read(1 << 20):
                    size += len(piece)
                    if size > self._settings.max_upload_bytes:
                        raise self._too_large()
                    digest.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            if size == 0:
                raise Problem(
                    400, f"The file '{name}' is empty: send one with content.", param="file"
                )
            upload = Upload(new_id("file-"), digest.hexdigest(), size, name, purpose, now())
            self._keep(Path(draft), upload)
        except OSError as error:
            raise _refused(error) from error
        finally:
            Path(draft).unlink(missing_ok=True)
        return upload

    def _keep(self, draft: Path, upload: Upload) -> None:
        with self._database.change():
            self._check_number()
            draft.replace(self._path(upload.sha256))
            self._database.execute(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)",
                (
                    upload.id,
                    upload.sha256,
                    upload.bytes,
                    upload.filename,
                    upload.purpose,
                    upload.created_at,
                ),
            )

    def _check_number(self) -> None:
        row = self._database.row("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM files")
        assert row is not None
        if row[0] >= self._settings.max_files or row[1] >= self._settings.max_stored_bytes:
            raise Problem(
                413,
                "The server keeps no more files: delete some that are no longer needed.",
                code="too_many_files",
            )

    def _too_large(self) -> Problem:
        most = self._settings.max_upload_bytes
        return Problem(
            413,
            f"The file has more than {most:,} bytes: split it, or start the server with a larger"
            " --max-upload-mb.",
            code="file_too_large",
            param="file",
        )

    def all(self) -> list[Upload]:
        """Returns all files."""
        return [_upload_of(row) for row in self._database.rows("SELECT * FROM files")]

    def get(self, file_id: str) -> Upload:
        """Returns a file.

        Raises:
            Problem: 404.
        """
        row = self._database.row("SELECT * FROM files WHERE id = ?", (file_id,))
        if row is None:
            raise no_such("file", file_id, "file_id")
        return _upload_of(row)

    def path(self, upload: Upload) -> Path:
        """Returns where the bytes of a file lie."""
        return self._path(upload.sha256)

    def delete(self, file_id: str) -> None:
        """Deletes a file; its bytes, unless another file has the same ones.

        Raises:
            Problem: 404.
        """
        upload = self.get(file_id)
        with self._database.change():
            self._database.execute("DELETE FROM files WHERE id = ?", (file_id,))
            same = self._database.row("SELECT 1 FROM files WHERE sha256 = ?", (upload.sha256,))
            if same is None:
                self._path(upload.sha256).unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        assert _SHA256.fullmatch(sha256)
        return self._folder / sha256


def clean_filename(given: str) -> str:
    """Returns a file's name without folders and without characters that are not printed.

    Raises:
        Problem: Nothing is left of it.
    """
    # Browsers of the past sent whole paths, of either kind.
    name = PureWindowsPath(PurePosixPath(given.replace("\0", "")).name).name
    printed = "".join(character for character in name if character.isprintable()).strip()
    if printed.strip(".") == "" or not _is_text(printed):
        raise Problem(400, "The file has no usable name: send one with the file.", param="file")
    if len(printed) > _LONGEST_NAME:
        suffix = PurePosixPath(printed).suffix[:20]
        printed = printed[: _LONGEST_NAME - len(suffix)] + suffix
    return printed


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _upload_of(row: Row) -> Upload:
    return Upload(
        row["id"], row["sha256"], row["bytes"], row["filename"], row["purpose"], row["created_at"]
    )


def _refused(error: OSError) -> StorageError:
    return StorageError(
        f"The disk refused the file ({error.strerror}): free disk space, and send it again."
    )
