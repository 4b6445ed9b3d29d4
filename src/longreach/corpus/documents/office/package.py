"""Packages of Office Open XML: their parts, links between parts, and XML that cannot hurt."""

import posixpath
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from longreach.corpus.documents.archive import open_archive
from longreach.errors import DocumentError

if TYPE_CHECKING:
    from lxml.etree import _Element

RELATIONSHIP = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
"""Namespace of the attributes that name a relationship, such as `r:id`."""
COMPATIBILITY = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
"""Namespace of `mc:AlternateContent`: the same thing said for newer and for older programs."""
# "Strict" files use these names; everything else in them is the same.
_STRICT = "http://purl.oclc.org/ooxml/"
_TRANSITIONAL = {
    "wordprocessingml/main": "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    "presentationml/main": "http://schemas.openxmlformats.org/presentationml/2006/main",
    "spreadsheetml/main": "http://schemas.openxmlformats.org/spreadsheetml/2006/main",
    "officeDocument/math": "http://schemas.openxmlformats.org/officeDocument/2006/math",
    "officeDocument/relationships": (
        "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    ),
}


class TooDeep(Exception):
    """Elements are nested more than 256 deep."""


class Link(NamedTuple):
    """A relationship of a part.

    Attributes:
        kind: The last word of its type, such as "header".
        target: Name of a part; an address if `external`.
        external: Whether the target is outside the package.
    """

    kind: str
    target: str
    external: bool


class Package:
    """The parts of an open archive, found by name (in any case) or through relationships.

    Attributes:
        archive: The archive itself.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        # Names of parts are compared without regard to case, and some writers use backslashes.
        self._names = {}
        for member in archive.namelist():
            self._names[member.replace("\\", "/").lower()] = member

    def read(self, part: str) -> bytes | None:
        """Returns the bytes of a part, or None where there is none of that name."""
        member = self._names.get(part.lower())
        if member is None:
            return None
        return self.archive.read(member)

    def parse_part(self, part: str) -> "_Element | None":
        """Returns the root element of a part, or None where there is none of that name."""
        raw = self.read(part)
        if raw is None:
            return None
        return parse(raw)

    def iterate(self, part: str, *tags: str) -> "Iterator[_Element]":
        """Yields the elements of a part that have one of these tags; none if it is missing."""
        root = self.parse_part(part)
        if root is not None:
            yield from root.iter(*tags)

    def read_links(self, part: str = "") -> dict[str, Link]:
        """Returns the relationships of a part by their id; those of the package for ""."""
        folder, name = posixpath.split(part)
        root = self.parse_part(posixpath.join(folder, "_rels", f"{name}.rels"))
        links: dict[str, Link] = {}
        if root is None:
            return links
        for element in root:
            target = element.get("Target", "")
            external = element.get("TargetMode") == "External"
            if not external:
                absolute = posixpath.join("/", folder, unquote(target))
                target = posixpath.normpath(absolute).lstrip("/")
            kind = element.get("Type", "").rsplit("/", 1)[-1]
            links[element.get("Id", "")] = Link(kind, target, external)
        return links

    def list_related(self, part: str, kind: str) -> list[str]:
        """Returns the names of the parts of one kind that a part refers to."""
        names = []
        for link in self.read_links(part).values():
            if link.kind == kind and not link.external:
                names.append(link.target)
        return names


@contextmanager
def open_package(raw: bytes, name: str, suffix: str) -> Iterator[Package]:
    """Opens a package; see `open_archive`.

    Raises:
        DocumentError: It cannot be opened or read, or its elements are nested too deeply.
    """
    with open_archive(raw, name, suffix) as archive:
        try:
            yield Package(archive)
        except (TooDeep, RecursionError) as error:
            raise DocumentError(
                f"{name} nests its elements too deeply to be read: export it as text."
            ) from error


def read_text(element: "_Element", *tags: str) -> str:
    """Returns the text of the elements with one of these tags in an element."""
    return "".join(piece.text or "" for piece in element.iter(*tags))


def parse(raw: bytes) -> "_Element":
    """Parses XML without entities and external files, in the transitional namespaces.

    Raises:
        TooDeep: Its elements are nested too deeply.
        lxml.etree.XMLSyntaxError: It is no XML.
    """
    from lxml import etree

    # Entities can grow without bounds, and external files are none of the document.
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(raw, parser)
    except etree.XMLSyntaxError as error:
        # libxml2 stops at 256 levels, which no program writes by itself.
        if "Excessive depth" in str(error):
            raise TooDeep from error
        raise
    if raw.find(_STRICT.encode()) >= 0:
        _make_to_transitional(root)
    return root


def _make_to_transitional(root: "_Element") -> None:
    for element in root.iter("{*}*"):
        element.tag = _to_transitional(element.tag)
        # Attributes such as `r:id` have a namespace of their own.
        for name, value in element.attrib.items():
            if _STRICT in name:
                del element.attrib[name]
                element.set(_to_transitional(name), value)


def _to_transitional(name: str) -> str:
    space, brace, local = name.rpartition("}")
    known = _TRANSITIONAL.get(space.removeprefix("{" + _STRICT))
    if not brace or known is None:
        return name
    return f"{{{known}}}{local}"
