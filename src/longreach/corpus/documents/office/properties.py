"""Properties in WordprocessingML, such as `<w:start w:val="3"/>`."""

import re
from typing import TYPE_CHECKING

from longreach.corpus.documents.office.names import W

if TYPE_CHECKING:
    from lxml.etree import _Element

_OFF = ("0", "false", "off")


def find_child(element: "_Element | None", name: str) -> "_Element | None":
    """Returns a child of an element that need not be there; None if either is missing."""
    if element is None:
        return None
    return element.find(f"{W}{name}")


def read_value(element: "_Element | None", name: str) -> str:
    """Returns the value of a property; "" if it is not there."""
    found = find_child(element, name)
    if found is None:
        return ""
    return found.get(f"{W}val", "")


def is_on(found: "_Element | None") -> bool:
    """Returns whether a property that is on or off is there, and on."""
    # The element alone, without a value, means that it is on.
    return found is not None and found.get(f"{W}val", "1") not in _OFF


def parse_whole(text: str, default: int) -> int:
    """Returns a whole number of at most six digits, else `default`, as in damaged files."""
    if not re.fullmatch(r"-?[0-9]{1,6}", text):
        return default
    return int(text)
