import io
import re
import zipfile

import docx
import pytest
from docx.oxml import parse_xml
from docx.shared import Pt

from longreach.corpus.documents.convert import read
from longreach.errors import DocumentError

SPACES = {
    "w": "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    "r": "http://schemas.openxmlformats.org/officeDocument/2006/relationships",
    "m": "http://schemas.openxmlformats.org/officeDocument/2006/math",
    "mc": "http://schemas.openxmlformats.org/markup-compatibility/2006",
    "wp": "http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing",
    "wps": "http://schemas.microsoft.com/office/word/2010/wordprocessingShape",
    "a": "http://schemas.openxmlformats.org/drawingml/2006/main",
    "c": "http://schemas.openxmlformats.org/drawingml/2006/chart",
    "v": "urn:schemas-microsoft-com:vml",
    "o": "urn:schemas-microsoft-com:office:office",
}
DECLARED = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in SPACES.items())


def run(text, properties=""):
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(text):
    return f"<w:p>{run(text)}</w:p>"


def build(tmp_path, xml="", document=None, parts=None, suffix=".docx"):
    """A document with `xml` at the end of its body, and further parts or other bytes for those that are there."""
    document = document or docx.Document()
    body = document.element.body
    for element in parse_xml(f"<w:body {DECLARED}>{xml}</w:body>"):
        body.insert(len(body) - 1, element)
    buffer = io.BytesIO()
    document.save(buffer)
    path = tmp_path / f"a{suffix}"
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            raw = source.read(name)
            change = (parts or {}).get(name)
            archive.writestr(name, change(raw) if callable(change) else change or raw)
        for name in set(parts or {}) - set(source.namelist()):
            archive.writestr(name, parts[name])
    return path


def related(kind, target, identity="rId900"):
    """A change of a part with relationships that adds one."""
    address = f"http://schemas.openxmlformats.org/officeDocument/2006/relationships/{kind}"
    element = f'<Relationship Id="{identity}" Type="{address}" Target="{target}"/></Relationships>'
    return lambda raw: raw.replace(b"</Relationships>", element.encode())


def lines(path):
    return [line for line in read(path).text.splitlines() if line]


def test_words_of_neighboring_runs_stay_apart_and_parts_of_a_word_together(tmp_path):
    document = docx.Document()
    line = document.add_paragraph("Purchase")
    line.add_run(" ").bold = True
    line.add_run("agree")
    line.add_run("ment").italic = True
    line.add_run("\tof\nNovember").bold = True
    assert read(build(tmp_path, document=document)).text.split() == ["Purchase", "agreement", "of", "November"]


@pytest.mark.parametrize("kind", ["page", "column", "textWrapping"])
def test_breaks_part_words(tmp_path, kind):
    xml = f'<w:p>{run("one")}<w:r><w:br w:type="{kind}"/></w:r>{run("two")}<w:r><w:cr/></w:r>{run("three")}</w:p>'
    assert read(build(tmp_path, xml)).text.split() == ["one", "two", "three"]


def test_text_boxes_come_once_after_their_paragraph(tmp_path):
    def box(text):
        return f"<w:txbxContent>{paragraph(text)}{paragraph('in two lines')}</w:txbxContent>"

    vml = f"<w:pict><v:shape><v:textbox>{box('Payment is due in 45 days.')}</v:textbox></v:shape></w:pict>"
    shape = f"<wps:wsp><wps:txbx>{box('Payment is due in 45 days.')}</wps:txbx></wps:wsp>"
    drawing = (
        '<w:drawing><wp:anchor><wp:docPr id="1" name="b"/><a:graphic><a:graphicData>'
        f"{shape}</a:graphicData></a:graphic></wp:anchor></w:drawing>"
    )
    both = (
        f'<mc:AlternateContent><mc:Choice Requires="wps">{drawing}</mc:Choice>'
        f"<mc:Fallback>{vml}</mc:Fallback></mc:AlternateContent>"
    )
    for content in (drawing, vml, both):
        xml = f"<w:p>{run('Terms')}<w:r>{content}</w:r>{run(' apply.')}</w:p>{paragraph('Next.')}"
        assert lines(build(tmp_path, xml)) == ["Terms apply.", "Payment is due in 45 days.", "in two lines", "Next."]


