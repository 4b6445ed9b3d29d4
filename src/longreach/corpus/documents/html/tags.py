"""Which HTML elements begin blocks, lines and boxes, and which are not read."""

import re

_STYLE = re.compile(r"(?:^|[;\s])(display|float|position)\s*:\s*([a-z-]+)", re.IGNORECASE)


def _split(names: str) -> frozenset[str]:
    return frozenset(names.split())


UNREAD = _split(
    "script style template noscript iframe noembed noframes datalist rp annotation annotation-xml"
)
# What browsers show as blocks with a margin, and those that divide a page.
_PARAGRAPHS = _split(
    "address article aside blockquote body center dialog dir div dl fieldset figcaption figure"
    " footer form frameset h1 h2 h3 h4 h5 h6 header hgroup hr html legend listing main menu nav ol"
    " p plaintext pre search section table ul xmp details"
)
_LINES = _split("caption dd dt li optgroup option summary tr")
_BOXES = _split(
    "audio button canvas embed input meter object progress select td text textarea th video"
)
PRE = _split("listing plaintext pre textarea xmp")
LISTS = _split("dir menu ol ul")
HEADINGS = _split("h1 h2 h3 h4 h5 h6")
STRUCK = _split("del s strike")
ROWS = _split("tbody tfoot thead tr")
PARTS = _split("fraction-bottom fraction-top rt sub sup td th title")


def find_edge(tag: str, style: str) -> str:
    """Returns what an element begins and ends: "paragraph", "line", "box" or nothing ("").

    A box stands within a line.
    """
    found = ""
    if tag in _PARAGRAPHS:
        found = "paragraph"
    elif tag in _LINES:
        found = "line"
    elif tag in _BOXES:
        found = "box"
    for rule in _STYLE.finditer(style):
        name = rule[1].lower()
        value = rule[2].lower()
        if name != "display":
            # What floats or is placed elsewhere stands apart.
            if value not in ("none", "static", "relative", "sticky"):
                found = found or "line"
        elif value in ("inline", "contents"):
            found = ""
        elif value == "table-cell" or value.startswith("inline-"):
            found = "box"
        elif value != "none":
            found = found if found == "paragraph" else "line"
    return found
