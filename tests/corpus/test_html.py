import pytest

from longreach.corpus.documents import convert as formats
from longreach.corpus.documents.html.page import to_markdown
from longreach.errors import DocumentError


def rows(page):
    """The cells of each line of a table."""
    lines = [line for line in to_markdown(page).splitlines() if line.startswith("| ")]
    return [line[2:-2].split(" | ") for line in lines if not line.startswith("| ---")]


# --- what a browser shows is there ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<body><p>one</body><body><p>two</body>", "one\n\ntwo"),
        ("<html><body><p>one</p></body></html><p>after</p>", "one\n\nafter"),
        ("<body>one</body></html> after", "one after"),
        ("<title>Lease</title><p>Text", "Lease\n\nText"),
        ("<html><head><title> The\n lease </title></head></html>", "The lease"),
        ("<title>Lease</title><h1>Lease</h1><p>Text", "# Lease\n\nText"),
        ("<title>Lease</title><nav>Home</nav><h1>LEASE</h1>", "Home\n\n# LEASE"),
        ("<title>Lease</title><p>Lease<p>Text", "Lease\n\nText"),
        ("<title>Big <b> & small</title><p>x", "Big <b> & small\n\nx"),
        ("<details><summary>More</summary>Hidden until clicked</details>", "More\nHidden until clicked"),
        ("<p>a<!-- no --><script>no</script><style>no</style><template>no</template>b", "ab"),
        ("<p hidden>Tab two", "Tab two"),
        ("see <img alt='A cat' src=x> here", "see A cat here"),
        ("<img alt=O src=x>nce upon", "Once upon"),
        ("<input value=Seven><input type=hidden value=no><textarea>\n a\n b</textarea>", "Seven  a\n b"),
        ("<p>a\n<plaintext>x <b> y", "a\n\nx <b> y"),
        ("<frameset><frame src=x></frameset>", ""),
        ("<p>&eacute; &#233; &#x80; &amp;amp; &nosuch; &lt;x&gt;", "é é € &amp; &nosuch; <x>"),
        ("<p>a<br>b<br><br>c", "a\nb\n\nc"),
        ("<p>a<hr>b", "a\n\n---\n\nb"),
        ("<pre>\n  a\n\n   b </pre>c", "  a\n\n   b \n\nc"),
    ],
)
def test_everything_shown_is_read_once_and_in_order(page, text):
    assert to_markdown(page) == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("Invoice<b> </b>number", "Invoice number"),
        ("<b>Purchase</b><b> </b><b>agreement</b>", "Purchase agreement"),
        ("in<b>voice</b>", "invoice"),
        ("in<wbr>voice, in&shy;voice, in<span></span>voice, in<!-- x -->voice", "invoice, invoice, invoice, invoice"),
        ("<header>Warranty</header><main>Twelve</main>", "Warranty\n\nTwelve"),
        ("<li>one<li>two", "- one\n- two"),
        ("<dt>term<dd>meaning<dt>other", "term\nmeaning\nother"),
        ("<select><option>one<option>two</select>", "one\ntwo"),
        ("<button>Save</button><button>Cancel</button>", "Save Cancel"),
        ("<label>Name<input value=Ada></label>", "Name Ada"),
        ("<span style='display:block'>one</span><span style='color:red; DISPLAY: block'>two</span>", "one\ntwo"),
        ("<div style='display:table-cell'>one</div><div style='display:table-cell'>two</div>", "one two"),
        ("<i style='float:left'>one</i>two", "one\ntwo"),
        ("<div style='display:inline'>in</div>voice", "invoice"),
        ("<p>one\n\n  <i> two </i>\n three</p>", "one two three"),
        ("<p> one </p>two", "one\n\ntwo"),
        ("one&nbsp;two", "one\u00a0two"),
        ("<p>日本\n語で\n<b>\n書く</b> a\nb 한국\n어", "日本語で書く a b 한국 어"),
        ("<svg><title>no</title><text>one</text><text>two</text></svg>", "one two"),
        ("<a href=x>one</a><a href=y>two</a>", "onetwo"),
        ("<section>one<section>two</section></section>three", "one\n\ntwo\n\nthree"),
        ("<p>one<table><tr><td>two<td>three</table>four", "one\n\n| two | three |\n\nfour"),
    ],
)
def test_words_are_apart_or_together_as_a_browser_shows_them(page, text):
    assert to_markdown(page) == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("10<sup>6</sup> or 3.2×10<sup>-3</sup> or 10<sup>−3</sup>", "10^6 or 3.2×10^-3 or 10^−3"),
        ("x<sup>n+1</sup>, 2<sup>2<sup>3</sup></sup>, e<sup>x</sup>, m<sup> 2 </sup>.", "x^(n+1), 2^(2^3), e^x, m^2."),
        ("1<sup>st</sup> 2<sup>e</sup> XIX<sup>e</sup> n<sup>o</sup> M<sup>lle</sup>", "1st 2e XIXe no Mlle"),
        ("text<sup>[1]</sup> and note<sup>2</sup> star<sup>*</sup>", "text[1] and note^2 star*"),
        ("<p><sup>1</sup> A footnote.", "1 A footnote."),
        (
            "H<sub>2</sub>O, x<sub>i</sub>, V<sub>max</sub>, 10<sub>2</sub>, a<sub>i+1</sub>",
            "H2O, x_i, V_max, 10_2, a_(i+1)",
        ),
        ("SO<sub>4</sub><sup>2-</sup>", "SO4^2-"),
        ("a<sup></sup>b", "ab"),
        ("<ruby>住<rt>す</rt></ruby>む", "住(す)む"),
        ("<ruby>住<rp>（</rp><rt>す</rt><rp>）</rp></ruby>む", "住(す)む"),
        ("<ruby>漢<rt>かん</rt>字<rt>じ</rt></ruby>", "漢(かん)字(じ)"),
        ("<ruby><rb>漢<rt>かん<rb>字<rt></ruby>", "漢(かん)字"),
        ("<math><msup> <mi>x</mi> <mn>2</mn> </msup><mo>=</mo><msub><mi>y</mi><mi>i</mi></msub></math>", "x^2=y_i"),
        ("<math><mfrac><mn>1</mn><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow></mfrac></math>", "1/(a+b)"),
        ("<del>30</del><ins>60</ins> days <s> gone </s>on <s></s>", "~~30~~60 days ~~gone~~ on"),
        ("<q>so</q> he said", '"so" he said'),
    ],
)
def test_what_is_raised_lowered_or_struck_out_is_told_apart(page, text):
    assert to_markdown(page) == text