def test_a_text_box_in_a_table_stays_in_its_cell(tmp_path):
    box = f"<w:r><w:pict><v:shape><v:textbox><w:txbxContent>{paragraph('boxed')}</w:txbxContent></v:textbox></v:shape>"
    cells = f"<w:tc><w:p>{run('cell')}{box}</w:pict></w:r></w:p></w:tc><w:tc>{paragraph('next')}</w:tc>"
    xml = f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>"
    text = read(build(tmp_path, xml)).text
    assert re.search(r"\|\s*cell\s+boxed\s*\|\s*next\s*\|", text)


def test_page_headers_come_first_and_page_footers_last_and_each_once(tmp_path):
    document = docx.Document()
    document.add_paragraph("Body.")
    first = document.sections[0]
    first.different_first_page_header_footer = True
    first.header.paragraphs[0].text = "Confidential"
    first.first_page_header.paragraphs[0].text = "Draft of May"
    first.footer.paragraphs[0].text = "Example Ltd"
    second = document.add_section()
    second.header.is_linked_to_previous = False
    second.header.paragraphs[0].text = "Confidential"
    second.footer.is_linked_to_previous = False
    second.footer.paragraphs[0].text = "Annex A"
    found = lines(build(tmp_path, document=document))
    assert sorted(found[:2]) == ["Confidential", "Draft of May"]
    assert found[2:] == ["Body.", "Example Ltd", "Annex A"]


def test_footnotes_endnotes_and_comments_are_read(tmp_path):
    xml = (
        f'<w:p>{run("Rent")}<w:r><w:endnoteReference w:id="2"/></w:r>{run(" is due")}'
        f'<w:r><w:footnoteReference w:id="2"/></w:r>{run(".")}</w:p>'
    )
    parts = {
        "word/_rels/document.xml.rels": lambda raw: related("endnotes", "endnotes.xml", "rId901")(
            related("footnotes", "footnotes.xml")(raw)
        ),
        "word/footnotes.xml": f'<w:footnotes {DECLARED}><w:footnote w:type="separator" w:id="0">{paragraph("x")}'
        f'</w:footnote><w:footnote w:id="2">{paragraph("Monthly.")}</w:footnote></w:footnotes>',
        "word/endnotes.xml": f'<w:endnotes {DECLARED}><w:endnote w:id="2">{paragraph("Without heating.")}'
        "</w:endnote></w:endnotes>",
    }
    document = docx.Document()
    document.add_comment(document.add_paragraph("Term.").runs, text="Two years?", author="Ada")
    found = lines(build(tmp_path, xml, document, parts))
    assert found == [
        "Term.",
        "Rent[1] is due[2].",
        "[1] Without heating.",
        "[2] Monthly.",
        "Comment by Ada: Two years?",
    ]


def test_a_note_that_is_not_in_the_file_is_said(tmp_path):
    xml = f'<w:p>{run("Rent")}<w:r><w:footnoteReference w:id="7"/></w:r></w:p>'
    assert read(build(tmp_path, xml)).notes == ("1 footnote is not read.",)


def test_tracked_changes_are_read_as_accepted(tmp_path):
    deleted_mark = '<w:pPr><w:rPr><w:del w:id="9" w:author="a"/></w:rPr></w:pPr>'
    row = "<w:tr>{}<w:tc><w:p>" + run("{}") + "</w:p></w:tc></w:tr>"
    xml = (
        f'<w:p><w:ins w:id="1" w:author="a">{run("thirty")}</w:ins>'
        '<w:del w:id="2" w:author="a"><w:r><w:delText>ninety</w:delText></w:r></w:del>'
        f'<w:moveFrom w:id="3">{run(" from")}</w:moveFrom><w:moveTo w:id="4">{run(" days")}</w:moveTo></w:p>'
        f"<w:p>{deleted_mark}{run('of ')}</w:p>{paragraph('notice')}"
        "<w:tbl>" + row.format("", "stays") + row.format("<w:trPr><w:del w:id='5'/></w:trPr>", "goes") + "</w:tbl>"
    )
    text = read(build(tmp_path, xml)).text
    assert text.startswith("thirty days\n\nof notice\n")
    assert "stays" in text and "goes" not in text


