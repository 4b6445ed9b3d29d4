"""DOCX to text.

The order is: page headers, body, footnotes and endnotes, comments, page footers. Text boxes come after the paragraph
that holds them. Deleted and hidden text is left out.
"""

from typing import TYPE_CHECKING

from longreach.corpus.documents.base import Converted
from longreach.corpus.documents.html import markdown
from longreach.corpus.documents.numbering import Numbering, W
from longreach.corpus.documents.ooxml import RELATIONSHIP, Package, opened_package
from longreach.corpus.documents.wordml import Writer
from longreach.corpus.documents.wordstyles import Styles

if TYPE_CHECKING:
    from lxml.etree import _Element


def convert(raw: bytes, name: str) -> Converted:
    """Reads a DOCX file; see `html.convert` for arguments and errors."""
    from lxml import etree

    with opened_package(raw, name, ".docx") as package:
        page, notes = _page(package)
        return Converted(markdown(etree.tostring(page, encoding="unicode", method="html")), notes)


def _page(package: Package) -> "tuple[_Element, tuple[str, ...]]":
    """The whole document as a page of HTML, and what of it could not be read."""
    from lxml.etree import Element, SubElement

    main = next(iter(package.related("", "officeDocument")), "word/document.xml")
    root = package.tree(main)
    body = None if root is None else root.find(W + "body")
    if root is None or body is None:
        raise ValueError("no main part")
    styles = Styles(_only(package, main, "styles"))
    writer = Writer(package, styles, Numbering(_only(package, main, "numbering"), styles.list_numbers()))
    page = Element("html")
    block = SubElement(page, "body")
    _read_margins(writer, package, main, body, "header", block)
    writer.read(body, main, block)
    _read_notes(writer, package, main, block)
    _read_comments(writer, package, main, block)
    _read_margins(writer, package, main, body, "footer", block)
    return page, _said(writer)


def _only(package: Package, main: str, kind: str) -> "_Element | None":
    names = package.related(main, kind)
    return package.tree(names[0]) if names else None


def _read_margins(writer: Writer, package: Package, main: str, body: "_Element", kind: str, block: "_Element") -> None:
    """Appends the page headers or the page footers of all sections, equal ones once."""
    from lxml.etree import Element

    links = package.links(main)
    parts = []
    for reference in body.iter(f"{W}{kind}Reference"):
        link = links.get(reference.get(RELATIONSHIP + "id", ""))
        if link is not None and not link.external:
            parts.append(link.target)
    seen = {""}
    for part in dict.fromkeys(parts):
        root = package.tree(part)
        if root is None:
            writer.lost[f"page {kind}"] += 1
            continue
        margin = Element("div")
        writer.read(root, part, margin)
        text = " ".join("".join(margin.itertext()).split())
        if text not in seen:
            seen.add(text)
            block.append(margin)


def _read_notes(writer: Writer, package: Package, main: str, block: "_Element") -> None:
    """Appends the footnotes and endnotes that the text refers to, in the order of their numbers."""
    notes: dict[tuple[str, str], _Element] = {}
    parts = {}
    for kind in ("footnote", "endnote"):
        root = _only(package, main, f"{kind}s")
        parts[kind] = next(iter(package.related(main, f"{kind}s")), "")
        for element in () if root is None else root.iter(W + kind):
            notes[kind, element.get(f"{W}id", "")] = element
    number = 0
    # A note may refer to further notes, which join the list meanwhile.
    while number < len(writer.notes):
        key = writer.notes[number]
        number += 1
        element = notes.pop(key, None)
        if element is not None:
            writer.read(element, parts[key[0]], block, label=f"[{number}]")
        elif key not in writer.notes[: number - 1]:
            writer.lost[key[0]] += 1


def _read_comments(writer: Writer, package: Package, main: str, block: "_Element") -> None:
    root = _only(package, main, "comments")
    part = next(iter(package.related(main, "comments")), "")
    for comment in () if root is None else root.iter(W + "comment"):
        author = comment.get(f"{W}author", "").strip()
        writer.read(comment, part, block, label=f"Comment by {author}:" if author else "Comment:")


def _said(writer: Writer) -> tuple[str, ...]:
    sentences = []
    for what, count in sorted(writer.lost.items()):
        if what == "hidden text":
            sentences.append("Hidden text is left out.")
        else:
            sentences.append(f"{count} {what} is not read." if count == 1 else f"{what} ({count} times) is not read.")
    return tuple(sentence[0].upper() + sentence[1:] for sentence in sentences)
