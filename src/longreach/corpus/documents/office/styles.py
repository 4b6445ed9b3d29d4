"""The styles of a DOCX: headings, numbered paragraphs, hidden and raised runs."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longreach.corpus.documents.office.numbering import W, value, whole

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
    """How a run is shown: `vertical` is "superscript", "subscript" or "" """

    hidden: bool = False
    vertical: str = ""
    struck: bool = False


class Styles:
    """The styles by their id; each takes what it leaves open from the one it is based on."""

    def __init__(self, root: "_Element | None") -> None:
        self._styles: dict[str, _Element] = {}
        for style in () if root is None else root.iter(f"{W}style"):
            self._styles.setdefault(style.get(f"{W}styleId", ""), style)

    def list_numbers(self) -> dict[str, str]:
        """Returns the id of the list that each style names, by the id of the style."""
        found = {}
        for name, style in self._styles.items():
            number = value(style.find(f"{W}pPr/{W}numPr"), "numId")
            if number:
                found[name] = number
        return found

    def paragraph(self, properties: "_Element | None") -> ParagraphLook:
        """Returns what the paragraph with these properties is."""
        named = value(properties, "pStyle")
        heading = 0
        outline = value(properties, "outlineLvl")
        number = value(None if properties is None else properties.find(f"{W}numPr"), "numId")
        level = value(None if properties is None else properties.find(f"{W}numPr"), "ilvl")
        for style in self._chain(named):
            heading = heading or _heading_of(value(style, "name"))
            own = style.find(f"{W}pPr")
            if own is not None:
                outline = outline or value(own, "outlineLvl")
                number = number or value(own.find(f"{W}numPr"), "numId")
                level = level or value(own.find(f"{W}numPr"), "ilvl")
        if named not in self._styles:
            heading = _heading_of(named)
        if not heading and outline:
            heading = whole(outline, 9) + 1
        if not 0 < heading <= _MOST_HEADINGS:
            heading = 0
        # Id 0 takes a paragraph out of the list that its style puts it in.
        return ParagraphLook(
            heading, "" if number == "0" else number, min(max(whole(level, 0), 0), 8)
        )

    def run(self, properties: "_Element | None") -> RunLook:
        """Returns how the run with these properties is shown."""
        if properties is None:
            return RunLook()
        hidden = switch(properties, "vanish")
        vertical = value(properties, "vertAlign")
        for style in self._chain(value(properties, "rStyle")):
            own = style.find(f"{W}rPr")
            if own is not None:
                hidden = switch(own, "vanish") if hidden is None else hidden
                vertical = vertical or value(own, "vertAlign")
        return RunLook(
            bool(hidden),
            vertical,
            bool(switch(properties, "strike") or switch(properties, "dstrike")),
        )

    def _chain(self, name: str) -> "list[_Element]":
        chain: list[_Element] = []
        seen: set[str] = set()
        while name in self._styles and name not in seen:
            seen.add(name)
            chain.append(self._styles[name])
            name = value(chain[-1], "basedOn")
        return chain


def switch(properties: "_Element", name: str) -> bool | None:
    """Returns whether a property that is on or off is on; None where it is not named."""
    found = properties.find(f"{W}{name}")
    return None if found is None else found.get(f"{W}val", "1") not in ("0", "false", "off")


def _heading_of(name: str) -> int:
    if name.lower() == "title":
        return 1
    match = re.fullmatch(r"heading ?([1-9])", name.lower())
    return int(match[1]) if match else 0