def test_content_controls_tags_and_unknown_wrappers_hide_nothing(tmp_path):
    cell = f"<w:tc>{paragraph('in a cell')}</w:tc>"
    control = "<w:sdt><w:sdtPr><w:alias w:val='no text'/></w:sdtPr><w:sdtContent>{}</w:sdtContent></w:sdt>"
    xml = (
        f"<w:p><w:smartTag>{run('tagged ')}</w:smartTag>{control.format(run('inline'))}</w:p>"
        f"{control.format(paragraph('a block'))}"
        f"<w:customXml w:element='x'>{paragraph('custom')}</w:customXml>"
        f"<w:p><w:dir w:val='rtl'>{run('rightwards')}</w:dir><w:someday>{run(' later')}</w:someday></w:p>"
        f"<w:tbl>{control.format('<w:tr>' + control.format(cell) + '</w:tr>')}</w:tbl>"
    )
    text = read(build(tmp_path, xml)).text
    for words in ("tagged inline", "a block", "custom", "rightwards later", "in a cell"):
        assert words in text
    assert "no text" not in text


def test_results_of_fields_are_read_and_their_codes_are_not(tmp_path):
    def mark(kind, more=""):
        return f'<w:r><w:fldChar w:fldCharType="{kind}">{more}</w:fldChar></w:r>'

    code = '<w:r><w:instrText xml:space="preserve">{}</w:instrText></w:r>'
    inner = mark("begin") + code.format("MERGEFIELD plan") + mark("separate") + run("gold") + mark("end")
    outer = mark("begin") + code.format("IF ") + inner + code.format('= "gold" "yes" "no"') + mark("separate")
    tick = "<w:ffData><w:checkBox><w:default w:val='0'/><w:checked/></w:checkBox></w:ffData>"
    choice = "<w:ffData><w:ddList><w:result w:val='1'/><w:listEntry w:val='red'/><w:listEntry w:val='blue'/></w:ddList>"
    xml = (
        f"<w:p>{run('Paid: ')}{outer}{run('yes')}{mark('end')}</w:p>"
        f"<w:p><w:fldSimple w:instr='PAGE'>{run('12')}</w:fldSimple></w:p>"
        f"<w:p>{mark('begin', tick)}{code.format('FORMCHECKBOX')}{mark('end')}{run(' agreed')}</w:p>"
        f"<w:p>{mark('begin', choice + '</w:ffData>')}{code.format('FORMDROPDOWN')}{mark('end')}</w:p>"
        f"<w:p>{mark('begin')}{run('a field without an end')}</w:p>"
    )
    assert lines(build(tmp_path, xml)) == ["Paid: yes", "12", "☒ agreed", "blue", "a field without an end"]


def test_hidden_text_is_left_out_and_said(tmp_path):
    converted = read(build(tmp_path, f"<w:p>{run('Shown.')}{run('Secret', '<w:vanish/>')}</w:p>"))
    assert converted.text.strip() == "Shown." and converted.notes == ("Hidden text is omitted.",)
    converted = read(build(tmp_path, "<w:p>" + run("Shown.", "<w:vanish w:val='0'/>") + "</w:p>"))
    assert converted.text.strip() == "Shown." and converted.notes == ()


