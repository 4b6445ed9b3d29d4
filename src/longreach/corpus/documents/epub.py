"""EPUB to text."""

import functools
import io
from pathlib import Path
from typing import Any

from longreach.corpus.documents.archive import locked, opened
from longreach.corpus.documents.base import Converted
from longreach.corpus.documents.encoding import decode_html
from longreach.errors import DocumentError

_PAGES = frozenset({".html", ".htm", ".xhtml"})


def convert(raw: bytes, name: str) -> Converted:
    """Reads an EPUB file; see `html.convert` for arguments and errors."""
    from markitdown import StreamInfo

    with opened(raw, name, ".epub") as archive:
        for page in archive.namelist():
            if Path(page).suffix.lower() not in _PAGES:
                continue
            try:  # the converter would guess an encoding, and say nothing
                decode_html(archive.read(page), f"{name} (in it, {page})")
            except DocumentError as error:
                if "META-INF/encryption.xml" in archive.namelist():
                    raise DocumentError(locked(name)) from error
                raise
        about = StreamInfo(extension=".epub", charset="utf-8")
        return Converted(str(_engine().convert_stream(io.BytesIO(raw), stream_info=about).text_content))


@functools.cache
def _engine() -> Any:
    from markitdown import MarkItDown, converters

    engine = MarkItDown(enable_builtins=False, enable_plugins=False)
    engine.register_converter(converters.EpubConverter())
    return engine