# --- lists and tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<ol><li>a<li>b<ul><li>c</ul><li>d</ol>", "1. a\n2. b\n  - c\n3. d"),
        ("<ol start=3 type=a><li>x<li value=26>y<li>z</ol>", "c. x\nz. y\naa. z"),
        ("<ol reversed type=I><li>x<li>y</ol>", "II. x\nI. y"),
        ("<ul><li><p>a</p><p>b</p><li></ul>", "- a\n\n  b"),
        ("<h2>A</h2><h3>B<br>C</h3><h4></h4>d", "## A\n\n### B C\n\nd"),
    ],
)
def test_lists_and_headings_are_markdown(page, text):
    assert to_markdown(page) == text


@pytest.mark.parametrize(
    ("page", "cells"),
    [
        ("<tr><th>A<th>B<tr><td>1<td>2", [["A", "B"], ["1", "2"]]),
        ("<tr><td rowspan=2>x<td>1<tr><td>2<tr><td>y<td>3", [["x", "1"], ["x", "2"], ["y", "3"]]),
        ("<tr><td>1<td rowspan=2>x<td>2<tr><td>3<td>4", [["1", "x", "2"], ["3", "x", "4"]]),
        ("<tr><th colspan=2>N<th>P<tr><td>a<td>b<td>c", [["N", "N", "P"], ["a", "b", "c"]]),
        ("<tr><td>a<td>b<tr><td colspan=2>all", [["a", "b"], ["all", ""]]),
        ("<tr><td>a<td>b<td>c<tr><td>d", [["a", "b", "c"], ["d", "", ""]]),
        ("<tr><td>a<td rowspan=0>b<tr><td>c<tbody><tr><td>d<td>e", [["a", "b"], ["c", "b"], ["d", "e"]]),
        ("<tr><td rowspan=9>a<td>b<tbody><tr><td>c<td>d", [["a", "b"], ["c", "d"]]),
        ("<tr><td><p>one</p><p>two</p><td>three<br>four", [["one two", "three four"]]),
        ("<tr><td>a<td><table><tr><td>k<td>3</table><tr><td>b<td>c", [["a", "k, 3"], ["b", "c"]]),
        ("<tr><td colspan=900 rowspan=2>a<td>b<tr><td>c", [["a", "b"], ["a", "c"]]),
        ("<tr><td></td><td>b<tr><td>c<td>d", [["", "b"], ["c", "d"]]),
    ],
)
def test_rows_have_equal_width_and_values_stand_under_their_headings(cells, page):
    assert rows(f"<table>{page}</table>") == cells