def test_symbols_and_hyphens_are_characters(tmp_path):
    xml = (
        '<w:p><w:r><w:sym w:font="Symbol" w:char="F061"/><w:sym w:font="Arial" w:char="00B0"/></w:r>'
        + run(chr(0xF062), "<w:rFonts w:ascii='Symbol'/>")
        + "<w:r><w:t>co</w:t><w:noBreakHyphen/><w:t>owner</w:t><w:softHyphen/><w:t>ship</w:t></w:r>"
        '<w:r><w:sym w:font="House Font" w:char="F041"/></w:r></w:p>'
    )
    converted = read(build(tmp_path, xml))
    assert converted.text.strip() == "α°βco\u2011ownership"
    assert converted.notes == ("1 symbol of the font House Font is not read.",)


def test_formulas_are_latex_or_at_least_their_characters(tmp_path):
    def characters(text):
        return f"<m:r><m:t>{text}</m:t></m:r>"

    fraction = f"<m:f><m:num>{characters('a')}</m:num><m:den>{characters('7')}</m:den></m:f>"
    unknown = f"<m:sPre><m:sub>{characters('92')}</m:sub><m:sup>{characters('235')}</m:sup><m:e>{characters('U')}</m:e>"
    xml = f"<w:p>{run('x = ')}<m:oMath>{fraction}</m:oMath></w:p><w:p><m:oMath>{unknown}</m:sPre></m:oMath></w:p>"
    text = read(build(tmp_path, xml)).text
    assert r"x = $\frac{a}{7}$" in text
    assert "$92235U$" in text


def test_merged_cells_keep_every_value_in_its_column(tmp_path):
    document = docx.Document()
    table = document.add_table(4, 3)
    for row in range(4):
        for column in range(3):
            table.cell(row, column).text = f"{row}{column}"
    table.cell(1, 0).merge(table.cell(2, 0)).text = "tall"
    table.cell(3, 1).merge(table.cell(3, 2)).text = "wide"
    rows = [line.strip("|").split("|") for line in lines(build(tmp_path, document=document))]
    assert {len(row) for row in rows} == {3}
    values = [[cell.strip() for cell in row] for row in rows if "---" not in row[0] and "".join(row).strip()]
    assert values[:3] == [["00", "01", "02"], ["tall", "11", "12"], ["tall", "21", "22"]]
    assert values[3] == ["30", "wide", "wide"]


def test_raised_and_struck_text_and_names_with_signs_are_exact(tmp_path):
    document = docx.Document()
    line = document.add_paragraph("10")
    line.add_run("6").font.superscript = True
    line.add_run(" of max_batch_size *x* for ")
    line.add_run("30").font.strike = True
    line.add_run(" 45 days, 3.2×10")
    line.add_run("-3").font.superscript = True
    assert read(build(tmp_path, document=document)).text.strip() == (
        "10^6 of max_batch_size *x* for ~~30~~ 45 days, 3.2×10^-3"
    )


def test_skipped_columns_of_a_row_are_empty_cells(tmp_path):
    def cell(text):
        return f"<w:tc>{paragraph(text)}</w:tc>"

    xml = (
        f"<w:tbl><w:tr>{cell('a')}{cell('b')}{cell('c')}</w:tr>"
        f"<w:tr><w:trPr><w:gridBefore w:val='1'/><w:gridAfter w:val='1'/></w:trPr>{cell('under b')}</w:tr></w:tbl>"
    )
    last = lines(build(tmp_path, xml))[-1]
    assert [text.strip() for text in last.strip("|").split("|")] == ["", "under b", ""]


NUMBERS = f"""<w:numbering {DECLARED}>
<w:abstractNum w:abstractNumId="1">
<w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="upperRoman"/><w:lvlText w:val="Article %1."/></w:lvl>
<w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:isLgl/><w:lvlText w:val="%1.%2"/></w:lvl>
<w:lvl w:ilvl="2"><w:start w:val="1"/><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="(%3)"/></w:lvl>
</w:abstractNum>
<w:abstractNum w:abstractNumId="2">
<w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="bullet"/><w:lvlText w:val="o"/></w:lvl></w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="1"/></w:num>
<w:num w:numId="2"><w:abstractNumId w:val="1"/>
<w:lvlOverride w:ilvl="0"><w:startOverride w:val="5"/></w:lvlOverride></w:num>
<w:num w:numId="3"><w:abstractNumId w:val="2"/></w:num></w:numbering>"""


