import datetime
import io
import re
import zipfile

import openpyxl
import pptx
import pytest
from openpyxl.comments import Comment
from pptx.chart.data import CategoryChartData, XyChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.oxml import parse_xml
from pptx.util import Inches

from longreach.corpus.documents import Limits
from longreach.corpus.documents.convert import read
from longreach.corpus.documents.office.number_format import show_value
from longreach.errors import DocumentError

SPACES = (
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    'xmlns:a14="http://schemas.microsoft.com/office/drawing/2010/main"'
)


def written(tmp_path, content, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(path):
    """The cells of each line of a table, without the line below the headings."""
    rows = [line[2:-2].split(" | ") for line in read(path).text.splitlines() if line.startswith("| ")]
    return [row for row in rows if set(row) != {"---"}]


# Separated values


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_the_sign_that_parts_values_is_found(tmp_path, sign):
    rows = [["name", "sum", "remark"], ["Ada", "1", "max_batch_size"], ["Bob", "2", ""]]
    path = written(tmp_path, "\r\n".join(sign.join(row) for row in rows))
    assert table(path) == rows
    assert read(path).text.startswith("| name | sum | remark |\n| --- | --- | --- |\n| Ada |")


def test_a_decimal_comma_does_not_part_values(tmp_path):
    assert table(written(tmp_path, "Preis;Menge\n1,5;2,5\n3,25;4,0\n")) == [
        ["Preis", "Menge"],
        ["1,5", "2,5"],
        ["3,25", "4,0"],
    ]
    assert table(written(tmp_path, "sep=;\na,b;c\n")) == [["a,b", "c"]]
    assert table(written(tmp_path, "a;b\tc\nd;e\tf\n", "a.tsv")) == [["a;b", "c"], ["d;e", "f"]]


def test_quoted_line_breaks_marks_and_signs_belong_to_the_value(tmp_path):
    raw = '\ufeffname,remark\n"Ada, Countess","two\nlines"\nBob,"he said ""no"" | yes"\n'
    assert table(written(tmp_path, raw)) == [
        ["name", "remark"],
        ["Ada, Countess", "two lines"],
        ["Bob", 'he said "no"', "yes"],
    ]


def test_rows_of_unlike_length_are_filled_up_and_blank_rows_dropped(tmp_path):
    assert table(written(tmp_path, "a,b,c\n1\n\n1,2\n1,2,3,4\n")) == [
        ["a", "b", "c", ""],
        ["1", "", "", ""],
        ["1", "2", "", ""],
        ["1", "2", "3", "4"],
    ]


def test_a_lone_quotation_mark_swallows_nothing(tmp_path):
    path = written(tmp_path, 'size,name\n"5 inch,pipe\n6,rod\n7,bar\n')
    assert table(path) == [["size", "name"], ['"5 inch', "pipe"], ["6", "rod"], ["7", "bar"]]


def test_one_column_and_long_values_are_kept(tmp_path):
    assert read(written(tmp_path, "one\ntwo\nthree\n")).text == "one\ntwo\nthree\n"
    long = "x" * 300_000
    assert table(written(tmp_path, f"a,b\n{long},2\n"))[1] == [long, "2"]


def test_encodings_are_those_of_text_files(tmp_path):
    rows = [["name", "place"], ["Ärger", "Köln"], ["Müller", "Düsseldorf"]]
    text = "\n".join(";".join(row) for row in rows)
    for encoding in ("utf-8", "utf-16"):
        assert table(written(tmp_path, text.encode(encoding))) == rows
    with pytest.raises(DocumentError):
        read(written(tmp_path, bytes(range(128, 256)) * 3))


def test_a_grid_that_would_be_empty_is_not_made(tmp_path):
    path = written(tmp_path, "a,b\n" * 20_000 + "," * 20_000 + "end\n")
    assert len(read(path).text) < 1_000_000


# Workbooks


def make_workbook(tmp_path, fill, name="a.xlsx", parts=None):
    workbook = openpyxl.Workbook()
    fill(workbook)
    path = tmp_path / name
    workbook.save(path)
    if parts:
        raw = {}
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                raw[member] = archive.read(member)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in raw.items():
                archive.writestr(member, parts.get(member, lambda content: content)(content))
    return path


def test_all_sheets_come_as_tables_with_values_as_shown(tmp_path):
    def fill(workbook):
        sheet = workbook.active
        sheet.title = "Budget"
        sheet.append(["item", "sum", "share", "due", "paid"])
        sheet.append(["max_batch_size", 1234.5, 0.125, datetime.date(2026, 3, 15), True])
        sheet.append([None, 0.1 + 0.2, None, datetime.datetime(2026, 3, 15, 9, 30), False])
        sheet["B2"].number_format = "#,##0.00 €"
        sheet["C2"].number_format = "0.0%"
        hidden = workbook.create_sheet("Old")
        hidden.sheet_state = "hidden"
        hidden["C5"] = "kept"
        workbook.create_sheet("Empty")

    converted = read(make_workbook(tmp_path, fill))
    assert converted.text == (
        "## Budget\n\n"
        "| item | sum | share | due | paid |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| max_batch_size | 1,234.50 € | 12.5% | 2026-03-15 | TRUE |\n"
        "|  | 0.3 |  | 2026-03-15 09:30 | FALSE |\n\n"
        "## Old (hidden)\n\n| kept |\n| --- |"
    )
    assert converted.notes == ()


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (3, "General", "3"),
        (3.0, "General", "3"),
        (0.1 + 0.2, "General", "0.3"),
        (1234567.891, "#,##0", "1,234,568"),
        (0.005, "0.00", "0.01"),
        (2.5, "0", "3"),
        (-1234.5, "#,##0.00", "-1,234.50"),
        (-5, "#,##0;(#,##0)", "(5)"),
        (0, '0.00;-0.00;"none"', "none"),
        (0, '_(* #,##0.00_);_(* \\(#,##0.00\\);_(* "-"??_);_(@_)', "-"),
        (-3.5, '_(* #,##0.00_);_(* \\(#,##0.00\\);_(* "-"??_);_(@_)', "(3.50)"),
        (0, "#,###", "0"),
        (45.5, "0.00 \\k\\g", "45.50 kg"),
        (1200, '"USD" #,##0', "USD 1,200"),
        (1200, "[$€-407] #,##0", "€ 1,200"),
        (-1200.5, '[$$-409]#,##0.00_);[Red]("$"#,##0.00)', "($1,200.50)"),
        (7, "000", "007"),
        (0.5, "0.0#", "0.5"),
        (0.256, "0%", "26%"),
        (1e20, "General", "1e+20"),
        (12000, "0.00E+00", "12000"),
        (12_000_000, "#,##0,", "12000000"),
        (0.5, "# ?/?", "0.5"),
        # More digits than Python's decimal context has.
        (1e27, "0.00", "1000000000000000000000000000.00"),
        (1.5, "0." + "0" * 29, "1.5" + "0" * 28),
        (1e26, "0.0%", "10000000000000000000000000000.0%"),
        # A condition decides which section is meant; the number itself is right in any case.
        (5, '[<1]"low";"high"', "5"),
        (0.25, "[>=1]0%;0.00%", "0.25"),
        (5, "[Red]0.0;[Blue]0.0", "5.0"),
        (datetime.time(9, 5), "h:mm", "09:05"),
        (datetime.timedelta(hours=30, minutes=5), "[h]:mm", "30:05:00"),
        (datetime.datetime(2026, 1, 2), "dd.mm.yyyy", "2026-01-02"),
        ("text", "@", "text"),
    ],
)
def test_numbers_are_shown_in_their_format(value, form, shown):
    assert show_value(value, form) == shown


