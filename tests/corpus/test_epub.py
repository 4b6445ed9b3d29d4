import zipfile

import pytest

from longreach.corpus.documents import convert as formats
from longreach.errors import DocumentError

CONTAINER = (
    '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)


def package(items, spine, metadata="", prefix=""):
    """A package file: `items` by id, the ids in `spine`, and all elements with a namespace prefix if one is given."""
    colon = f"{prefix}:" if prefix else ""
    declared = f"xmlns{':' if prefix else ''}{prefix}='http://www.idpf.org/2007/opf'"
    listed = ""
    for key, href in items.items():
        kind = "" if "media-type=" in href else "' media-type='application/xhtml+xml"
        listed += f"<{colon}item id='{key}' href='{href}{kind}'/>"
    order = "".join(f"<{colon}itemref idref='{key}'/>" for key in spine)
    return (
        f"<?xml version='1.0'?><{colon}package {declared} xmlns:dc='http://purl.org/dc/elements/1.1/'>"
        f"<{colon}metadata>{metadata}</{colon}metadata><{colon}manifest>{listed}</{colon}manifest>"
        f"<{colon}spine>{order}</{colon}spine></{colon}package>"
    )


def page(text, head=""):
    return f"<html xmlns='http://www.w3.org/1999/xhtml'><head>{head}</head><body><p>{text}</p></body></html>"


@pytest.fixture
def book(tmp_path):
    """Writes a book of the given members and reads it."""

    def read(members, opf, container=CONTAINER):
        path = tmp_path / "book.epub"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("mimetype", "application/epub+zip")
            if container:
                archive.writestr("META-INF/container.xml", container)
            archive.writestr("OEBPS/book.opf", opf)
            for name, content in members.items():
                archive.writestr(name, content)
        return formats.read(path)

    return read


PAGES = {"OEBPS/a.xhtml": page("One."), "OEBPS/b.xhtml": page("Two."), "OEBPS/c.xhtml": page("Three.")}
ITEMS = {"a": "a.xhtml", "b": "b.xhtml", "c": "c.xhtml"}


@pytest.mark.parametrize("prefix", ["", "opf", "ns0"])
def test_every_page_is_read_in_order_whatever_the_prefix(book, prefix):
    metadata = "<dc:title>T &amp; U</dc:title><dc:creator>Ada</dc:creator><dc:creator>Bob</dc:creator>"
    opf = package(ITEMS, ["c", "a", "b"], metadata, prefix)
    assert book(PAGES, opf) == ("Title: T & U\nAuthors: Ada, Bob\n\nThree.\n\nOne.\n\nTwo.", ())


@pytest.mark.parametrize(
    ("href", "member"),
    [
        ("b.xhtml#chapter2", "OEBPS/b.xhtml"),
        ("B.XHTML", "OEBPS/b.xhtml"),
        ("b.xhtml", "oebps/B.xhtml"),
        ("Text/b%20two.xhtml", "OEBPS/Text/b two.xhtml"),
        ("b%20two.xhtml", "OEBPS/b%20two.xhtml"),
        ("b#2.xhtml", "OEBPS/b#2.xhtml"),
        ("../b.xhtml", "b.xhtml"),
        ("./x/../b.xhtml", "OEBPS/b.xhtml"),
        ("Text\\b.xhtml", "OEBPS/Text/b.xhtml"),
        ("Text/b.xhtml", "OEBPS\\Text\\b.xhtml"),
        ("OEBPS/b.xhtml", "OEBPS/b.xhtml"),
        ("/OEBPS/b.xhtml", "OEBPS/b.xhtml"),
        ("%C3%A9.xhtml", "OEBPS/e\u0301.xhtml"),
        ("b.xhtml?v=1", "OEBPS/b.xhtml"),
    ],
)
def test_pages_are_found_however_they_are_named(book, href, member):
    members = {"OEBPS/a.xhtml": page("One."), member: page("Two.")}
    assert book(members, package({"a": "a.xhtml", "b": href}, ["a", "b"])) == ("One.\n\nTwo.", ())


def test_what_is_missing_is_named(book):
    opf = package({**ITEMS, "d": "gone/d.xhtml"}, ["a", "d", "nowhere", "b"])
    text, notes = book(PAGES, opf)
    assert text == "One.\n\nTwo.\n\nThree."
    assert set(notes) == {
        "Chapter 'nowhere' is not listed among the files of the book.",
        "Chapter 'gone/d.xhtml' is missing in the archive.",
    }


def test_a_page_named_many_times_is_read_once(book):
    items = {f"i{number}": f"a.xhtml#{number}" for number in range(10_000)}
    assert book(PAGES, package({**items, **ITEMS}, [*items, *["a"] * 10_000, "b"])).text == "One.\n\nTwo.\n\nThree."


def test_pages_outside_the_order_follow_and_the_contents_do_not(book):
    items = {**ITEMS, "n": "n.xhtml' properties='nav"}
    members = {**PAGES, "OEBPS/n.xhtml": page("Contents.")}
    assert book(members, package(items, ["b"])).text == "Two.\n\nOne.\n\nThree."


def test_a_book_without_text_is_refused(book, tmp_path):
    title = "<dc:title>T</dc:title>"
    for members, items in [
        ({}, {"a": "a.xhtml"}),
        ({"OEBPS/a.xhtml": page("<img src='x.png'/>")}, {"a": "a.xhtml"}),
        ({"OEBPS/a.png": b"x"}, {"a": "a.png' media-type='image/png"}),
        ({}, {}),
    ]:
        with pytest.raises(DocumentError, match=r"book\.epub holds no text.*: export it as text\."):
            book(members, package(items, items, title))


def test_pages_in_an_undeclared_encoding_are_read_or_refused_by_name(book):
    french = "Le café était déjà fermé à l'heure où nous sommes arrivés."
    opf = package(ITEMS, ["a", "b", "c"])
    assert french in book({**PAGES, "OEBPS/b.xhtml": page(french).encode("cp1252")}, opf).text
    with pytest.raises(DocumentError, match=r"OEBPS/b\.xhtml.*iconv"):
        book({**PAGES, "OEBPS/b.xhtml": page("Naïve").encode() + b"\xff\xff"}, opf)
    declared = '<?xml version="1.0" encoding="windows-1250"?>' + page("Az első szerződő fél.")
    assert "Az első szerződő fél." in book({**PAGES, "OEBPS/b.xhtml": declared.encode("cp1250")}, opf).text


def test_pages_are_xhtml(book):
    head = "<title/><script src='x.js'/><style/>"
    text = "a<span/>b <![CDATA[x < y & z]]> &nbsp;&mdash;<textarea/> end"
    members = {"OEBPS/a.xhtml": '<?xml version="1.0"?>' + page(text, head)}
    assert book(members, package({"a": "a.xhtml"}, ["a"])).text == "ab x < y & z \u00a0— end"
    cut = '<?xml version="1.0"?>' + page("<p><![CDATA[a < b]]></p><p>c</p><![CDATA[" * 3)
    assert "a < b" in book({"OEBPS/a.xhtml": cut}, package({"a": "a.xhtml"}, ["a"])).text
    entity = '<!DOCTYPE html [<!ENTITY firm "Acme Ltd"><!ENTITY x "&firm;&firm;">]>' + page("&firm; &x;")
    assert book({"OEBPS/a.xhtml": entity}, package({"a": "a.xhtml"}, ["a"])).text == "Acme Ltd &x;"
    prefixed = "<h:html xmlns:h='http://www.w3.org/1999/xhtml'><h:body><h:p>One</h:p><h:p>Two</h:p></h:body></h:html>"
    assert book({"OEBPS/a.xhtml": prefixed}, package({"a": "a.xhtml"}, ["a"])).text == "One\n\nTwo"


def test_entities_do_not_blow_up(book):
    entity = f'<!DOCTYPE html [<!ENTITY a "{"x" * 1000}">]>' + page("&a;" * 100_000)
    assert len(book({"OEBPS/a.xhtml": entity}, package({"a": "a.xhtml"}, ["a"])).text) < 1_500_000
    bomb = '<!DOCTYPE package [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>' + package(ITEMS, ["a"])[21:]
    assert "One." in book(PAGES, bomb).text


def test_titles_of_pages_are_read_once(book):
    members = {
        "OEBPS/a.xhtml": page("One.", "<title>Alice</title>"),
        "OEBPS/b.xhtml": page("Two.", "<title>Chapter 2</title>"),
        "OEBPS/c.xhtml": page("Three.", "<title>Chapter 2</title>"),
    }
    opf = package(ITEMS, ["a", "b", "c"], "<dc:title>Alice</dc:title>")
    assert book(members, opf).text == "Title: Alice\n\nOne.\n\nChapter 2\n\nTwo.\n\nThree."


def test_fallbacks_and_pictures(book):
    items = {
        "p": "p.png' fallback='f' media-type='image/png",
        "f": "a.xhtml",
        "s": "s.svg' media-type='image/svg+xml",
        "q": "q.png' media-type='image/png",
    }
    members = {**PAGES, "OEBPS/p.png": b"x", "OEBPS/q.png": b"x", "OEBPS/s.svg": "<svg><text>Map</text></svg>"}
    assert book(members, package(items, ["p", "s", "q"])) == ("One.\n\nMap", ())


def test_several_packages_and_none_in_the_container(book):
    second = CONTAINER.replace("</rootfiles>", "<rootfile full-path='OEBPS/two.opf'/></rootfiles>")
    members = {**PAGES, "OEBPS/two.opf": package({"a": "a.xhtml", "b": "b.xhtml"}, ["a", "b"])}
    assert book(members, package({"a": "a.xhtml"}, ["a"]), second).text == "One.\n\nTwo."
    assert book(PAGES, package(ITEMS, ["a"]), container=None).text.startswith("One.")
    assert book(PAGES, package(ITEMS, ["a"]), container=CONTAINER.replace("OEBPS", "oebps")).text.startswith("One.")


def test_a_page_damaged_in_the_archive_is_named(book, tmp_path):
    long = "".join(f"Sentence {number}. " for number in range(500))
    book({**PAGES, "OEBPS/b.xhtml": page(long)}, package(ITEMS, ["a", "b", "c"]))
    path = tmp_path / "book.epub"
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("OEBPS/b.xhtml").header_offset + 200
    raw = bytearray(path.read_bytes())
    raw[place : place + 20] = bytes(20)
    path.write_bytes(raw)
    assert formats.read(path) == ("One.\n\nThree.", ("Chapter 'b.xhtml' is damaged in the archive.",))


def test_only_what_is_encrypted_locks_a_book(book):
    listing = (
        "<encryption xmlns:enc='http://www.w3.org/2001/04/xmlenc#'><enc:EncryptedData><enc:EncryptionMethod "
        "Algorithm='{}'/><enc:CipherData><enc:CipherReference URI='{}'/></enc:CipherData></enc:EncryptedData>"
        "</encryption>"
    )
    opf = package(ITEMS, ["a", "b", "c"])
    fonts = listing.format("http://www.idpf.org/2008/embedding", "OEBPS/f.otf")
    assert book({**PAGES, "META-INF/encryption.xml": fonts}, opf).text == "One.\n\nTwo.\n\nThree."
    pages = listing.format("http://www.w3.org/2001/04/xmlenc#aes128-cbc", "OEBPS/b.xhtml")
    with pytest.raises(DocumentError, match="is password-protected"):
        book({**PAGES, "META-INF/encryption.xml": pages}, opf)


@pytest.mark.parametrize("opf", ["", "no xml", "<package>", "[" * 100_000, "<a>" * 100_000])
def test_a_broken_package_is_refused(book, opf):
    with pytest.raises(DocumentError, match=r"book\.epub (is damaged|holds no text)"):
        book(PAGES, opf)
