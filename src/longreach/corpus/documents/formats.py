"""The registry of document formats: which files are read, and which function converts them.

A format names its converter as "package.module:function", because the function runs in another
process, which imports it by that name. Only names that code registered are ever imported, never one
that a file or a corpus contains.

A package adds a format with `register`, or declares it as an entry point of the group
"longreach.formats", which commands find without an import:

    [project.entry-points."longreach.formats"]
    letter = "package.letter:FORMAT"
"""

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

from longreach.corpus.documents.base import Converted, explain_failures
from longreach.errors import UsageError, reason_of
from longreach.installed import Announced, load_announced

ENTRY_POINTS = "longreach.formats"
_HERE = "longreach.corpus.documents"
# `Path.suffix` is the last one only, so one with a second dot would never match.
_SUFFIX = re.compile(r"\.[^\s./\\A-Z]+")
# A damaged file can have a note for each of its pages.
_MOST_NOTES = 100
_LONGEST_NOTE = 1000
_CONVERTER = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")

Convert = Callable[[bytes, str], Converted]


@dataclass(frozen=True)
class Format:
    """A format of documents.

    Attributes:
        name: The format as people call it, such as "PDF".
        suffixes: The suffixes of its files, in lower case and with the dot.
        converter: The function that turns the bytes of a file and its name in messages into a
            `Converted`, as "package.module:function". It raises DocumentError for a file that it
            cannot read.
        isolated: Whether files are always converted in a process of their own, where the limits
            of time and memory hold. Without it, files in UTF-8 are converted in this process.

    Raises:
        UsageError: There is no suffix, or a suffix or the converter's name has another form.
    """

    name: str
    suffixes: tuple[str, ...]
    converter: str
    isolated: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.suffixes, tuple) or not self.suffixes:
            raise UsageError(f"The format {self.name!r} has no suffixes: give a tuple of them.")
        for suffix in self.suffixes:
            if not _SUFFIX.fullmatch(suffix):
                raise UsageError(
                    f"The suffix {suffix!r} of the format {self.name!r} matches no file: give one"
                    " in lower case that begins with its only dot, such as '.txt'."
                )
        if not _CONVERTER.fullmatch(self.converter) or self.converter.startswith("__main__:"):
            raise UsageError(
                f"The converter {self.converter!r} of the format {self.name!r} cannot be imported"
                " by another process: give 'package.module:function'."
            )

    def convert(self, data: bytes, name: str) -> Converted:
        """Returns the text of a file, and notes of a bounded number and length.

        Args:
            data: The bytes of the file.
            name: The file as messages call it.

        Raises:
            DocumentError: The file cannot be read.
            UsageError: The converter cannot be imported, or returns something else.
        """
        # Imported at the first file, because converters bring large libraries along.
        convert = import_converter(self.converter)
        with explain_failures(name, self.suffixes[0]):
            found = convert(data, name)
        if not isinstance(found, Converted) or not isinstance(found.text, str):
            raise UsageError(
                f"The converter {self.converter} returns no Converted: return one that holds the"
                " text of the file."
            )
        return Converted(found.text, _bound(found.notes))


PLAIN = Format(
    "plain text",
    (".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex", ".srt", ".vtt"),
    f"{_HERE}.plain:convert",
    isolated=False,
)
"""How files are read whose suffix belongs to no format."""
_BUILT_IN = (
    PLAIN,
    Format("HTML", (".html", ".htm", ".xhtml"), f"{_HERE}.html.page:convert"),
    Format("PDF", (".pdf",), f"{_HERE}.pdf.document:convert"),
    Format("DOCX", (".docx", ".docm", ".dotx", ".dotm"), f"{_HERE}.office.docx:convert"),
    Format("EPUB", (".epub",), f"{_HERE}.epub.book:convert"),
    Format("separated values", (".csv", ".tsv", ".tab"), f"{_HERE}.csv:convert"),
    Format("XLSX", (".xlsx", ".xlsm"), f"{_HERE}.office.xlsx:convert"),
    Format("PPTX", (".pptx", ".pptm", ".ppsx"), f"{_HERE}.office.pptx:convert"),
)


class _Registry:
    """The formats by suffix; those of installed packages are loaded when the first one is asked."""

    def __init__(self) -> None:
        self._formats: dict[str, Format] = {}
        self._is_complete = False
        for format in _BUILT_IN:
            self.add(format)

    def add(self, format: Format, *, replace: bool = False) -> None:
        for suffix in format.suffixes:
            other = self._formats.get(suffix, format)
            if other != format and not replace:
                raise UsageError(
                    f"Files that end in {suffix} are already read as {other.name}: choose another"
                    f" suffix for {format.name!r}, or register it with replace=True."
                )
        self._formats.update(dict.fromkeys(format.suffixes, format))

    def drop(self, format: Format) -> None:
        for suffix in format.suffixes:
            if self._formats.get(suffix) == format:
                del self._formats[suffix]
        # A format that this one replaced reads its suffixes again.
        for other in _BUILT_IN:
            for suffix in other.suffixes:
                self._formats.setdefault(suffix, other)

    def get(self) -> dict[str, Format]:
        if not self._is_complete:
            # Not at import: reading what is installed takes time, and loading it runs code of
            # others.
            what = "document format"
            for entry in load_announced(ENTRY_POINTS, what, error_class=UsageError):
                self.add(_require_format(entry))
            self._is_complete = True
        return self._formats


_REGISTRY = _Registry()


def register(format: Format, *, replace: bool = False) -> None:
    """Adds a format to those that `ingest`, `Corpus.add` and training on texts read.

    Args:
        format: The format; registering it once more changes nothing.
        replace: Let it read suffixes that belong to another format until now.

    Raises:
        UsageError: A suffix belongs to another format, or the converter cannot be imported.
    """
    # A wrong name is said here, and not once for each file.
    import_converter(format.converter)
    _REGISTRY.add(format, replace=replace)


def unregister(format: Format) -> None:
    """Removes a format that was registered; a built-in one that it replaced is back."""
    _REGISTRY.drop(format)


def list_suffixes() -> list[str]:
    """Returns the suffixes of all formats, in lower case and sorted.

    Raises:
        UsageError: A format that an installed package brings cannot be used.
    """
    return sorted(_REGISTRY.get())


def find_format(suffix: str) -> Format:
    """Returns the format of files with a suffix, in any case; `PLAIN` if it belongs to none."""
    return _REGISTRY.get().get(suffix.lower(), PLAIN)


def import_converter(name: str) -> Convert:
    """Imports a converter by its name, "package.module:function".

    Raises:
        UsageError: There is no such function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"The converter {name} cannot be imported ({reason_of(error)}): correct its name, or"
            " install its package."
        ) from error
    if not callable(found):
        raise UsageError(f"The converter {name} is no function: give 'package.module:function'.")
    return cast(Convert, found)


def _bound(notes: Iterable[str]) -> tuple[str, ...]:
    """Returns so few and so short notes that people can read them."""
    listed = [str(note)[:_LONGEST_NOTE] for note in notes]
    more = len(listed) - _MOST_NOTES
    if more > 0:
        listed = [*listed[:_MOST_NOTES], f"There are {more:,} more notes like these."]
    return tuple(listed)


def _require_format(entry: Announced) -> Format:
    if not isinstance(entry.loaded, Format):
        raise UsageError(
            f"The document format {entry.place} of an installed package is no Format: update that"
            " package or uninstall it."
        )
    return entry.loaded