def test_merged_cells_are_repeated_and_headings_over_all_columns_are_not(tmp_path):
    def fill(workbook):
        sheet = workbook.active
        sheet["A1"] = "Rents of 2026"
        sheet.merge_cells("A1:C1")
        for row in (["house", "flat", "rent"], ["North", "1", 500], [None, "2", 600]):
            sheet.append(row)
        sheet.merge_cells("A3:A4")

    assert table(make_workbook(tmp_path, fill)) == [
        ["Rents of 2026", "", ""],
        ["house", "flat", "rent"],
        ["North", "1", "500"],
        ["North", "2", "600"],
    ]


def test_formulas_without_results_are_said(tmp_path):
    def fill(workbook):
        workbook.active.append([1, 2, "=A1+B1", "=A1*B1"])

    converted = read(make_workbook(tmp_path, fill))
    assert "=A1" not in converted.text
    assert len(converted.notes) == 1
    assert converted.notes[0].startswith("Sheet Sheet has 2 formulas without a stored result: open the file")

    def compute(raw):
        raw = raw.replace(b"<f>A1+B1</f><v></v>", b"<f>A1+B1</f><v>3</v>").replace(
            b"<f>A1+B1</f><v />", b"<f>A1+B1</f><v>3</v>"
        )
        return re.sub(rb'<c r="D1"[^>]*><f>A1\*B1</f><v ?/?>(</v>)?', b'<c r="D1" t="str"><f>A1*B1</f><v></v>', raw)

    converted = read(make_workbook(tmp_path, fill, parts={"xl/worksheets/sheet1.xml": compute}))
    assert "| 1 | 2 | 3 |" in converted.text and converted.notes == ()


