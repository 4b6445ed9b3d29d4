"""XHTML, which is XML, as HTML that means the same."""

import html
import re

# A `<` never stands in the attributes of well-formed XML, so each match ends at the next tag.
_EMPTY_TAG = re.compile(r"<([A-Za-z][\w:.-]*)((?:[^<>\"']|\"[^<\"]*\"|'[^<']*')*)/>")
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_DOCTYPE = re.compile(r"<!DOCTYPE\b[^\[<>]*\[", re.IGNORECASE)
_ENTITY = re.compile(r"<!ENTITY\s+([\w.-]+)\s+(?:\"([^\"<&%]*)\"|'([^'<&%]*)')\s*>")
_REFERENCE = re.compile(r"&([A-Za-z_][\w.-]*);")
_PREFIX = re.compile(r"<([A-Za-z][\w.-]*):html\b")
# Elements of HTML that never have an end tag.
_VOID = frozenset(
    "area base br col embed hr img input link meta param source track wbr".split()  # noqa: SIM905
)
_LONGEST_ENTITY = 1_000
_MOST_ADDED = 1_000_000


def is_xml(page: str) -> bool:
    """Returns whether a page begins as XML does."""
    return page.lstrip("\ufeff \t\r\n").startswith("<?xml")


def to_html(page: str) -> str:
    """Returns an XHTML page as HTML.

    In HTML `<script/>` has no end, `<![CDATA[` is a comment, an element with a namespace prefix is
    unknown, and a page cannot define entities. Entities that contain others are left alone: they
    can grow without bounds.
    """
    page = _replace_entities(page)
    # Up to the last end only: each section without an end would be looked for to the end of the
    # page.
    end = page.rfind("]]>") + 3
    if end > 2:
        page = _CDATA.sub(_escape, page[:end]) + page[end:]
    prefix = _PREFIX.search(page)
    if prefix is not None:
        page = re.sub(rf"(</?){re.escape(prefix[1])}:", r"\1", page)
    return _EMPTY_TAG.sub(_close, page)


def _replace_entities(page: str) -> str:
    begin = _DOCTYPE.search(page)
    if begin is None:
        return page
    end = re.compile(r"\]\s*>").search(page, begin.end())
    if end is None:
        return page
    entities: dict[str, str] = {}
    for entity in _ENTITY.finditer(page, begin.end(), end.start()):
        value = entity[2]
        if value is None:
            # In single quotation marks.
            value = entity[3]
        if len(value) <= _LONGEST_ENTITY:
            entities.setdefault(entity[1], value)
    left = _MOST_ADDED

    def replace(reference: re.Match[str]) -> str:
        nonlocal left
        value = entities.get(reference[1])
        if value is None or left < len(value):
            return reference[0]
        left -= len(value)
        return value

    return _REFERENCE.sub(replace, page[end.end() :])


def _escape(section: re.Match[str]) -> str:
    return html.escape(section[1], quote=False)


def _close(tag: re.Match[str]) -> str:
    name = tag[1]
    if name.lower() in _VOID:
        return tag[0]
    return f"<{name}{tag[2]}></{name}>"