def test_a_table_has_its_caption_and_the_signs_of_its_header():
    page = "<table><caption>Rent</caption><thead><tr><th>Month<th>Euro</thead><tr><td>May<td>900|90</table>"
    assert to_markdown(page) == "Rent\n\n| Month | Euro |\n| --- | --- |\n| May | 900|90 |"


def test_tables_that_only_place_things_are_paragraphs():
    assert to_markdown("<table><tr><td><h1>A</h1><tr><td><p>b<p>c</table>") == "# A\n\nb\n\nc"
    inner = "<table><tr><td>x<td>" + "long " * 100 + "</table>"
    text = to_markdown(f"<table><tr><td>menu<td>{inner}</table>")
    assert text.startswith("menu\n\n| x | long long")


# --- no output syntax -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_size and __init__ and *args, **kwargs",
        "[x] (y) ![z] `code` ~/home #tag a|b \\n C:\\new",
        "1. Not a list",
        "- nor this",
        "# or that",
        "> quoted < 5 && &amp;",
        "“curly” – dashes…",
    ],
)
def test_nothing_is_escaped(text):
    import html

    page = html.escape(text)
    assert to_markdown(f"<p>{page}</p>") == text
    assert to_markdown(f"<p><b>{page}</b></p>") == text
    assert rows(f"<table><tr><td>{page}<td>x</table>")[0][-1] == "x"
    assert text in to_markdown(f"<table><tr><td>{page}<td>x</table>")


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<a href='https://a.b/c?d'>here</a>, and", "here (https://a.b/c?d), and"),
        ("<a href='https://a.b'>bus</a>es run", "buses (https://a.b) run"),
        ("<a href='mailto:x@y.z'>Write</a> <a href='mailto:x@y.z'>x@y.z</a>", "Write (x@y.z) x@y.z"),
        ("<a href='#n'>n</a> <a href='/p'>p</a> <a href='javascript:no()'>j</a>", "n p j"),
        ("<a href='https://a.b/'>https://a.b</a> <a href='https://a.b'></a>", "https://a.b"),
        ("<ul><li><a href='https://a.b'>x</a><li>y</ul>", "- x (https://a.b)\n- y"),
    ],
)
def test_links_to_other_sites_have_their_address_behind_the_word(page, text):
    assert to_markdown(page) == text


# --- hostile pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5_001, 30_000, 300_000])
def test_a_page_nested_too_deep_is_refused_with_the_limit(tmp_path, count):
    path = tmp_path / "deep.html"
    path.write_text("<div>" * count + "x")
    with pytest.raises(DocumentError, match=r"deep\.html nests more than 5,000 elements in each other.*: open"):
        formats.read(path)


@pytest.mark.parametrize(
    ("page", "length"),
    [
        ("<div>" * 3_000 + "x" + "</div>" * 3_000, 1),
        ("<span>" * 20_000 + "x", 1),
        ("<b>" * 20_000 + "x", 1),
        ("<sup>y" * 2_000, None),
        ("<table><tr><td>x" * 1_000, None),
        ("<ul><li>x" * 1_000, 200_000),
        ("<div>x</div>" * 20_000, None),
        ("<p>" + " " * 80_000 + "x", 1),
        ("x" + "\n \n" * 40_000 + "日", 3),
        ("<table><tr><td><pre>" + " " * 80_000 + "x</pre><td>y", 9),
        ("<a href='" * 16_000, 0),
        ("<table><tr>" + "<td colspan=1000>x" * 500 + "<tr><td>y" * 500 + "</table>", 50_000),
        ("<table><tr>" + "<td rowspan=65534>x" * 500 + "<tr><td>y" * 500 + "</table>", 200_000),
        ("<table><tr><td rowspan=0>" + "long " * 20_000 + "<td>q" + "<tr><td>y" * 2_000 + "</table>", 700_000),
    ],
)
def test_hostile_pages_are_read_without_recursion_and_stay_small(page, length):
    text = to_markdown(page)
    assert length is None or len(text) <= length
