"""How the items of an HTML list are numbered."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longreach.corpus.documents.office import roman

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_NUMBER = re.compile(r"\s*([+-]?\d{1,9})", re.ASCII)


@dataclass
class Numbering:
    """The numbers of an ordered list.

    Attributes:
        number: That of the next item.
        step: 1, or -1 in a reversed list.
        style: How it is written, as in the attribute `type`: "1", "a", "A", "i" or "I".
    """

    number: int = 1
    step: int = 1
    style: str = "1"

    @classmethod
    def of(cls, node: "LexborNode") -> "Numbering":
        """Reads the attributes of an `<ol>`."""
        attributes = node.attributes
        numbering = cls(style=str(attributes.get("type") or "1"))
        if "reversed" in attributes:
            numbering.step = -1
            numbering.number = sum(1 for child in node.iter() if child.tag == "li")
        numbering.number = _number(attributes.get("start"), numbering.number)
        return numbering

    def next(self, value: str) -> str:
        """Returns the marker of the next item, whose attribute `value` may set its number anew."""
        number = _number(value, self.number)
        self.number = number + self.step
        return f"{_written(number, self.style)}. "


def _number(value: str | None, default: int) -> int:
    digits = _NUMBER.match(value or "")
    return int(digits[1]) if digits else default


def _written(number: int, style: str) -> str:
    if style in ("a", "A") and number > 0:
        letters = ""
        while number > 0:
            number, letter = divmod(number - 1, 26)
            letters = chr(ord("a") + letter) + letters
        return letters.upper() if style == "A" else letters
    if style in ("i", "I") and 0 < number <= roman.MOST:
        numeral = roman.to_roman(number)
        return numeral.upper() if style == "I" else numeral
    return str(number)
