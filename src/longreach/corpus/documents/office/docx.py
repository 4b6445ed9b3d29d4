"""DOCX to text.

The order is: page headers, body, footnotes and endnotes, comments, page footers. Text boxes come
after the paragraph that holds them. Deleted and hidden text is omitted.
"""

import posixpath
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from longreach.corpus.documents.base import Converted
from longreach.corpus.documents.html.page import to_markdown
from longreach.corpus.documents.office.names import W
from longreach.corpus.documents.office.numbering import Numbering
from longreach.corpus.documents.office.package import RELATIONSHIP, Package, open_package
from longreach.corpus.documents.office.styles import Styles
from longreach.corpus.documents.office.wordml import Writer

if TYPE_CHECKING:
    from lxml.etree import _Element


def convert(raw: bytes, name: str) -> Converted:
    """Reads a DOCX file; see `Format.convert` for arguments and errors."""
    from lxml import etree

    with open_package(raw, name, ".docx") as package:
        page, notes = _make_page(package)
        html = etree.tostring(page, encoding="unicode", method="html")
        return Converted(to_markdown(html), notes)


def _make_page(package: Package) -> "tuple[_Element, tuple[str, ...]]":
    """Returns the whole document as a page of HTML, and what of it could not be read."""
    from lxml.etree import Element, SubElement

    # Its name is free; nearly all writers use the usual one.
    main = next(iter(package.list_related("", "officeDocument")), "word/document.xml")
    root = package.parse_part(main)
    if root is None:
        raise ValueError("no main part")
    body = root.find(W + "body")
    if body is None:
        raise ValueError("no body")
    parts = _Parts(package, main)
    # Each of these parts may be missing.
    styles = Styles(parts.parse_part("styles"))
    writer = Writer(package, styles, Numbering(parts.parse_part("numbering"), styles.find_lists()))
    page = Element("html")
    block = SubElement(page, "body")
    _read_margins(writer, parts, body, "header", block)
    writer.read(body, main, block)
    _read_notes(writer, parts, block)
    _read_comments(writer, parts, block)
    _read_margins(writer, parts, body, "footer", block)
    return page, _describe_losses(writer)


class _Parts(NamedTuple):
    """Where the document is."""

    package: Package
    main: str

    def find_name(self, kind: str) -> str:
        """Returns the name of the one part of a kind; the usual name if there is no reference."""
        names = self.package.list_related(self.main, kind)
        if names:
            return names[0]
        return posixpath.join(posixpath.dirname(self.main), f"{kind}.xml")

    def parse_part(self, kind: str) -> "_Element | None":
        """Returns the root of the one part of a kind, or None where the document lacks it."""
        return self.package.parse_part(self.find_name(kind))

    def iterate(self, kind: str, tag: str) -> "Iterator[_Element]":
        """Yields the elements with a tag in the one part of a kind; none if it is missing."""
        return self.package.iterate(self.find_name(kind), tag)


def _read_margins(
    writer: Writer, parts: _Parts, body: "_Element", kind: str, block: "_Element"
) -> None:
    """Appends the page headers or the page footers of all sections, equal ones once."""
    from lxml.etree import Element

    links = parts.package.read_links(parts.main)
    names = []
    for reference in body.iter(f"{W}{kind}Reference"):
        link = links.get(reference.get(RELATIONSHIP + "id", ""))
        if link is None or link.external:
            # A reference that leads nowhere is counted below.
            names.append("")
        else:
            names.append(link.target)
    # Most sections repeat the header of the one before.
    seen = {""}
    for name in dict.fromkeys(names):
        root = parts.package.parse_part(name)
        if root is None:
            writer.lost[f"page {kind}"] += 1
            continue
        margin = Element("div")
        writer.read(root, name, margin)
        text = " ".join("".join(margin.itertext()).split())
        if text not in seen:
            seen.add(text)
            block.append(margin)


def _read_notes(writer: Writer, parts: _Parts, block: "_Element") -> None:
    """Appends the footnotes and endnotes that the text refers to, in the order of their numbers."""
    notes: dict[tuple[str, str], _Element] = {}
    for kind in ("footnote", "endnote"):
        for element in parts.iterate(f"{kind}s", W + kind):
            notes[kind, element.get(f"{W}id", "")] = element
    number = 0
    # A note may refer to further notes, which join the list meanwhile.
    while number < len(writer.notes):
        key = writer.notes[number]
        number += 1
        # A note that is referred to twice is read once.
        element = notes.pop(key, None)
        if element is not None:
            writer.read(element, parts.find_name(f"{key[0]}s"), block, label=f"[{number}]")
        elif key not in writer.notes[: number - 1]:
            writer.lost[key[0]] += 1


def _read_comments(writer: Writer, parts: _Parts, block: "_Element") -> None:
    for comment in parts.iterate("comments", W + "comment"):
        author = comment.get(f"{W}author", "").strip()
        label = f"Comment by {author}:" if author else "Comment:"
        writer.read(comment, parts.find_name("comments"), block, label=label)


def _describe_losses(writer: Writer) -> tuple[str, ...]:
    sentences = []
    for what, count in sorted(writer.lost.items()):
        if what == "hidden text":
            sentence = "hidden text is omitted."
        elif count == 1:
            sentence = f"{count} {what} is not read."
        else:
            sentence = f"{what} ({count} times) is not read."
        sentences.append(sentence[0].upper() + sentence[1:])
    return tuple(sentences)