def test_paragraphs_carry_the_numbers_that_are_shown(tmp_path):
    def numbered(text, level, number=1):
        place = f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>'
        return f"<w:p><w:pPr>{place}</w:pPr>{run(text)}</w:p>"

    outline = [("Term", 0), ("Start", 1), ("End", 1), ("by notice", 2), ("by death", 2), ("Rent", 0), ("Sum", 1)]
    xml = "".join(numbered(text, level) for text, level in outline)
    xml += numbered("Annex", 0, 2) + numbered("Map", 0, 2) + numbered("plain", 0, 0) + numbered("item", 0, 3)
    found = lines(build(tmp_path, xml, parts={"word/numbering.xml": NUMBERS}))
    assert found[:-2] == [
        "Article I. Term",
        "1.1 Start",
        "1.2 End",
        "(a) by notice",
        "(b) by death",
        "Article II. Rent",
        "2.1 Sum",
        "Article V. Annex",
        "Article VI. Map",
    ]
    assert found[-2] == "plain" and re.fullmatch(r"[-*•] item", found[-1])


def test_headings_are_found_through_the_styles_they_are_based_on(tmp_path):
    document = docx.Document()
    style = document.styles.add_style("Clause title", 1)
    style.base_style = document.styles["Heading 2"]
    style.font.size = Pt(20)
    document.add_paragraph("Notice", style="Clause title")
    assert read(build(tmp_path, document=document)).text.strip() == "## Notice"


def test_the_readings_of_characters_stay_beside_them(tmp_path):
    ruby = f"<w:ruby><w:rubyPr/><w:rt>{run('す')}</w:rt><w:rubyBase>{run('住')}</w:rubyBase></w:ruby>"
    assert read(build(tmp_path, f"<w:p><w:r>{ruby}</w:r>{run('む')}</w:p>")).text.strip() == "住(す)む"


def test_what_is_no_text_is_said(tmp_path):
    chart = "<w:drawing><wp:inline><a:graphic><a:graphicData><c:chart/></a:graphicData></a:graphic></wp:inline>"
    xml = (
        f"{paragraph('Figures')}<w:p><w:r>{chart}</w:drawing></w:r></w:p><w:p><w:r>{chart}</w:drawing></w:r></w:p>"
        "<w:p><w:r><w:object><o:OLEObject ProgID='Equation.3'/></w:object></w:r></w:p><w:altChunk r:id='rIdX'/>"
    )
    assert read(build(tmp_path, xml)).notes == (
        "Chart (2 times) is not read.",
        "1 embedded object (Equation.3) is not read.",
        "1 inserted file is not read.",
    )


def test_an_inserted_page_is_read(tmp_path):
    parts = {
        "word/_rels/document.xml.rels": related("aFChunk", "afchunk.htm"),
        "word/afchunk.htm": "<html><body><p>From a page: é</p></body></html>".encode(),
    }
    xml = f"{paragraph('Before')}<w:altChunk r:id='rId900'/>{paragraph('After')}"
    assert lines(build(tmp_path, xml, parts=parts)) == ["Before", "From a page: é", "After"]


def test_alternative_text_and_watermarks_are_read(tmp_path):
    xml = (
        '<w:p><w:r><w:drawing><wp:inline><wp:docPr id="1" name="p" descr="Plan of the house"/></wp:inline></w:drawing>'
        '</w:r></w:p><w:p><w:r><w:pict><v:shape><v:textpath string="DRAFT"/></v:shape></w:pict></w:r></w:p>'
    )
    text = read(build(tmp_path, xml)).text
    assert "Plan of the house" in text and "DRAFT" in text


