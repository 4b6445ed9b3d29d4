"""The styles of a DOCX: headings, numbered paragraphs, hidden and raised runs."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longreach.corpus.documents.office.names import W
from longreach.corpus.documents.office.properties import (
    find_child,
    is_on,
    parse_whole,
    read_value,
)

if TYPE_CHECKING:
    from lxml.etree import _Element

_MOST_HEADINGS = 6


@dataclass(frozen=True)
class ParagraphLook:
    """What a paragraph is.

    Attributes:
        heading: The level of a heading, from 1; 0 for other paragraphs.
        list_number: The id of the list it is in, "" for none.
        level: Its level in the list, from 0.
    """

    heading: int = 0
    list_number: str = ""
    level: int = 0


@dataclass(frozen=True)
class RunLook:
    """How a run is shown; `vertical` may be "superscript", "subscript" or empty."""

    hidden: bool = False
    vertical: str = ""
    struck: bool = False


class Styles:
    """The styles by their id; each takes what it leaves open from the one it is based on."""

    def __init__(self, root: "_Element | None") -> None:
        self._styles: dict[str, _Element] = {}
        if root is not None:
            for style in root.iter(f"{W}style"):
                self._styles.setdefault(style.get(f"{W}styleId", ""), style)

    def find_lists(self) -> dict[str, str]:
        """Returns the id of the list that each style names, by the id of the style."""
        found = {}
        for name, style in self._styles.items():
            number = read_value(style.find(f"{W}pPr/{W}numPr"), "numId")
            if number:
                found[name] = number
        return found

    def describe_paragraph(self, properties: "_Element | None") -> ParagraphLook:
        """Returns what the paragraph with these properties is."""
        named = read_value(properties, "pStyle")
        heading = 0
        outline = read_value(properties, "outlineLvl")
        in_list = find_child(properties, "numPr")
        number = read_value(in_list, "numId")
        level = read_value(in_list, "ilvl")
        # What a style does not say is said by the one that it is based on.
        for style in self._chain(named):
            heading = heading or _find_heading(read_value(style, "name"))
            own = style.find(f"{W}pPr")
            if own is not None:
                outline = outline or read_value(own, "outlineLvl")
                number = number or read_value(own.find(f"{W}numPr"), "numId")
                level = level or read_value(own.find(f"{W}numPr"), "ilvl")
        # The usual styles need not be in the file.
        if named not in self._styles:
            heading = _find_heading(named)
        # Any paragraph may have an outline level, which makes it a heading. It counts from 0.
        if not heading and outline:
            heading = parse_whole(outline, 9) + 1
        if not 0 < heading <= _MOST_HEADINGS:
            heading = 0
        # Id 0 takes a paragraph out of the list that its style puts it in.
        if number == "0":
            number = ""
        return ParagraphLook(heading, number, min(max(parse_whole(level, 0), 0), 8))

    def describe_run(self, properties: "_Element | None") -> RunLook:
        """Returns how the run with these properties is shown."""
        if properties is None:
            return RunLook()
        hidden = _read_switch(properties, "vanish")
        vertical = read_value(properties, "vertAlign")
        for style in self._chain(read_value(properties, "rStyle")):
            own = style.find(f"{W}rPr")
            if own is not None:
                if hidden is None:
                    hidden = _read_switch(own, "vanish")
                vertical = vertical or read_value(own, "vertAlign")
        is_struck = _read_switch(properties, "strike") or _read_switch(properties, "dstrike")
        return RunLook(bool(hidden), vertical, bool(is_struck))

    def _chain(self, name: str) -> "list[_Element]":
        chain: list[_Element] = []
        # Damaged files hold styles that are based on each other.
        seen: set[str] = set()
        while name in self._styles and name not in seen:
            seen.add(name)
            chain.append(self._styles[name])
            name = read_value(chain[-1], "basedOn")
        return chain


def _read_switch(properties: "_Element", name: str) -> bool | None:
    """Returns whether a property that is on or off is on; None if it is not named."""
    found = properties.find(f"{W}{name}")
    if found is None:
        return None
    return is_on(found)


def _find_heading(name: str) -> int:
    """Returns the level of the heading that a style of this name makes; 0 if it makes none."""
    if name.lower() == "title":
        return 1
    match = re.fullmatch(r"heading ?([1-9])", name.lower())
    if match is None:
        return 0
    return int(match[1])
