import io

import matplotlib
import pypdf
import pytest
from pypdf.annotations import FreeText, Highlight, Text
from pypdf.generic import (
    ArrayObject,
    DecodedStreamObject,
    DictionaryObject,
    IndirectObject,
    NameObject,
    NumberObject,
    TextStringObject,
)
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen import canvas

from longreach.corpus.documents.convert import read
from longreach.errors import DocumentError

OCR = "run OCR on the file, e.g. with ocrmypdf."


def draw(*pages):
    """A PDF whose pages are lines of text, or functions that draw."""
    buffer = io.BytesIO()
    pdf = canvas.Canvas(buffer)
    for page in pages:
        if callable(page):
            page(pdf)
        else:
            pdf.drawString(72, 720, page)
        pdf.showPage()
    pdf.save()
    return buffer.getvalue()


def changed(raw, change):
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(raw))
    change(writer)
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def converted(tmp_path, raw):
    path = tmp_path / "a.pdf"
    path.write_bytes(raw)
    return read(path)


def rectangle(pdf):
    pdf.rect(100, 100, 200, 200, fill=1)


def blank(pdf):
    pdf.setFillColorRGB(1, 1, 1)
    pdf.rect(0, 0, 600, 800, fill=1, stroke=0)


def in_letters_of_its_own(pdf):
    pdfmetrics.registerFont(TTFont("Own", f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"))
    pdf.setFont("Own", 12)
    pdf.drawString(72, 700, "Załącznik nr 5 do umowy najmu lokalu")


def lose_unicode_tables(writer):
    """Leaves composite fonts that number their glyphs and do not say which letters these are."""
    for item in list(writer._objects):
        if isinstance(item, DictionaryObject) and "/ToUnicode" in item:
            del item["/ToUnicode"]
            item[NameObject("/Subtype")] = NameObject("/Type0")
            item[NameObject("/Encoding")] = NameObject("/Identity-H")
            below = {NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/CIDFontType2")}
            item[NameObject("/DescendantFonts")] = ArrayObject([DictionaryObject(below)])


def test_pages_without_a_text_layer_are_named(tmp_path):
    result = converted(tmp_path, draw("One", rectangle, "Three", rectangle, rectangle, rectangle, "Seven", rectangle))
    assert result.text == "One\n\nThree\n\nSeven"
    assert result.notes == (f"Pages 2, 4-6, 8 have no text layer: {OCR}",)
    assert converted(tmp_path, draw("One", rectangle)).notes == (f"Page 2 has no text layer: {OCR}",)


def test_blank_pages_are_no_loss(tmp_path):
    result = converted(tmp_path, draw("One", lambda pdf: None, "Three", blank))
    assert result.text == "One\n\nThree" and result.notes == ()


def test_a_scan_inside_a_form_is_no_blank_page(tmp_path):
    def scanned(pdf):
        pdf.beginForm("scan")
        rectangle(pdf)
        pdf.endForm()
        pdf.doForm("scan")

    def empty(pdf):
        pdf.beginForm("nothing")
        pdf.endForm()
        pdf.doForm("nothing")

    assert converted(tmp_path, draw("One", scanned, empty)).notes == (f"Page 2 has no text layer: {OCR}",)


def cut_stream(writer):
    stream = writer.pages[1]["/Contents"].get_object()
    stream._data = stream._data[: len(stream._data) // 2]


def spoil_stream(writer):
    stream = writer.pages[1]["/Contents"].get_object()
    stream._data = b"no packed data at all"


def lose_stream(writer):
    writer.pages[1][NameObject("/Contents")] = IndirectObject(999, 0, writer)


def put_number_for_stream(writer):
    writer.pages[1][NameObject("/Contents")] = NumberObject(3)


@pytest.mark.parametrize("damage", [cut_stream, spoil_stream, lose_stream, put_number_for_stream])
def test_a_page_whose_content_is_broken_or_missing_is_named(tmp_path, damage):
    result = converted(tmp_path, changed(draw("One", "Two", "Three"), damage))
    assert result.text == "One\n\nThree"
    assert len(result.notes) == 1 and result.notes[0].startswith("Page 2 has damage and cannot be read")


def test_the_rest_of_a_partly_broken_page_is_read_and_the_page_named(tmp_path):
    def add_missing(writer):
        page = writer.pages[0]
        page[NameObject("/Contents")] = ArrayObject([page.raw_get("/Contents"), IndirectObject(999, 0, writer)])

    result = converted(tmp_path, changed(draw("One", "Two"), add_missing))
    assert result.text == "One\n\nTwo"
    assert result.notes == ("Page 1 has damage, and only a part of the text could be read.",)


def test_letters_that_flipped_in_a_packed_page_are_said(tmp_path):
    raw = draw("x" * 20 + "".join(chr(33 + i * 7 % 90) for i in range(60)), "Two")
    noted = 0
    for place in range(10, 40):

        def flip(writer, place=place):
            stream = writer.pages[0]["/Contents"].get_object()
            stream._data = stream._data[:place] + bytes([stream._data[place] ^ 4]) + stream._data[place + 1 :]

        result = converted(tmp_path, changed(raw, flip))
        noted += bool(result.notes)
        assert "Two" in result.text
    assert noted == 30


def test_where_no_page_can_be_read_the_file_is_refused(tmp_path):
    def damage_all(writer):
        for page in writer.pages:
            page[NameObject("/Contents")] = IndirectObject(999, 0, writer)

    with pytest.raises(DocumentError, match="is damaged, no page of it can be read"):
        converted(tmp_path, changed(draw("One", "Two"), damage_all))


def test_missing_pages_are_counted(tmp_path):
    def lose_page(writer):
        writer.root_object["/Pages"]["/Kids"][1] = IndirectObject(999, 0, writer)

    result = converted(tmp_path, changed(draw("One", "Two", "Three"), lose_page))
    assert result.text == "One\n\nThree"
    assert result.notes == ("The file lists 3 pages, but only 2 are in it.",)


def test_a_count_that_is_too_small_loses_nothing(tmp_path):
    def miscount(writer):
        writer.root_object["/Pages"][NameObject("/Count")] = NumberObject(1)

    result = converted(tmp_path, changed(draw("One", "Two", "Three"), miscount))
    assert result.text == "One\n\nTwo\n\nThree" and result.notes == ()


def test_a_loop_of_pages_ends(tmp_path):
    def loop(writer):
        writer.root_object["/Pages"]["/Kids"].append(writer.root_object.raw_get("/Pages"))

    try:
        assert "One" in converted(tmp_path, changed(draw("One", "Two"), loop)).text
    except DocumentError as error:
        assert "is damaged" in str(error)


@pytest.mark.parametrize("cut", [5, 30, 200])
def test_a_file_that_is_cut_off_says_so(tmp_path, cut):
    result = converted(tmp_path, draw("One", "Two")[:-cut])
    assert result.text == "One\n\nTwo"
    assert result.notes == ("The file is cut off: pages and other parts at its end may be missing.",)


def test_values_of_form_fields_are_read(tmp_path):
    def fields(pdf):
        pdf.drawString(72, 720, "Application")
        form = pdf.acroForm
        form.textfield(name="name", tooltip="Full name", value="Ada Lovelace", x=10, y=10)
        form.textfield(name="empty", x=10, y=60)
        form.checkbox(name="agree", checked=True, x=50, y=100)
        form.checkbox(name="spam", x=80, y=100)
        form.radio(name="plan", value="gold", selected=True, x=90, y=200)
        form.radio(name="plan", value="tin", x=120, y=200)
        form.choice(name="country", value="Peru", options=["Chile", "Peru"], x=150, y=300)
        form.listbox(name="size", value="M", options=["S", "M"], x=150, y=400)

    result = converted(tmp_path, draw(fields, "Next"))
    assert result.text.split("\n") == [
        "Application",
        "Full name: Ada Lovelace",
        "agree: Yes",
        "spam: Off",
        "plan: gold",
        "country: Peru",
        "size: M",
        "",
        "Next",
    ]
    assert result.notes == ()


def test_fields_of_fields_and_fields_without_a_place_are_read_once(tmp_path):
    def add_fields(writer):
        def field(parent=None, **entries):
            item = DictionaryObject({NameObject(f"/{key}"): value for key, value in entries.items()})
            if parent is not None:
                item[NameObject("/Parent")] = parent
            return writer._add_object(item)

        person = field(T=TextStringObject("person"), FT=NameObject("/Tx"))
        first = field(person, T=TextStringObject("first"), V=TextStringObject("Ada"))
        options = ArrayObject([ArrayObject([TextStringObject("pe"), TextStringObject("Peru")])])
        place = field(T=TextStringObject("place"), FT=NameObject("/Ch"), V=TextStringObject("pe"), Opt=options)
        widget = {"Type": NameObject("/Annot"), "Subtype": NameObject("/Widget")}
        shown = [field(first, **widget), field(first, **widget)]
        first.get_object()[NameObject("/Kids")] = ArrayObject(shown)
        person.get_object()[NameObject("/Kids")] = ArrayObject([first])
        person.get_object()[NameObject("/Parent")] = person  # a loop
        writer.pages[0][NameObject("/Annots")] = ArrayObject(shown)
        form = DictionaryObject({NameObject("/Fields"): ArrayObject([person, place])})
        writer.root_object[NameObject("/AcroForm")] = form

    text = converted(tmp_path, changed(draw("One"), add_fields)).text
    assert text == "One\nperson.first: Ada\n\nplace: Peru"


def test_notes_on_a_page_are_read(tmp_path):
    def annotate(writer):
        box = (50, 50, 200, 100)
        writer.add_annotation(0, FreeText(text="Approved on 3 May", rect=box))
        note = Text(text="Is this right?", rect=box)
        note[NameObject("/T")] = TextStringObject("Ada")
        writer.add_annotation(1, note)
        mark = Highlight(rect=box, quad_points=ArrayObject())
        mark[NameObject("/Contents")] = TextStringObject("Key clause")
        writer.add_annotation(1, mark)
        rich = FreeText(text="", rect=box)
        del rich["/Contents"]
        rich[NameObject("/RC")] = TextStringObject("<body><p>In <b>rich</b> text</p></body>")
        writer.add_annotation(1, rich)

    result = converted(tmp_path, changed(draw("One", "Two"), annotate))
    assert result.text == "One\nApproved on 3 May\n\nTwo\nNote by Ada: Is this right?\nNote: Key clause\nIn rich text"


def test_a_note_that_is_only_drawn_is_read(tmp_path):
    def stamp(writer):
        look = DecodedStreamObject()
        look.set_data(b"BT /F1 12 Tf (RECEIVED 4 JUNE) Tj ET")
        look[NameObject("/Subtype")] = NameObject("/Form")
        look[NameObject("/Resources")] = writer.pages[0]["/Resources"]
        normal = DictionaryObject({NameObject("/N"): writer._add_object(look)})
        kind = {NameObject("/Type"): NameObject("/Annot"), NameObject("/Subtype"): NameObject("/Stamp")}
        annotation = writer._add_object(DictionaryObject({**kind, NameObject("/AP"): normal}))
        writer.pages[0][NameObject("/Annots")] = ArrayObject([annotation])

    assert "Note: RECEIVED 4 JUNE" in converted(tmp_path, changed(draw("One"), stamp)).text


def test_attached_files_are_named(tmp_path):
    result = converted(tmp_path, changed(draw("One"), lambda writer: writer.add_attachment("costs.csv", b"1,2")))
    assert result.notes == ("Attached files are not read: costs.csv.",)


def test_text_in_fonts_without_letters_is_left_out_and_said_or_refused(tmp_path):
    raw = draw(in_letters_of_its_own, "Plain text that can be read on this page.", "And here is another such page.")
    assert converted(tmp_path, raw).text.startswith("Załącznik nr 5 do umowy")
    result = converted(tmp_path, changed(raw, lose_unicode_tables))
    assert result.text == "Plain text that can be read on this page.\n\nAnd here is another such page."
    assert len(result.notes) == 1 and result.notes[0].startswith("Page 1 has no text that can be read, as the fonts")
    with pytest.raises(DocumentError, match="fonts that do not say which letters they show: run OCR"):
        converted(tmp_path, changed(draw(in_letters_of_its_own, "Short."), lose_unicode_tables))


def test_rotated_text_and_text_in_forms_is_read(tmp_path):
    def rotated(pdf):
        pdf.rotate(90)
        pdf.drawString(100, -300, "Sideways")

    def within(pdf):
        pdf.beginForm("inner")
        pdf.drawString(72, 600, "Inside a form")
        pdf.endForm()
        pdf.doForm("inner")

    assert converted(tmp_path, draw(rotated, within)).text == "Sideways\n\nInside a form"


def test_damage_inside_a_field_or_a_font_is_said(tmp_path):
    def field(pdf):
        pdf.drawString(72, 720, "Form")
        pdf.acroForm.textfield(name="a", value="b", x=10, y=10)

    raw = draw(field)
    broken = raw.replace(b"/Subtype /Widget", b"/Subtype @Widget")
    assert broken != raw
    result = converted(tmp_path, broken)
    assert "a: b" in result.text or result.notes

    def cut_table(writer):
        for item in writer._objects:
            if isinstance(item, DictionaryObject) and "/ToUnicode" in item:
                table = item["/ToUnicode"].get_object()
                table._data = table._data[: len(table._data) // 2]

    raw = draw(in_letters_of_its_own, "Plain text that can be read on this page.", "And here is another such page.")
    notes = converted(tmp_path, changed(raw, cut_table)).notes
    assert len(notes) == 1 and notes[0].startswith("Page 1 has no text that can be read")
