"""PDF to text: the text layer of each page, the values of its form fields, and the notes on it."""

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from longreach.corpus.documents.base import Converted, explain_failures
from longreach.corpus.documents.pdf.form import Form
from longreach.corpus.documents.pdf.page import State, read_page
from longreach.errors import DocumentError
from longreach.wording import counted

if TYPE_CHECKING:
    from pypdf import PdfReader

# A file ends with this; what is written after it by accident is short.
_END = b"%%EOF"
_TAIL_BYTES = 2048
# Where pypdf says that it read an object only up to the damage in it.
_OBJECTS_LOG = "pypdf.generic._data_structures"


class _Repairs(logging.Handler):
    """Notices objects that pypdf read only in part, which it says in its log alone."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.happened = False

    def emit(self, record: logging.LogRecord) -> None:
        """Notes a message of pypdf's log."""
        if record.getMessage().startswith("Pdf"):  # the name of an exception
            self.happened = True


@contextmanager
def _watch_repairs() -> Iterator[_Repairs]:
    log = logging.getLogger(_OBJECTS_LOG)
    level = log.level
    propagate = log.propagate
    repairs = _Repairs()
    log.addHandler(repairs)
    log.setLevel(logging.WARNING)
    log.propagate = False
    try:
        yield repairs
    finally:
        log.removeHandler(repairs)
        log.setLevel(level)
        log.propagate = propagate


class _Problem(NamedTuple):
    """What is said about pages in a state, and about a file without a page in a better one."""

    pages: str
    file: str


_PROBLEMS = {
    State.NO_TEXT: _Problem(
        "{} no text layer: run OCR on the file, e.g. with ocrmypdf.",
        "has no text layer (it is empty or scanned): run OCR on it first, e.g. with ocrmypdf.",
    ),
    State.GARBLED: _Problem(
        "{} no text that can be read, as the fonts do not say which letters they show: run ocrmypdf"
        " --force-ocr.",
        "has fonts that do not say which letters they show: run OCR on it first, e.g. with ocrmypdf"
        " --force-ocr.",
    ),
    State.PARTLY_GARBLED: _Problem(
        "{} some text in fonts that do not say which letters they show.", ""
    ),
    State.DAMAGED: _Problem(
        "{} damage and cannot be read: get the file again, or repair it, e.g. with qpdf.",
        "is damaged, no page of it can be read: get it again, or repair it, e.g. with qpdf.",
    ),
    State.PARTLY_DAMAGED: _Problem("{} damage, and only a part of the text could be read.", ""),
}


def convert(raw: bytes, name: str) -> Converted:
    """Reads a PDF page by page; see `Format.convert` for arguments and errors."""
    from pypdf import PasswordType, PdfReader
    from pypdf.errors import DependencyError

    with explain_failures(name, ".pdf"), _watch_repairs() as repairs:
        try:
            is_cut_off = _END not in raw[-_TAIL_BYTES:]
            if is_cut_off:
                raw = _append_end(raw)
            reader = PdfReader(io.BytesIO(raw))
            # Many files are encrypted with an empty password, only to forbid printing.
            if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
                raise DocumentError(
                    f"{name} is password-protected: remove the password, e.g. with qpdf --decrypt."
                )
            converted = _read(reader, name, is_cut_off)
        except DependencyError as error:
            advice = "pip install cryptography, or save a copy without protection."
            raise DocumentError(
                f"{name} is encrypted in a way that needs another package: {advice}"
            ) from error
    if repairs.happened and not converted.notes:
        return converted._replace(
            notes=("The file is damaged in places, and only what could be repaired was read.",)
        )
    return converted


def _read(reader: "PdfReader", name: str, is_cut_off: bool) -> Converted:
    form = Form(reader)
    pages: dict[State, list[int]] = {state: [] for state in State}
    texts = []
    letters = dict.fromkeys(State, 0)
    found = len(reader.pages)
    for number in range(1, found + 1):
        page = read_page(reader, number - 1)
        pages[page.state].append(number)
        letters[page.state] += page.letters
        lines = [page.text]
        if page.page is not None:
            lines += form.read(page.page)
        texts.append("\n".join(filter(None, lines)))
    texts.append("\n".join(form.read_rest()))
    text = "\n\n".join(filter(None, texts))
    garbled = letters[State.GARBLED]
    # The readable rest would look like the whole document.
    if garbled > sum(letters.values()) - garbled:
        raise DocumentError(f"{name} {_PROBLEMS[State.GARBLED].file}")
    if not text.strip():
        worst = State.NO_TEXT
        if pages[State.DAMAGED] and not pages[State.NO_TEXT]:
            worst = State.DAMAGED
        raise DocumentError(f"{name} {_PROBLEMS[worst].file}")
    notes = []
    for state, problem in _PROBLEMS.items():
        if pages[state]:
            notes.append(problem.pages.format(_name_pages(pages[state])))
    notes += _describe_file(reader, found, is_cut_off)
    return Converted(text, (*notes, *form.describe_losses()))


def _append_end(raw: bytes) -> bytes:
    """Gives a file that was cut off an end, so that pypdf looks for the objects itself."""
    before = raw[: max(raw.rfind(b"/Catalog"), 0)]
    number = re.search(rb"([0-9]{1,10}\s{1,4}[0-9]{1,5}) obj[^j]*$", before[-_TAIL_BYTES:])
    trailer = b""
    if number is not None:
        trailer = b"trailer\n<</Root %s R>>\n" % number[1]
    # The place of the table of objects is wrong on purpose: it is made anew from the objects.
    return raw + b"\n" + trailer + b"startxref\n0\n%%EOF\n"


def _describe_file(reader: "PdfReader", found: int, is_cut_off: bool) -> list[str]:
    notes = []
    listed = reader.root_object.get("/Pages", {}).get_object().get("/Count")
    # pypdf skips pages that it cannot find.
    if isinstance(listed, int) and listed > found:
        notes.append(f"The file lists {counted(listed, 'page')}, but only {found} are in it.")
    if is_cut_off:
        notes.append("The file is cut off: pages and other parts at its end may be missing.")
    return notes


def _name_pages(numbers: list[int]) -> str:
    """Names pages with a verb: "Page 3 has", "Pages 3, 7-9 have"."""
    if len(numbers) == 1:
        return f"Page {numbers[0]} has"
    spans: list[range] = []
    for number in numbers:
        if spans and number == spans[-1].stop:
            spans[-1] = range(spans[-1].start, number + 1)
        else:
            spans.append(range(number, number + 1))
    names = []
    for span in spans:
        names.append(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}")
    return f"Pages {', '.join(names)} have"
