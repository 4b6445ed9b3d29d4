"""Objects of PDF files, damaged ones too, as plain values."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pypdf.generic import DictionaryObject


def resolve(value: object) -> Any:
    """Returns the object that a reference leads to; other values, None too, as they are."""
    if hasattr(value, "get_object"):
        return value.get_object()
    return value


def iterate_dicts(array: object) -> "Iterator[DictionaryObject]":
    """Yields the dictionaries in an array; none if it is no array."""
    found = resolve(array)
    if not isinstance(found, list):
        return
    for entry in found:
        value = resolve(entry)
        if isinstance(value, dict):
            yield cast("DictionaryObject", value)


def to_text(given: object) -> str:
    """Returns a string, a name, a number, or a stream of text, as text."""
    value: Any = resolve(given)
    # Long texts are stored as streams, which are dictionaries to pypdf.
    is_stream = hasattr(value, "get_data")
    if value is None or (isinstance(value, (dict, list)) and not is_stream):
        return ""
    if is_stream:
        value = value.get_data()
    if isinstance(value, bytes):
        is_wide = value.startswith((b"\xfe\xff", b"\xff\xfe"))
        return value.decode("utf-16" if is_wide else "latin-1", "replace")
    return str(value).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def rich_to_text(value: object) -> str:
    """Returns the words of rich text, which is XHTML."""
    text = to_text(value)
    if not text.strip():
        return ""
    from lxml import html

    root = html.fromstring(text.encode(), parser=html.HTMLParser(encoding="utf-8"))
    return " ".join(" ".join(root.itertext()).split())
