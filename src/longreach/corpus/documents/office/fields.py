"""Fields of a DOCX, such as page numbers and links: a code, and the result that is shown."""

from typing import TYPE_CHECKING

from longreach.corpus.documents.office.names import W

if TYPE_CHECKING:
    from lxml.etree import _Element


def find_codes(root: "_Element") -> "set[_Element]":
    """Returns the text elements that belong to the code of a field, and not to its result."""
    begun: list[_Element] = []
    coded: set[_Element] = set()
    ended: set[_Element] = set()
    for mark in root.iter(W + "fldChar"):
        kind = mark.get(f"{W}fldCharType")
        # Fields nest: the code of one may contain others.
        if kind == "begin":
            begun.append(mark)
        elif begun and kind in ("separate", "end"):
            begin = begun[-1]
            # Without a separator a field has no result, and its code reaches to its end.
            if begin not in coded:
                coded.add(begin)
                ended.add(mark)
            if kind == "end":
                begun.pop()
    # What is between the marks of any code is no text, however deep it is.
    depth = 0
    codes = set()
    for element in root.iter(W + "fldChar", W + "t"):
        if element in coded:
            depth += 1
        elif element in ended:
            depth -= 1
        elif depth > 0 and element.tag == W + "t":
            codes.add(element)
    return codes
