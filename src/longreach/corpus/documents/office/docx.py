"""DOCX to text.

The order is: page headers, body, footnotes and endnotes, comments, page footers. Text boxes come
after the paragraph that holds them. Deleted and hidden text is omitted.
"""

import posixpath
from typing import TYPE_CHECKING, NamedTuple

from longreach.corpus.documents.base import Converted
from longreach.corpus.documents.html.page import markdown
from longreach.corpus.documents.office.numbering import Numbering, W
from longreach.corpus.documents.office.package import RELATIONSHIP, Package, opened_package
from longreach.corpus.documents.office.styles import Styles
from longreach.corpus.documents.office.wordml import Writer

if TYPE_CHECKING:
    from lxml.etree import _Element


def convert(raw: bytes, name: str) -> Converted:
    """Reads a DOCX file; see `Format.convert` for arguments and errors."""
    from lxml import etree

    with opened_package(raw, name, ".docx") as package:
        page, notes = _page(package)
        return Converted(markdown(etree.tostring(page, encoding="unicode", method="html")), notes)


def _page(package: Package) -> "tuple[_Element, tuple[str, ...]]":
    """Returns the whole document as a page of HTML, and what of it could not be read."""
    from lxml.etree import Element, SubElement

    main = next(iter(package.related("", "officeDocument")), "word/document.xml")
    root = package.tree(main)
    body = None if root is None else root.find(W + "body")
    if root is None or body is None:
        raise ValueError("no main part")
    parts = _Parts(package, main)
    styles = Styles(parts.tree("styles"))
    writer = Writer(package, styles, Numbering(parts.tree("numbering"), styles.list_numbers()))
    page = Element("html")
    block = SubElement(page, "body")
    _read_margins(writer, parts, body, "header", block)
    writer.read(body, main, block)
    _read_notes(writer, parts, block)
    _read_comments(writer, parts, block)
    _read_margins(writer, parts, body, "footer", block)
    return page, _said(writer)


class _Parts(NamedTuple):
    """Where the document is."""

    package: Package
    main: str

    def only(self, kind: str) -> str:
        """Returns the name of the one part of a kind; the usual name if there is no reference."""
        names = self.package.related(self.main, kind)
        return names[0] if names else posixpath.join(posixpath.dirname(self.main), f"{kind}.xml")

    def tree(self, kind: str) -> "_Element | None":
        """Returns the root of the one part of a kind, or None where the document lacks it."""
        return self.package.tree(self.only(kind))


def _read_margins(
    writer: Writer, parts: _Parts, body: "_Element", kind: str, block: "_Element"
) -> None:
    """Appends the page headers or the page footers of all sections, equal ones once."""
    from lxml.etree import Element

    links = parts.package.links(parts.main)
    names = []
    for reference in body.iter(f"{W}{kind}Reference"):
        link = links.get(reference.get(RELATIONSHIP + "id", ""))
        # A reference that leads nowhere is counted below.
        names.append("" if link is None or link.external else link.target)
    seen = {""}
    for name in dict.fromkeys(names):
        root = parts.package.tree(name)
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
        root = parts.tree(f"{kind}s")
        for element in () if root is None else root.iter(W + kind):
            notes[kind, element.get(f"{W}id", "")] = element
    number = 0
    # A note may refer to further notes, which join the list meanwhile.
    while number < len(writer.notes):
        key = writer.notes[number]
        number += 1
        element = notes.pop(key, None)
        if element is not None:
            writer.read(element, parts.only(f"{key[0]}s"), block, label=f"[{number}]")
        elif key not in writer.notes[: number - 1]:
            writer.lost[key[0]] += 1


def _read_comments(writer: Writer, parts: _Parts, block: "_Element") -> None:
    root = parts.tree("comments")
    for comment in () if root is None else root.iter(W + "comment"):
        author = comment.get(f"{W}author", "").strip()
        writer.read(
            comment,
            parts.only("comments"),
            block,
            label=f"Comment by {author}:" if author else "Comment:",
        )


def _said(writer: Writer) -> tuple[str, ...]:
    sentences = []
    for what, count in sorted(writer.lost.items()):
        if what == "hidden text":
            sentences.append("Hidden text is omitted.")
        else:
            sentences.append(
                f"{count} {what} is not read."
                if count == 1
                else f"{what} ({count} times) is not read."
            )
    return tuple(sentence[0].upper() + sentence[1:] for sentence in sentences)
