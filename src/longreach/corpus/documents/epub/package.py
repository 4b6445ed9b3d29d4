"""What an EPUB says about itself: its title and authors, and its pages in reading order."""

import posixpath
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

if TYPE_CHECKING:
    from lxml.etree import _Element

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
# These only scramble fonts.
_OBFUSCATION = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
_MARKUP = re.compile("html|xml")


class PageItem(NamedTuple):
    """A page of the book.

    Attributes:
        href: How the book names it.
        path: The member of the archive, None if it is missing.
        kind: Its media type.
    """

    href: str
    path: str | None
    kind: str


class EpubPackage(NamedTuple):
    """What one package file says: lines about the book, its pages in order, and what is wrong."""

    about: list[str]
    title: str
    pages: list[PageItem]
    notes: list[str]


class EpubMembers:
    """The members of an archive by name, whatever its case, slashes and normal form."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names: dict[str, str] = {}
        for name in archive.namelist():
            if not name.endswith(("/", "\\")):
                self._names.setdefault(name, name)
        # An exact name comes before one that only looks the same.
        for name in list(self._names):
            self._names.setdefault(_normalize(name), name)

    def find(self, path: str) -> str | None:
        """Returns the member of that name, or None where the archive lacks it."""
        return self._names.get(path) or self._names.get(_normalize(path))

    def resolve(self, base: str, href: str) -> str | None:
        """Returns the member that an address in the member `base` leads to."""
        address = href.strip().replace("\\", "/")
        bare = address.partition("#")[0].partition("?")[0]
        # A name may contain what looks like an escape or the begin of a fragment.
        for candidate in (unquote(bare), bare, unquote(address), address):
            for folder in (posixpath.dirname(base.replace("\\", "/")), ""):
                path = posixpath.normpath(posixpath.join(folder, candidate)).lstrip("/")
                while path.startswith("../"):
                    path = path[3:]
                found = self.find(path)
                if found is not None:
                    return found
        return None

    def list_by_suffix(self, suffix: str) -> list[str]:
        """Returns the members with that suffix."""
        return [name for name in self._archive.namelist() if name.lower().endswith(suffix)]

    def read(self, path: str) -> bytes:
        """Returns the bytes of a member."""
        return self._archive.read(path)


def read_packages(members: EpubMembers) -> list[EpubPackage]:
    """Returns the packages of a book: nearly always one."""
    container = members.find(_CONTAINER)
    paths: list[str] = []
    if container is not None:
        for rootfile in _iterate(_parse(members.read(container)), "rootfile"):
            path = members.resolve("", rootfile.get("full-path") or "")
            if path is not None and path not in paths and path.lower().endswith((".opf", ".xml")):
                paths.append(path)
    # A damaged book may lack the container, and still be read.
    paths = paths or members.list_by_suffix(".opf")
    if not paths:
        raise ValueError("no package")
    return [_read_package(members, path) for path in paths]


def find_encrypted(members: EpubMembers) -> set[str] | None:
    """Returns the members that need a key; None if there may be some that are not named."""
    listing = members.find(_ENCRYPTION)
    if listing is None:
        return set()
    encrypted = set()
    try:
        root = _parse(members.read(listing))
    except (ValueError, zipfile.BadZipFile, zlib.error):
        return None
    for entry in _iterate(root, "EncryptedData"):
        methods = {method.get("Algorithm") or "" for method in _iterate(entry, "EncryptionMethod")}
        if not methods.isdisjoint(_OBFUSCATION):
            continue
        for reference in _iterate(entry, "CipherReference"):
            path = members.resolve("", reference.get("URI") or "")
            if path is not None:
                encrypted.add(path)
    return encrypted


def _read_package(members: EpubMembers, path: str) -> EpubPackage:
    root = _parse(members.read(path))
    items = {item.get("id") or "": item for item in _iterate(root, "item")}
    notes: list[str] = []
    pages: list[PageItem] = []
    named: set[str] = set()
    # A page may be named any number of times; it is read once.
    references = [reference.get("idref") or "" for reference in _iterate(root, "itemref")]
    for reference in dict.fromkeys(references):
        item = _find_readable(items, reference)
        if item is None:
            notes.append(f"Chapter '{reference}' is not listed among the files of the book.")
            continue
        pages.append(_read_item(members, path, item))
        named.add(reference)
    # What is listed but has no place in the order, notes for example, follows at the end.
    for key, item in items.items():
        kind = item.get("media-type") or ""
        navigation = "nav" in (item.get("properties") or "").split()
        if key not in named and "html" in kind and not navigation:
            page = _read_item(members, path, item)
            if page.path is not None:
                pages.append(page)
    titles = _read_metadata(root, "title")
    described = {
        "Title": titles,
        "Authors": _read_metadata(root, "creator"),
        "Publisher": _read_metadata(root, "publisher"),
        # Further dates are those of changes to the file.
        "Date": _read_metadata(root, "date")[:1],
        "Description": _read_metadata(root, "description"),
    }
    about = []
    for label, texts in described.items():
        if texts:
            about.append(f"{label}: {', '.join(texts)}")
    return EpubPackage(about, next(iter(titles), ""), pages, notes)


def _read_item(members: EpubMembers, base: str, item: "_Element") -> PageItem:
    href = item.get("href") or ""
    path = None
    if href:
        path = members.resolve(base, href)
    return PageItem(href, path, item.get("media-type") or "")


def _find_readable(items: dict[str, "_Element"], key: str) -> "_Element | None":
    """Returns an item, or the first one with text among those that may stand for it."""
    first = items.get(key)
    item = first
    seen: set[str] = set()
    while item is not None and key not in seen:
        if _MARKUP.search(item.get("media-type") or "html"):
            return item
        seen.add(key)
        key = item.get("fallback") or ""
        item = items.get(key)
    return first


def _parse(raw: bytes) -> "_Element":
    """Parses XML leniently; entities stay as they are, and nothing is fetched."""
    from lxml import etree

    # Books in the wild are seldom valid XML.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
    root = etree.fromstring(raw, parser)
    if root is None:
        raise ValueError("no XML")
    return root


def _iterate(root: "_Element", name: str) -> Iterator["_Element"]:
    """Yields the elements of that name, whatever namespace they are in."""
    for element in root.iter():
        # Comments and the like have no name that is a str.
        if not isinstance(element.tag, str):
            continue
        local = element.tag.rpartition("}")[2]
        if local.rpartition(":")[2] == name:
            yield element


def _read_metadata(root: "_Element", name: str) -> list[str]:
    """Returns the texts of the metadata of that name, each once."""
    metadata = next(_iterate(root, "metadata"), None)
    if metadata is None:
        return []
    found = {}
    for element in _iterate(metadata, name):
        text = " ".join("".join(element.itertext()).split())
        if text:
            found[text] = True
    return list(found)


def _normalize(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/").lstrip("/")).casefold()
