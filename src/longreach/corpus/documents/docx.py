"""DOCX to text."""

import functools
import io
from typing import Any

from longreach.corpus.documents.archive import opened
from longreach.corpus.documents.base import Converted


def convert(raw: bytes, name: str) -> Converted:
    """Reads a DOCX file; see `html.convert` for arguments and errors."""
    from markitdown import StreamInfo

    with opened(raw, name, ".docx"):
        about = StreamInfo(extension=".docx", charset="utf-8")
        return Converted(str(_engine().convert_stream(io.BytesIO(raw), stream_info=about).text_content))


@functools.cache
def _engine() -> Any:
    from markitdown import MarkItDown, converters

    engine = MarkItDown(enable_builtins=False, enable_plugins=False)
    engine.register_converter(converters.DocxConverter())
    return engine
