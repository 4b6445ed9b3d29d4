"""What a PDF holds beside its text layer: form fields, readers' notes, attached files."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from longreach.corpus.documents.pdf.objects import iterate_dicts, resolve, rich_to_text, to_text

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader
    from pypdf.generic import DictionaryObject, EncodedStreamObject

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
        for annotation in self._iterate(page.get("/Annots")):
            try:
                lines.append(self._read_annotation(annotation, page))
            except MemoryError:
                raise
            except Exception:  # a damaged annotation
                self._failed = True
        return list(filter(None, lines))

    def read_rest(self) -> list[str]:
        """Returns the fields that have no place on any page that was read."""
        lines = []
        try:
            for field in self._iterate_fields():
                lines.append(self._read_field(field))
        except MemoryError:
            raise
        except Exception:
            self._failed = True
        return list(filter(None, lines))

    def describe_losses(self) -> list[str]:
        """Returns one sentence for each thing that could not be read."""
        said = []
        form = self._get_form()
        if "/XFA" in form and not list(iterate_dicts(form.get("/Fields"))):
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
        except Exception:  # whatever a damaged list of files raises
            names = []
        names = list(dict.fromkeys([*names, *self._attached]))
        if names:
            said.append(f"Attached files are not read: {', '.join(names)}.")
        return said

    def _iterate(self, array: object) -> "Iterator[DictionaryObject]":
        """Yields the dictionaries in an array, and notes whether something else is in it."""
        array = resolve(array)
        found = list(iterate_dicts(array))
        if array is not None and (not isinstance(array, list) or len(found) < len(array)):
            self._failed = True
        return iter(found)

    def _get_form(self) -> dict[str, object]:
        form = resolve(self._reader.root_object.get("/AcroForm"))
        if not isinstance(form, dict):
            return {}
        return form

    def _iterate_fields(self) -> "Iterator[DictionaryObject]":
        """Yields the fields without fields below them."""
        # The last one is taken first, so fields below a field come in its place.
        pending = list(self._iterate(self._get_form().get("/Fields")))[::-1]
        seen = set()
        while pending:
            field = pending.pop()
            if id(field) in seen:
                continue
            seen.add(id(field))
            # Those without a name of their own are only places where the field is shown.
            below = [kid for kid in iterate_dicts(field.get("/Kids")) if "/T" in kid]
            if below:
                pending += below[::-1]
            else:
                yield field

    def _read_annotation(self, annotation: "DictionaryObject", page: "PageObject") -> str:
        kind = annotation.get("/Subtype")
        if kind == "/Widget":
            for node in _list_upwards(annotation):
                if "/T" in node:
                    return self._read_field(node)
            return self._read_field(annotation)
        if kind == "/FileAttachment":
            file: Any = annotation["/FS"].get_object()
            self._attached.append(to_text(file.get("/UF", file.get("/F", ""))))
        if kind in _SILENT:
            return ""
        # A note that has been formatted may say its words twice.
        text = to_text(annotation.get("/Contents")).strip()
        text = text or rich_to_text(annotation.get("/RC"))
        if not text and kind in ("/FreeText", "/Stamp"):
            text = self._read_look(annotation, page)
        # Such a note is written on the page itself, and has no author to the eye.
        if not text or kind == "/FreeText":
            return text
        author = to_text(annotation.get("/T")).strip()
        if author:
            return f"Note by {author}: {text}"
        return f"Note: {text}"

    def _read_look(self, annotation: "DictionaryObject", page: "PageObject") -> str:
        """Returns the text that is drawn for an annotation which does not say it."""
        from pypdf.generic import StreamObject

        looks = resolve(annotation.get("/AP"))
        look = None
        if looks is not None:
            look = resolve(looks.get("/N"))
        if not isinstance(look, StreamObject):
            return ""
        return page.extract_xform_text(cast("EncodedStreamObject", look)).strip()

    def _read_field(self, field: "DictionaryObject") -> str:
        reference = field.indirect_reference
        key: object = id(field)
        if reference is not None:
            key = (reference.idnum, reference.generation)
        # A field may be shown in several places.
        if key in self._seen:
            return ""
        self._seen.add(key)
        nodes = _list_upwards(field)
        kind = _inherit(nodes, "/FT")
        if kind == "/Btn":
            text = _read_button(field, nodes)
        elif kind == "/Sig":
            text = _read_signature(_inherit(nodes, "/V"))
        else:
            text = _read_choice(nodes)
        if not text.strip():
            return ""
        name = to_text(field.get("/TU")) or _join_names(nodes)
        if name:
            return f"{name}: {text}"
        return text


def _join_names(nodes: "list[DictionaryObject]") -> str:
    """Returns the name of a field behind the names of those it is part of."""
    names = []
    for node in reversed(nodes):
        if "/T" in node:
            names.append(to_text(node["/T"]))
    return ".".join(names)


def _read_button(field: "DictionaryObject", nodes: "list[DictionaryObject]") -> str:
    """Returns what is ticked or chosen: the name of a state, "Off" for none."""
    flags = _inherit(nodes, "/Ff")
    if isinstance(flags, int) and flags & _PUSH_BUTTON:
        return ""
    value = _inherit(nodes, "/V")
    if value is None:
        value = _find_state(field)
    name = to_text(value).removeprefix("/")
    options = _inherit(nodes, "/Opt")
    # A number is the place in the list of what is shown.
    if isinstance(options, list) and name.isdecimal() and int(name) < len(options):
        return to_text(options[int(name)])
    return name


def _find_state(field: "DictionaryObject") -> object:
    """Returns the state that a button is shown in, as the field does not say it."""
    for widget in (field, *iterate_dicts(field.get("/Kids"))):
        state = widget.get("/AS")
        if state not in (None, "/Off"):
            return state or "/Off"
    return "/Off"


def _read_signature(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict) and value.get("/Name") is not None:
        return f"signed by {to_text(value.get('/Name'))}"
    return "signed"


def _read_choice(nodes: "list[DictionaryObject]") -> str:
    """Returns the text of a field, or what is chosen from its list."""
    value = _inherit(nodes, "/V")
    chosen = list(value) if isinstance(value, list) else [value]
    names = dict(_iterate_options(_inherit(nodes, "/Opt")))
    texts = []
    for one in map(to_text, chosen):
        if one:
            texts.append(names.get(one, one))
    return ", ".join(texts) or rich_to_text(_inherit(nodes, "/RV"))


def _iterate_options(options: object) -> Iterator[tuple[str, str]]:
    """Yields the choices of a list: their stored values, and what is shown for each."""
    if not isinstance(options, list):
        return
    for option in options:
        pair = resolve(option)
        if isinstance(pair, list) and len(pair) == 2:
            yield to_text(pair[0]), to_text(pair[1])


def _list_upwards(node: "DictionaryObject") -> "list[DictionaryObject]":
    """Returns a field and the fields it is part of, the innermost first."""
    nodes = [node]
    while "/Parent" in nodes[-1] and len(nodes) < _DEEPEST:
        above = nodes[-1]["/Parent"].get_object()
        if not isinstance(above, dict) or id(above) in map(id, nodes):
            break
        nodes.append(above)
    return nodes


def _inherit(nodes: "list[DictionaryObject]", key: str) -> object:
    """Returns a value of a field, or of the innermost field around it that has one."""
    for node in nodes:
        if key in node:
            return node[key].get_object()
    return None
