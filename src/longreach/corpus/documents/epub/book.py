"""EPUB to text."""

import zipfile
import zlib

from longreach.corpus.documents.archive import explain_password, open_archive
from longreach.corpus.documents.base import Converted
from longreach.corpus.documents.encodings.decode import decode_html, decode_text
from longreach.corpus.documents.epub.package import (
    EpubMembers,
    EpubPackage,
    PageItem,
    find_encrypted,
    read_packages,
)
from longreach.corpus.documents.html.page import check_depth, read_page
from longreach.corpus.documents.html.xhtml import to_html
from longreach.errors import DocumentError


def convert(raw: bytes, name: str) -> Converted:
    """Reads what an EPUB says about itself, and its pages in order; see `Format.convert`."""
    with open_archive(raw, name, ".epub") as archive:
        book = _Book(name, EpubMembers(archive))
        try:
            packages = read_packages(book.members)
        except (zipfile.BadZipFile, zlib.error) as error:
            raise ValueError("damaged package") from error
        for package in packages:
            book.read(package)
    if not book.pages:
        missing = ""
        if book.notes:
            missing = f" ({book.notes[0].removesuffix('.')})"
        raise DocumentError(
            f"{name} holds no text, only its cover or pictures{missing}: export it as text."
        )
    return Converted("\n\n".join([*book.about, *book.pages]), tuple(book.notes))


class _Book:
    """Collects the pages of a book."""

    def __init__(self, name: str, members: EpubMembers) -> None:
        self.name = name
        self.members = members
        self.about: list[str] = []
        self.pages: list[str] = []
        self.notes: list[str] = []
        self._encrypted = find_encrypted(members)
        self._read: set[str] = set()
        self._titles: set[str] = set()

    def read(self, package: EpubPackage) -> None:
        """Appends the pages of a package that were not read yet."""
        if package.about:
            self.about.append("\n".join(package.about))
        self._titles.add(package.title)
        self.notes.extend(package.notes)
        for page in package.pages:
            if page.path is None:
                self.notes.append(f"Chapter '{page.href}' is missing in the archive.")
            elif page.path not in self._read:
                self._read.add(page.path)
                self._read_page(page, page.path)

    def _read_page(self, page: PageItem, path: str) -> None:
        if self._encrypted is not None and path in self._encrypted:
            raise DocumentError(explain_password(self.name))
        # Pictures among the pages, such as the cover.
        if page.kind.startswith(("image/", "audio/", "video/", "font/")) and "svg" not in page.kind:
            return
        try:
            raw = self.members.read(path)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
            self.notes.append(f"Chapter '{page.href}' is damaged in the archive.")
            return
        where = f"{self.name} (in it, {path})"
        try:
            if page.kind == "text/plain":
                text = decode_text(raw, where)
            else:
                text = self._convert_markup(decode_html(raw, where), where)
        except DocumentError as error:
            # Bytes that are no text are most likely encrypted: the book does not name which are.
            if self._encrypted is None:
                raise DocumentError(explain_password(self.name)) from error
            raise
        if text.strip():
            self.pages.append(text.strip("\n"))

    def _convert_markup(self, page: str, where: str) -> str:
        page = to_html(page)
        check_depth(page, where)
        read = read_page(page)
        # Many books repeat their title as that of each page.
        if read.title in self._titles:
            return read.body
        self._titles.add(read.title)
        return read.join()