def test_errors_notes_on_cells_and_text_in_cells_are_read(tmp_path):
    def fill(workbook):
        sheet = workbook.active
        sheet["A1"] = "#DIV/0!"
        sheet["B1"] = "two\nlines | bar"
        sheet["B1"].comment = Comment("Ask Ada", "Bob")

    text = read(make_workbook(tmp_path, fill)).text
    assert "| #DIV/0! | two lines | bar |" in text and "Note on B1: Ask Ada" in text


@pytest.mark.parametrize("far", ["A1048576", "XFD1", "XFD1048576"])
def test_far_cells_cost_nothing(tmp_path, far):
    def fill(workbook):
        workbook.active["A1"] = "near"
        workbook.active[far] = "far"

    text = read(make_workbook(tmp_path, fill)).text
    assert "near" in text and "far" in text and len(text) < 100


def test_a_sheet_that_is_empty_nearly_everywhere_is_listed_by_cell(tmp_path):
    def fill(workbook):
        for number in range(1, 301):
            workbook.active.cell(number, number, f"v{number}")

    lines = read(make_workbook(tmp_path, fill)).text.splitlines()
    assert lines[2] == "A1: v1" and lines[-1] == "KN300: v300"


def test_a_large_merged_area_is_bounded(tmp_path):
    def fill(workbook):
        sheet = workbook.active
        sheet.append(["x" * 10] * 200)
        for number in range(2, 202):
            sheet.cell(number, 1, "y")
        sheet["B2"] = "wide"
        sheet.merge_cells("B2:C3")

    def widen(raw):
        return raw.replace(b'ref="B2:C3"', b'ref="B2:XFD1048576"')

    path = make_workbook(tmp_path, fill, parts={"xl/worksheets/sheet1.xml": widen})
    assert len(read(path).text) < 1_000_000


# Presentations


def make_slides(tmp_path, fill, name="a.pptx"):
    presentation = pptx.Presentation()
    fill(presentation)
    path = tmp_path / name
    presentation.save(path)
    return path


def add_slide(presentation, layout=5, title="Results"):
    slide = presentation.slides.add_slide(presentation.slide_layouts[layout])
    if slide.shapes.title is not None:
        slide.shapes.title.text = title
    return slide


def add_box(shapes, text, top):
    box = shapes.add_textbox(Inches(1), Inches(top), Inches(4), Inches(1))
    box.text_frame.text = text
    return box


def test_slides_come_in_order_with_shapes_from_the_top_and_notes(tmp_path):
    def fill(presentation):
        first = add_slide(presentation, 1, "Quarter")
        first.placeholders[1].text = "max_batch_size grew\nCosts fell"
        first.notes_slide.notes_text_frame.text = "Say thanks."
        second = add_slide(presentation)
        add_box(second.shapes, "below", 5)
        group = second.shapes.add_group_shape()
        add_box(group.shapes, "in a group", 3)
        second.element.set("show", "0")
        add_slide(presentation, 6)

    assert read(make_slides(tmp_path, fill)).text.strip() == (
        "## Slide 1: Quarter\n\nmax_batch_size grew\n\nCosts fell\n\nNotes: Say thanks.\n\n"
        "## Slide 2 (hidden): Results\n\nin a group\n\nbelow\n\n## Slide 3"
    )


