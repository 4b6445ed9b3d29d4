"""HTML to text: what a browser shows, read in the order of the page."""

import re

from longreach.corpus.documents.base import Converted, explain_failures
from longreach.corpus.documents.encodings.decode import decode_html
from longreach.corpus.documents.html.result import HtmlText
from longreach.corpus.documents.html.walk import PageWalk
from longreach.corpus.documents.html.xhtml import is_xml, to_html
from longreach.errors import DocumentError

MOST_NESTED = 5_000
"""How many elements may be open at once; browsers flatten a page at 512."""
# Elements that must be closed, and whose nesting makes a parser slow; others close by themselves.
_DEEP = re.compile(
    r"<(/?)(?:div|section|article|main|header|footer|nav|aside|blockquote|center|ul|ol|dl|form|fieldset"
    r"|table|figure|details|address|dialog|menu|pre|button|object|marquee|h[1-6])\b",
    re.IGNORECASE,
)


def convert(raw: bytes, name: str) -> Converted:
    """Reads a page in the encoding it declares.

    Args:
        raw: The bytes of the file.
        name: The file as messages call it.

    Raises:
        DocumentError: The encoding is not certain, the page nests too deep, or it is damaged.
    """
    page = decode_html(raw, name)
    if name.lower().endswith(".xhtml") or is_xml(page):
        page = to_html(page)
    check_depth(page, name)
    with explain_failures(name, ".html"):
        return Converted(to_markdown(page))


def check_depth(page: str, name: str) -> None:
    """Refuses a page that nests its elements too deep to be read in good time.

    Raises:
        DocumentError: More than `MOST_NESTED` elements are open at once.
    """
    depth = 0
    for tag in _DEEP.finditer(page):
        if tag[1]:
            # An end tag; one too many ends nothing.
            depth = max(0, depth - 1)
        else:
            depth += 1
        if depth > MOST_NESTED:
            limit = f"nests more than {MOST_NESTED:,} elements in each other, which is the limit"
            raise DocumentError(f"{name} {limit}: open it in a browser and save its text.")


def to_markdown(page: str) -> str:
    """Returns the text of an HTML page as a browser shows it.

    Headings, lists and tables are written as Markdown.

    The page is parsed as browsers parse it: a second `<body>`, text after `</html>` and omitted
    tags are not errors. Nothing is escaped, and words are apart or together as a browser shows
    them. Unlike what a browser shows, the text

    - begins with the title, unless the first heading is the same;
    - has `10^6` for a raised 6, `x_i` for a lowered i (but `H2O`), and `住(す)む` for ruby;
    - has the address of a link behind it, if it leads to another site, and what an image stands
      for;
    - repeats the text of a table cell that spans several columns or rows in each of them;
    - has `~~30~~` for what is struck out;
    - contains what the page hides until somebody clicks, because no style sheet is read.

    Scripts, style sheets, templates and comments are not read, and nothing is fetched.
    """
    return read_page(page).join()


def read_page(page: str) -> HtmlText:
    """Returns the text of an HTML page apart from its title."""
    from selectolax.lexbor import LexborHTMLParser

    walk = PageWalk()
    node = LexborHTMLParser(page).root
    depth = 0
    # A loop and no recursion: pages may be nested deeper than Python's stack.
    while node is not None:
        child = None
        if walk.enter(node):
            child = node.first_child
        if child is not None:
            depth += 1
            node = child
            continue
        walk.leave()
        following = node.next
        while following is None and depth > 0:
            depth -= 1
            parent = node.parent
            assert parent is not None
            node = parent
            walk.leave()
            following = node.next
        if depth == 0:
            # What stands beside the root is no part of the page.
            break
        node = following
    return walk.finish()
