"""HTML to text."""

import functools
import io
from typing import Any

from longreach.corpus.documents.base import Converted, converting
from longreach.corpus.documents.encoding import decode_html


def convert(raw: bytes, name: str) -> Converted:
    """Reads a page in the encoding it declares.

    Args:
        raw: The bytes of the file.
        name: The file as messages call it.

    Raises:
        DocumentError: The encoding is not certain, or the page is damaged.
    """
    text = decode_html(raw, name)
    with converting(name, ".html"):
        return Converted(markdown(text))


def markdown(page: str) -> str:
    """Returns the text of an HTML page; headings, lists and tables as Markdown."""
    from markitdown import StreamInfo

    about = StreamInfo(extension=".html", charset="utf-8")
    return str(_engine().convert_stream(io.BytesIO(page.encode()), stream_info=about).text_content)


@functools.cache
def _engine() -> Any:
    from markitdown import MarkItDown, converters

    engine = MarkItDown(enable_builtins=False, enable_plugins=False)
    engine.register_converter(converters.HtmlConverter())
    return engine
