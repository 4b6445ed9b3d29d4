"""The text of a page, with its title apart."""

from typing import NamedTuple


class HtmlText(NamedTuple):
    """A page's title, the text of its body, and its headings as they are compared."""

    title: str
    body: str
    headings: frozenset[str]

    def join(self) -> str:
        """Returns the text of the page, under its title unless the text begins with it."""
        title = normalize_line(self.title)
        first = normalize_line(self.body.partition("\n")[0])
        # Most pages repeat their title as the first heading.
        if not title or title in self.headings or first == title:
            return self.body
        if not self.body:
            return self.title
        return f"{self.title}\n\n{self.body}"


def normalize_line(text: str) -> str:
    """Returns a line as it is compared with the title."""
    return " ".join(text.lstrip("#").casefold().split())
