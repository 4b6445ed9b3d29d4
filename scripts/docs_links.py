"""A hook of mkdocs: links from the manual to files of the repository become their paths.

The manual is built from docs/ alone. A link to a file outside it works where the repository is
browsed; on the built page its path is shown instead. A link to a file that does not exist fails
the build.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)\)")


def on_page_markdown(markdown: str, page: Any, **rest: Any) -> str:
    """Returns the text of a page with links out of docs/ replaced."""

    def show_path(link: re.Match[str]) -> str:
        path = link[2].removeprefix("../")
        if not (ROOT / path).exists():
            raise FileNotFoundError(
                f"{page.file.src_path} links to '{path}', which does not exist."
            )
        return f"{link[1]} (`{path}`)"

    return LINK.sub(show_path, markdown)
