"""How the items of an HTML list are numbered."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longreach.corpus.documents.numerals import may_be_roman, to_roman

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_NUMBER = re.compile(r"\s*([+-]?\d{1,9})", re.ASCII)


@dataclass
class ListNumbering:
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
    def of(cls, node: "LexborNode") -> "ListNumbering":
        """Reads the attributes of an `<ol>`."""
        attributes = node.attributes
        numbering = cls(style=str(attributes.get("type") or "1"))
        if "reversed" in attributes:
            numbering.step = -1
            # It counts down to 1.
            numbering.number = [child.tag for child in node.iter()].count("li")
        numbering.number = _parse_number(attributes.get("start"), numbering.number)
        return numbering

    def next(self, value: str) -> str:
        """Returns the marker of the next item, whose attribute `value` may set its number anew."""
        number = _parse_number(value, self.number)
        self.number = number + self.step
        return f"{_write_number(number, self.style)}. "


def _parse_number(value: str | None, default: int) -> int:
    """Returns the number in an attribute, read as browsers read it."""
    digits = _NUMBER.match(value or "")
    if digits is None:
        return default
    return int(digits[1])


def _write_number(number: int, style: str) -> str:
    """Returns a number in digits, letters or Roman numerals."""
    written = str(number)
    if style in ("a", "A") and number > 0:
        # After z comes aa, after az comes ba.
        written = ""
        while number > 0:
            number, letter = divmod(number - 1, 26)
            written = chr(ord("a") + letter) + written
    elif style in ("i", "I") and may_be_roman(number):
        written = to_roman(number)
    return written.upper() if style.isupper() else written