def test_tables_charts_and_alternative_text_are_read(tmp_path):
    def fill(presentation):
        slide = add_slide(presentation)
        cells = slide.shapes.add_table(3, 2, Inches(1), Inches(1), Inches(4), Inches(2)).table
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 1)):
            cells.cell(row, column).text = f"r{row}c{column}"
        cells.cell(1, 0).merge(cells.cell(2, 0))
        data = CategoryChartData()
        data.categories = ["2024", "2025"]
        data.add_series("Profit", (1.5, None))
        chart = slide.shapes.add_chart(
            XL_CHART_TYPE.COLUMN_CLUSTERED, Inches(1), Inches(4), Inches(3), Inches(2), data
        ).chart
        chart.has_title = True
        chart.chart_title.text_frame.text = "Growth"
        box = add_box(slide.shapes, "", 6)
        box._element._nvXxPr.cNvPr.set("descr", "A rising line")

    path = make_slides(tmp_path, fill)
    text = read(path).text
    assert table(path) == [
        ["r0c0", "r0c1"],
        ["r1c0", "r1c1"],
        ["r1c0", "r2c1"],
        ["", "Profit"],
        ["2024", "1.5"],
        ["2025", ""],
    ]
    assert "Chart: Growth" in text and "A rising line" in text


def test_charts_that_are_read_in_part_are_said(tmp_path):
    def fill(presentation):
        data = XyChartData()
        data.add_series("Points").add_data_point(1, 2)
        slide = add_slide(presentation)
        slide.shapes.add_chart(XL_CHART_TYPE.XY_SCATTER, Inches(1), Inches(4), Inches(3), Inches(2), data)

    assert read(make_slides(tmp_path, fill)).notes == ("1 chart is not read.",)


def test_raised_text_line_breaks_and_formulas_are_read(tmp_path):
    formula = (
        "<m:oMath><m:f><m:num><m:r><m:t>a</m:t></m:r></m:num><m:den><m:r><m:t>b</m:t></m:r></m:den></m:f></m:oMath>"
    )
    shape = (
        '<p:sp><p:nvSpPr><p:cNvPr id="77" name="f"/><p:cNvSpPr/><p:nvPr/></p:nvSpPr><p:spPr/>'
        "<p:txBody><a:bodyPr/><a:p>{}</a:p></p:txBody></p:sp>"
    )
    both = (
        f'<mc:AlternateContent {SPACES}><mc:Choice Requires="a14">'
        f"{shape.format('<a14:m>' + formula + '</a14:m>')}</mc:Choice>"
        f"<mc:Fallback>{shape.format('<a:r><a:t> </a:t></a:r>')}</mc:Fallback></mc:AlternateContent>"
    )

    def fill(presentation):
        slide = add_slide(presentation)
        box = add_box(slide.shapes, "10", 1)
        run = box.text_frame.paragraphs[0].add_run()
        run.text = "6"
        run.font._element.set("baseline", "30000")
        add_box(slide.shapes, "one\vtwo", 2)
        slide.shapes._spTree.append(parse_xml(both))

    text = read(make_slides(tmp_path, fill)).text
    assert "10^6" in text and re.search(r"one\s+two", text) and r"$\frac{a}{b}$" in text


@pytest.mark.parametrize("suffix", [".xlsx", ".pptx"])
def test_other_archives_are_refused(tmp_path, suffix):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no document")
    for raw in (buffer.getvalue(), b"PK\x03\x04 cut off", b"\xd0\xcf\x11\xe0 old"):
        with pytest.raises(DocumentError):
            read(written(tmp_path, raw, f"a{suffix}"))


@pytest.mark.parametrize(("suffix", "member"), [(".xlsx", "xl/sharedStrings.xml"), (".pptx", "ppt/media/big.bin")])
def test_archives_that_unpack_to_too_much_are_refused(tmp_path, suffix, member):
    if suffix == ".xlsx":
        path = make_workbook(tmp_path, lambda workbook: workbook.active.append(["a"]))
    else:
        path = make_slides(tmp_path, add_slide)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, bytes(4 << 20))
    with pytest.raises(DocumentError, match="the limit unpacked_bytes is 2 MiB"):
        read(path, Limits(unpacked_bytes=2 << 20))
