"""What a PDF holds beside its text layer: form fields, readers' notes, attached files."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader
    from pypdf.generic import EncodedStreamObject

_DEEPEST = 64
_PUSH_BUTTON = 1 << 16
# Kinds of annotations that carry no words of their own.
_SILENT = frozenset(
    {"/Link", "/Popup", "/Widget", "/PrinterMark", "/TrapNet", "/Screen", "/3D", "/RichMedia"}
)


class Form:
    """Reads the fields and notes of a file, each once, page by page."""

    def __init__(self, reader: "PdfReader") -> None:
        self._reader = reader
        self._seen: set[Any] = set()
        self._attached: list[str] = []
        self._failed = False

    def read(self, page: "PageObject") -> list[str]:
        """Returns the fields of a page as "name: value", and the notes on it, one a line."""
        lines = []
        for annotation in self._list(page.get("/Annots")):
            try:
                lines.append(self._read_annotation(annotation, page))
            except MemoryError:
                raise
            except Exception:  # a damaged annotation
                self._failed = True
        return [line for line in lines if line]

    def rest(self) -> list[str]:
        """Returns the fields that have no place on any page that was read."""
        lines = []
        try:
            for field in self._fields():
                lines.append(self._read_field(field))
        except MemoryError:
            raise
        except Exception:
            self._failed = True
        return [line for line in lines if line]

    def notes(self) -> list[str]:
        """Returns one sentence for each thing that could not be read."""
        said = []
        form = self._form()
        if "/XFA" in form and not list(_objects(form.get("/Fields"))):
            said.append(
                "The form is of the XFA kind, and what was filled in is not read: print it to a new"
                " PDF."
            )
        if self._failed:
            said.append("Some form fields or notes are damaged or missing, and are not read.")
        try:
            names = list(self._reader.attachments)
        except MemoryError:
            raise
        except Exception:
            names = []
        names = list(dict.fromkeys([*names, *self._attached]))
        if names:
            said.append(f"Attached files are not read: {', '.join(names)}.")
        return said

    def _list(self, array: Any) -> Iterator[Any]:
        array = None if array is None else array.get_object()
        found = list(_objects(array))
        if array is not None and (not isinstance(array, list) or len(found) < len(array)):
            self._failed = True
        return iter(found)

    def _form(self) -> Any:
        form = self._reader.root_object.get("/AcroForm")
        form = None if form is None else form.get_object()
        return form if isinstance(form, dict) else {}

    def _fields(self) -> Iterator[Any]:
        """Yields the fields without fields below them."""
        pending = list(self._list(self._form().get("/Fields")))[::-1]
        seen = set()
        while pending:
            field = pending.pop()
            if id(field) in seen:
                continue
            seen.add(id(field))
            below = [kid for kid in _objects(field.get("/Kids")) if "/T" in kid]
            if below:
                pending += below[::-1]
            else:
                yield field

    def _read_annotation(self, annotation: Any, page: "PageObject") -> str:
        kind = annotation.get("/Subtype")
        if kind == "/Widget":
            nodes = _upwards(annotation)
            return self._read_field(next((node for node in nodes if "/T" in node), annotation))
        if kind == "/FileAttachment":
            file = annotation["/FS"].get_object()
            self._attached.append(_plain(file.get("/UF", file.get("/F", ""))))
        if kind in _SILENT:
            return ""
        text = _plain(annotation.get("/Contents")).strip() or _rich(annotation.get("/RC"))
        if not text and kind in ("/FreeText", "/Stamp"):
            text = self._drawn(annotation, page)
        if not text or kind == "/FreeText":
            return text
        author = _plain(annotation.get("/T")).strip()
        return f"Note by {author}: {text}" if author else f"Note: {text}"

    def _drawn(self, annotation: Any, page: "PageObject") -> str:
        """Returns the text that is drawn for an annotation which does not say it."""
        from pypdf.generic import StreamObject

        looks = annotation.get("/AP")
        look = None if looks is None else looks.get_object().get("/N")
        look = None if look is None else look.get_object()
        if not isinstance(look, StreamObject):
            return ""
        return page.extract_xform_text(cast("EncodedStreamObject", look)).strip()

    def _read_field(self, field: Any) -> str:
        reference = field.indirect_reference
        key = id(field) if reference is None else (reference.idnum, reference.generation)
        if key in self._seen:
            return ""
        self._seen.add(key)
        nodes = _upwards(field)
        kind = _inherited(nodes, "/FT")
        value = _inherited(nodes, "/V")
        flags = _inherited(nodes, "/Ff")
        if kind == "/Btn":
            if isinstance(flags, int) and flags & _PUSH_BUTTON:
                return ""
            text = _button(field, value, _inherited(nodes, "/Opt"))
        elif kind == "/Sig":
            signer = value.get("/Name") if isinstance(value, dict) else None
            text = (
                f"signed by {_plain(signer)}"
                if signer is not None
                else "signed"
                if value is not None
                else ""
            )
        else:
            chosen = list(value) if isinstance(value, list) else [value]
            names = dict(_options(_inherited(nodes, "/Opt")))
            texts = [_plain(one) for one in chosen]
            text = ", ".join(names.get(one, one) for one in texts if one)
            text = text or _rich(_inherited(nodes, "/RV"))
        if not text.strip():
            return ""
        name = _plain(field.get("/TU")) or ".".join(
            _plain(node["/T"]) for node in nodes[::-1] if "/T" in node
        )
        return f"{name}: {text}" if name else text


def _button(field: Any, value: Any, options: Any) -> str:
    """Returns what is ticked or chosen: the name of a state, "Off" for none."""
    if value is None:
        states = [widget.get("/AS") for widget in (field, *_objects(field.get("/Kids")))]
        value = next((state for state in states if state not in (None, "/Off")), None) or "/Off"
    name = _plain(value).removeprefix("/")
    labels = [_plain(option) for option in options] if isinstance(options, list) else []
    return labels[int(name)] if name.isdecimal() and int(name) < len(labels) else name


def _options(options: Any) -> Iterator[tuple[str, str]]:
    """Returns the choices of a list: their stored values, and what is shown for each."""
    for option in options if isinstance(options, list) else ():
        pair = option.get_object()
        if isinstance(pair, list) and len(pair) == 2:
            yield _plain(pair[0]), _plain(pair[1])


def _upwards(node: Any) -> list[Any]:
    """Returns a field and the fields it is part of, the innermost first."""
    nodes = [node]
    while "/Parent" in nodes[-1] and len(nodes) < _DEEPEST:
        above = nodes[-1]["/Parent"].get_object()
        if not isinstance(above, dict) or any(above is one for one in nodes):
            break
        nodes.append(above)
    return nodes


def _inherited(nodes: list[Any], key: str) -> Any:
    for node in nodes:
        if key in node:
            return node[key].get_object()
    return None


def _objects(array: Any) -> Iterator[Any]:
    """Yields the dictionaries in an array of a damaged or healthy file."""
    array = None if array is None else array.get_object()
    for entry in array if isinstance(array, list) else ():
        found = None if entry is None else entry.get_object()
        if isinstance(found, dict):
            yield found


def _plain(value: Any) -> str:
    """Returns a string, a name, a number, or a stream of text, as text."""
    value = value.get_object() if hasattr(value, "get_object") else value
    if value is None or (isinstance(value, (dict, list)) and not hasattr(value, "get_data")):
        return ""
    if hasattr(value, "get_data"):
        value = value.get_data()
    if isinstance(value, bytes):
        return value.decode(
            "utf-16" if value.startswith((b"\xfe\xff", b"\xff\xfe")) else "latin-1", "replace"
        )
    return str(value).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def _rich(value: Any) -> str:
    """Returns the words of rich text, which is XHTML."""
    text = _plain(value)
    if not text.strip():
        return ""
    from lxml import html

    root = html.fromstring(text.encode(), parser=html.HTMLParser(encoding="utf-8"))
    return " ".join(" ".join(root.itertext()).split())