def test_a_main_part_of_any_name_and_strict_namespaces_are_read(tmp_path):
    document = docx.Document()
    document.add_heading("Lease", 2)
    document.add_paragraph("Ninety days.")
    path = build(tmp_path, document=document)
    strict = {
        "http://schemas.openxmlformats.org/wordprocessingml/2006/main": "http://purl.oclc.org/ooxml/wordprocessingml/main",
        "http://schemas.openxmlformats.org/officeDocument/2006/": "http://purl.oclc.org/ooxml/officeDocument/",
    }
    other = tmp_path / "b.docm"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as archive:
        for name in source.namelist():
            raw = source.read(name).replace(b"word/document.xml", b"word/other.xml")
            for transitional, name_of_strict in strict.items():
                raw = raw.replace(transitional.encode(), name_of_strict.encode())
            archive.writestr(
                name.replace("word/document.xml", "word/other.xml").replace("document.xml", "other.xml"), raw
            )
    assert read(other).text.strip() == read(path).text.strip() == "## Lease\n\nNinety days."


def test_external_links_are_not_fetched_and_entities_not_expanded(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    entity = f'<!DOCTYPE w [<!ENTITY x SYSTEM "{secret.as_uri()}"><!ENTITY y "yyyy">]>'.encode()
    change = {
        "word/document.xml": lambda raw: raw.replace(b"<w:document", entity + b"<w:document", 1).replace(
            b"Hello", b"Hello &x;&y;"
        )
    }
    path = build(tmp_path, paragraph("Hello"), parts=change)
    try:
        text = read(path).text
    except DocumentError:
        return
    assert "secret" not in text and "yyyy" not in text


@pytest.mark.parametrize("depth", [40, 200, 300, 20_000])
def test_deep_nesting_is_read_or_refused_in_one_sentence(tmp_path, depth):
    nested = "<w:sdt><w:sdtContent>" * depth + paragraph("core") + "</w:sdtContent></w:sdt>" * depth
    marker = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in ("MARK",))
    change = {"word/document.xml": lambda raw: re.sub(b"<w:p>.*MARK.*?</w:p>", nested.encode(), raw, flags=re.DOTALL)}
    path = build(tmp_path, marker, parts=change)
    if depth < 100:
        assert read(path).text.strip() == "core"
        return
    with pytest.raises(DocumentError, match="deep"):
        read(path)


def test_a_page_header_that_is_not_in_the_file_is_said(tmp_path):
    document = docx.Document()
    document.add_paragraph("Body.")
    document.sections[0].header.paragraphs[0].text = "Confidential"
    change = {"word/_rels/document.xml.rels": lambda raw: raw.replace(b"header1.xml", b"header9.xml")}
    converted = read(build(tmp_path, document=document, parts=change))
    assert converted.text.strip() == "Body." and converted.notes == ("1 page header is not read.",)


def test_numbers_are_found_where_they_usually_are_if_nothing_refers_to_them(tmp_path):
    document = docx.Document()
    document.add_paragraph("Term", style="List Number")
    change = {"word/_rels/document.xml.rels": lambda raw: raw.replace(b"relationships/numbering", b"relationships/x")}
    assert read(build(tmp_path, document=document, parts=change)).text.strip() == "1. Term"


def test_newer_things_are_read_or_said_and_not_what_older_programs_say_of_them(tmp_path):
    def ways(newer, older):
        return f"<w:r><mc:AlternateContent><mc:Choice>{newer}</mc:Choice><mc:Fallback>{older}</mc:Fallback>"

    chart = '<cx:chart xmlns:cx="http://schemas.microsoft.com/office/drawing/2014/chartex"/>'
    shape = '<w:drawing><wp:inline><wp:docPr id="1" name="s" descr="An arrow"/></wp:inline></w:drawing>'
    end = "</mc:AlternateContent></w:r>"
    both = ways(shape, "<w:pict/>") + end + ways(chart, run("This chart is not available.")) + end
    xml = f"<w:p>{run('See ')}{both}</w:p>"
    converted = read(build(tmp_path, xml))
    assert converted.text.strip() == "See An arrow" and converted.notes == ("1 chart is not read.",)
