import contextlib
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import docx
import pypdf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reportlab.pdfgen import canvas

from longreach.corpus.documents import Document, Skipped, apart, find, list_suffixes, read_all
from longreach.corpus.documents import convert as formats
from longreach.errors import DocumentError, UsageError

LINE = "The tenant shall give ninety days of notice."
PAGE = f"<p>{LINE} é</p>".encode()
CONTAINER = '<container><rootfiles><rootfile full-path="b.opf"/></rootfiles></container>'
OPF = '<package><manifest><item id="a" href="a.xhtml"/></manifest><spine><itemref idref="a"/></spine></package>'


def make_pdf(path, *pages):
    pdf = canvas.Canvas(str(path))
    for page in pages:
        pdf.drawString(72, 720, page)
        pdf.showPage()
    pdf.save()
    return path


def make_encrypted(path, user, algorithm):
    writer = pypdf.PdfWriter(clone_from=make_pdf(path, LINE))
    writer.encrypt(user_password=user, owner_password="owner", algorithm=algorithm)
    writer.write(path)
    return path


def make_docx(path):
    document = docx.Document()
    document.add_heading("Lease")
    document.add_paragraph(LINE + " Ä “q” 日本")
    document.save(str(path))
    return path


def make_epub(path, body=PAGE, more=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("b.opf", OPF)
        archive.writestr("a.xhtml", b"<html><body>" + body + b"</body></html>")
        for name in more:
            archive.writestr(name, "x")
    return path


def written(path, raw):
    path.write_bytes(raw)
    return path


def read(path):
    return formats.read(path).text


def refusal(path):
    with pytest.raises(DocumentError) as caught:
        read(path)
    sentence = str(caught.value)
    assert path.name in sentence and ": " in sentence and sentence.endswith(".") and "\n" not in sentence
    return sentence


# --- plain text -------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), mark=st.booleans())
def test_text_written_as_utf8_is_read_back_exactly(tmp_path, text, mark):
    text = text.removeprefix("\ufeff")
    path = written(tmp_path / "t.md", text.encode("utf-8-sig" if mark else "utf-8"))
    if text.strip("\ufeff").strip():
        assert read(path) == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_line_ends_marks_and_emoji_are_kept(tmp_path, encoding):
    text = "  a\r\nb\rc\n\n👩‍👩‍👧 é e\u0301\x0c日本 \t"
    assert read(written(tmp_path / "t.txt", text.encode(encoding))) == text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_big_endian_text_is_read(tmp_path, encoding):
    raw = "\ufeffvoilà".encode(encoding + "-be")
    assert read(written(tmp_path / "t.txt", raw)) == "voilà"


WESTERN = [
    "Le café était déjà fermé à l'heure où nous sommes arrivés.",
    "Voilà l'été.",
    "Die Größe der Häuser überraschte die Gäste aus München.",
    "El niño comió una manzana; ¿cuál? ¡Aquélla! Sr. Muñoz, 1ª y 2º.",
    "Não há ninguém na estação àquela hora, disse a mãe.",
    "Perché la città è così bella?",
    "Rødgrød med fløde på øen, sagde hun.",
    "ÉCOLE NORMALE SUPÉRIEURE, À PARIS",
]


@pytest.mark.parametrize("times", [1, 2000])
@pytest.mark.parametrize("text", WESTERN)
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_western_prose_is_read(tmp_path, text, encoding, times):
    text = (text + "\r\n") * times
    assert read(written(tmp_path / "t.txt", text.encode(encoding))) == text


def test_windows_quotes_and_signs_are_read(tmp_path):
    text = "“It’s 5 µm,” she said — and it wasn’t; the price was €5 (±2%)…"
    assert read(written(tmp_path / "t.txt", text.encode("cp1252"))) == text


RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему."
OTHERS = [
    (RUSSIAN, "cp1251"),
    (RUSSIAN, "koi8_r"),
    ("Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.", "cp1253"),
    ("Zażółć gęślą jaźń, powiedział król do swojej żony wieczorem.", "cp1250"),
    ("Příliš žluťoučký kůň úpěl ďábelské ódy v noci na kopci.", "cp1250"),
    ("Árvíztűrő tükörfúrógép, mondta az öreg a hídon.", "cp1250"),
    ("Yılın kapısı açıldı ve çocuklar şarkı söyledi, güneş doğdu.", "cp1254"),
    ("吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。", "shift_jis"),
    ("人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。", "gb18030"),
    ("כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.", "cp1255"),
]


@pytest.mark.parametrize("times", [1, 50])
@pytest.mark.parametrize(("text", "encoding"), OTHERS)
def test_another_encoding_is_read_rightly_or_refused(tmp_path, text, encoding, times):
    text = text * times
    path = written(tmp_path / "t.txt", text.encode(encoding))
    try:
        assert read(path) == text
    except DocumentError as error:
        assert "iconv" in str(error)


@pytest.mark.parametrize(("text", "encoding"), OTHERS[:3])
def test_cyrillic_and_greek_are_read(tmp_path, text, encoding):
    assert read(written(tmp_path / "t.txt", text.encode(encoding))) == text


@pytest.mark.parametrize(
    ("raw", "offset"),
    [
        pytest.param("naïve café 日本".encode()[:-1], 16, id="cut in its last character"),
        pytest.param(b"the it\xe2\x80", 6, id="cut in its only character"),
        pytest.param("Déjà vu. ".encode() * 40 + b"\xff\xfe" + "Déjà vu. ".encode() * 40, 440, id="spoilt inside"),
        pytest.param(b"\xef\xbb\xbfabc\xff\xff\x81", 6, id="spoilt after a mark"),
        pytest.param(bytes(range(254, 0, -1)), 0, id="every byte"),
        pytest.param("été".encode("latin-1"), 0, id="too little to tell"),
    ],
)
def test_bytes_in_no_sure_encoding_are_refused(tmp_path, raw, offset):
    sentence = refusal(written(tmp_path / "notes.txt", raw))
    assert "neither UTF-8 nor a recognizable encoding" in sentence and "iconv" in sentence
    assert f"offset {offset})" in sentence


def test_random_bytes_are_refused(tmp_path):
    import random

    for seed in range(20):
        source = random.Random(seed)
        raw = bytes(source.randrange(1, 256) for _ in range(source.choice([100, 1000, 5000])))
        assert "convert it to UTF-8" in refusal(written(tmp_path / "noise.txt", raw))


def test_wrongly_marked_text_is_refused(tmp_path):
    assert "marked as utf-16 but is not" in refusal(written(tmp_path / "t.txt", b"\xff\xfea\0b"))


@pytest.mark.parametrize("raw", [b"\x89PNG\r\n\x1a\n1", b"PK\x03\x04abc", b"\x7fELF\x02\x01", b"%PDF-1.4\n", b"a\0b"])
def test_binary_content_is_refused(tmp_path, raw):
    sentence = refusal(written(tmp_path / "t.md", raw))
    assert "is a binary file, not text" in sentence and "convert it" in sentence


@pytest.mark.parametrize("name", ["t.txt", "t.html"])
@pytest.mark.parametrize("raw", [b"", b" \r\n\t", b"\xef\xbb\xbf"])
def test_empty_files_are_refused(tmp_path, name, raw):
    assert "is empty" in refusal(written(tmp_path / name, raw))


# --- what is no readable file -----------------------------------------------------------------------------------------


def test_missing_folder_and_pipe_are_refused(tmp_path):
    assert "does not exist: check the path" in refusal(tmp_path / "gone.txt")
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    assert "not a regular file" in refusal(tmp_path / "pipe.txt")


def test_unreadable_files_are_refused(tmp_path, monkeypatch):
    path = written(tmp_path / "t.txt", b"x")
    for error, words in [(PermissionError(13, "no"), "permission"), (OSError(5, "Input/output error"), "Input/output")]:

        def fail(self, mode, error=error):
            raise error

        monkeypatch.setattr(Path, "open", fail)  # root, as in a container, may read everything
        assert words in refusal(path)


# --- other formats ----------------------------------------------------------------------------------------------------


def test_html_is_read_without_markup_or_network(tmp_path, monkeypatch):
    import socket

    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setattr(apart, "is_possible", lambda: False)  # in this process, where there are no sockets
    page = (
        f"<html><head><style>x</style></head><body><h1>Lease é</h1><p>{LINE}</p><img src='http://x.y/z'></body></html>"
    )
    for suffix in (".html", ".HTM", ".xhtml"):
        text = read(written(tmp_path / f"a{suffix}", page.encode()))
        assert text.startswith("# Lease é\n") and LINE in text and "style" not in text


@pytest.mark.parametrize(
    ("text", "charset"), [("Größe “1”", "windows-1252"), ("Größe “1”", "ISO-8859-1"), ("吾輩は猫", "shift_jis")]
)
def test_html_is_read_in_the_encoding_it_declares(tmp_path, text, charset):
    page = f'<html><head><meta charset="{charset}"></head><body><p>{text}</p></body></html>'
    codec = "cp1252" if charset == "ISO-8859-1" else charset
    assert read(written(tmp_path / "a.html", page.encode(codec))) == text


def test_badly_encoded_html_is_refused(tmp_path):
    raw = b"<meta charset=utf-8><p>" + "naïve café".encode() + b"\xff\xff</p>"
    assert "iconv" in refusal(written(tmp_path / "a.html", raw))
    assert "iconv" in refusal(written(tmp_path / "a.html", raw.replace(b"utf-8", b"no-such-codec")))


def test_docx_is_read(tmp_path):
    assert read(make_docx(tmp_path / "a.docx")) == f"# Lease\n\n{LINE} Ä “q” 日本"


def test_epub_is_read(tmp_path):
    assert read(make_epub(tmp_path / "a.epub")).strip() == f"{LINE} é"


def test_pdf_is_read_page_by_page(tmp_path):
    first, second = read(make_pdf(tmp_path / "a.pdf", LINE, "Second page.")).split("\n\n")
    assert (first.strip(), second.strip()) == (LINE, "Second page.")


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_pdf_without_a_user_password_is_read(tmp_path, algorithm):
    assert LINE in read(make_encrypted(tmp_path / "a.pdf", "", algorithm))


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_pdf_with_a_password_is_refused(tmp_path, algorithm):
    assert "is password-protected: remove the password" in refusal(make_encrypted(tmp_path / "a.pdf", "x", algorithm))


def test_aes_pdf_without_cryptography_says_what_to_install(tmp_path):
    path = make_encrypted(tmp_path / "a.pdf", "", "AES-256")
    code = (
        "import sys; sys.modules.update({'cryptography': None, 'Crypto': None}); sys.frozen = True\n"
        "from pathlib import Path; from longreach.corpus.documents import read_all\n"
        f"print(*read_all([Path({str(path)!r})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install cryptography" in done.stdout and not done.stderr


def test_pdf_without_text_needs_ocr(tmp_path):
    assert "OCR" in refusal(make_pdf(tmp_path / "scan.pdf", ""))


@pytest.mark.parametrize("raw", [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)])
def test_locked_docx_is_refused(tmp_path, raw):
    assert "is password-protected" in refusal(written(tmp_path / "a.docx", raw))


def test_locked_epub_is_refused(tmp_path):
    path = make_epub(tmp_path / "a.epub", body=bytes(range(256)), more=["META-INF/encryption.xml"])
    assert "is password-protected" in refusal(path)
    assert read(make_epub(path, more=["META-INF/encryption.xml"]))  # only its fonts are scrambled


def test_badly_encoded_epub_is_refused(tmp_path):
    sentence = refusal(make_epub(tmp_path / "a.epub", body="naïve café ".encode() + b"\xff\xff"))
    assert "a.xhtml" in sentence and "iconv" in sentence


def test_zip_member_with_password_is_refused(tmp_path):
    path = make_epub(tmp_path / "a.epub")
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    assert "is password-protected" in refusal(written(path, raw))


@pytest.mark.parametrize("make", [make_docx, make_epub, lambda path: make_pdf(path, LINE)])
@pytest.mark.parametrize("spoil", [lambda raw: raw[: len(raw) // 3], lambda raw: b"<p>no</p>", lambda raw: raw[:9]])
def test_damaged_files_are_refused(tmp_path, make, spoil):
    for suffix in (".docx", ".epub", ".pdf"):
        path = tmp_path / f"a{suffix}"
        raw = make(path).read_bytes()
        assert "is damaged or is not a " + suffix in refusal(written(path, spoil(raw)))


def test_zip_of_another_kind_is_refused(tmp_path):
    for suffix in (".docx", ".epub"):
        with zipfile.ZipFile(tmp_path / f"a{suffix}", "w") as archive:
            archive.writestr("x.txt", LINE)
        assert "is damaged or is not" in refusal(tmp_path / f"a{suffix}")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from([".pdf", ".docx", ".epub", ".html"]))
def test_spoilt_files_raise_nothing_but_document_error(tmp_path, data, suffix):
    path = tmp_path / f"a{suffix}"
    if not (tmp_path / suffix).exists():
        maker = {".pdf": lambda p: make_pdf(p, LINE), ".docx": make_docx, ".epub": make_epub}.get(suffix)
        raw = maker(path).read_bytes() if maker else f"<p>{LINE}</p>".encode()
        (tmp_path / suffix).write_bytes(raw)
    raw = bytearray((tmp_path / suffix).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=20)):
        raw[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(DocumentError):
        assert formats.read(written(path, raw)).text


def test_converters_are_silent(tmp_path, capfd, recwarn):
    path = make_pdf(tmp_path / "a.pdf", LINE)
    raw = path.read_bytes().replace(b"startxref\n", b"startxref\n9")
    level = logging.getLogger("pypdf").level
    list(
        read_all(
            [written(path, raw), written(tmp_path / "b.html", b"<p>" * 3000 + b"x"), make_docx(tmp_path / "c.docx")]
        )
    )
    assert capfd.readouterr() == ("", "") and not recwarn.list
    assert logging.getLogger("pypdf").level == level


# --- finding ----------------------------------------------------------------------------------------------------------


def tree(root):
    for name in ["b.txt", "a.MD", "sub/c.rst", "sub/.hidden.txt", ".git/d.txt", "sub/photo.png", "LICENSE", "z/e.txt"]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "sub" / "loop").symlink_to(root)
    return root


def test_a_folder_stands_for_its_files(tmp_path):
    root = tree(tmp_path / "docs")
    found = find([root])
    paths = [item.relative_to(root).as_posix() for item in found if isinstance(item, Path)]
    assert paths == ["a.MD", "b.txt", "sub/c.rst", "z/e.txt"] and found == find([str(root)]) == find(root)
    reasons = {Path(item.name).name: item.reason for item in found if isinstance(item, Skipped)}
    assert reasons == {}  # the link leads to what is read anyway
    assert found.unread == {"": 1, ".png": 1}


def test_an_empty_folder_is_reported(tmp_path):
    (item,) = find([tmp_path])
    assert isinstance(item, Skipped) and "holds no files" in item.reason


def test_the_same_file_comes_once(tmp_path, monkeypatch):
    root = tree(tmp_path / "docs")
    (tmp_path / "link.txt").symlink_to(root / "b.txt")
    monkeypatch.chdir(root)
    found = find(["b.txt", Path("sub/../b.txt"), root / "b.txt", tmp_path / "link.txt", root])
    assert [item for item in found if isinstance(item, Path)].count(root / "b.txt") == 1


def test_a_file_left_out_of_a_folder_may_be_named_itself(tmp_path):
    root = tree(tmp_path / "docs")
    for sources in ([root, root / "LICENSE"], [root / "LICENSE", root]):
        assert Document((root / "LICENSE").as_posix(), "LICENSE") in read_all(sources)
        assert find(sources).unread == {".png": 1}


def test_a_link_is_read_in_the_format_its_name_tells(tmp_path):
    make_pdf(tmp_path / "blob", LINE)
    (tmp_path / "paper.pdf").symlink_to(tmp_path / "blob")
    (item,) = read_all([tmp_path / "paper.pdf"])
    assert isinstance(item, Document) and LINE in item.text and item.name.endswith("paper.pdf")


def test_links_to_nowhere_and_loops_are_skipped(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "a.txt")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
    items = list(read_all([tmp_path]))
    assert len(items) == 2 and all(isinstance(item, Skipped) and ": check the path" in item.reason for item in items)


@pytest.mark.parametrize(
    "path", ["gone.txt", "a/b", "/no/such/folder", "My Documents/the contract.pdf", "x.log", r"c:\docs\a", "./x"]
)
def test_a_mistyped_path_is_no_text(path):
    (item,) = find([path])
    assert isinstance(item, Skipped) and item.name == path and path in item.reason and "check the path" in item.reason


@pytest.mark.parametrize(
    "text", ["Hello", "Two words / a slash.", "a/b\nc.txt", LINE, "x" * 5000 + ".txt", "日" * 300 + "/x", "a\0b.txt"]
)
def test_other_strings_are_texts(text):
    (item,) = find([text])
    assert isinstance(item, Document) and item.text == text and item.name.startswith("text-") and len(item.name) == 17


def test_an_address_is_not_fetched():
    (item,) = find(["https://example.com/a.html"])
    assert isinstance(item, Skipped) and "download it" in item.reason


@pytest.mark.parametrize("source", ["", " \n", Document("blank", " "), Document("half", "a\ud800"), "half \ud800 text"])
def test_empty_and_broken_texts_are_skipped(source):
    (item,) = find([source])
    assert isinstance(item, Skipped) and ": " in item.reason and item.reason.encode()


@pytest.mark.parametrize("path", [Path("a" * 5000), Path("a\0b"), Path(os.fsdecode(b"/tmp/caf\xe9.txt"))])
def test_impossible_paths_are_skipped(path):
    (item,) = read_all([path])
    assert isinstance(item, Skipped) and item.name.encode() and item.reason.encode()


def test_unreachable_paths_are_skipped(monkeypatch):
    def fail(self, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", fail)
    for source in ("/secret/a.txt", Path("/secret/a.txt")):
        (item,) = find([source])
        assert isinstance(item, Skipped) and "Permission denied" in item.reason


def test_names_are_unique(tmp_path):
    path = written(tmp_path / "a.txt", b"x")
    one, same, other = Document("n", "1"), Document("n", "1"), Document("n", "2")
    found = find([one, same, other, "Some text.", "Some text.", Document(path.as_posix(), "y"), path])
    assert [type(item) for item in found] == [Document, Skipped, Document, Document, Skipped]
    assert all("own name" in item.reason for item in found if isinstance(item, Skipped))


def test_other_types_are_refused():
    with pytest.raises(UsageError, match="not int"):
        find([3])  # type: ignore[list-item]


def test_a_mixed_batch_goes_on_and_is_lazy(tmp_path):
    good, bad, last = tmp_path / "a.txt", tmp_path / "b.docx", tmp_path / "c.pdf"
    written(good, b"one")
    written(bad, b"PK broken")
    stream = read_all([good, bad, "A text of its own.", tmp_path / "gone.txt", last])
    assert next(stream) == Document(good.as_posix(), "one")
    make_pdf(last, LINE)  # not looked at until its turn
    skipped, text, gone, document = stream
    assert isinstance(skipped, Skipped) and skipped.name == bad.as_posix() and "b.docx is damaged" in skipped.reason
    assert isinstance(text, Document) and text.text == "A text of its own."
    assert isinstance(gone, Skipped) and "does not exist" in gone.reason
    assert isinstance(document, Document) and LINE in document.text


def test_suffixes_are_lower_case():
    assert {".txt", ".md", ".rst", ".html", ".pdf", ".docx", ".epub"} <= set(list_suffixes())
    assert all(suffix == suffix.lower() for suffix in list_suffixes())


def test_import_is_light():
    code = (
        "import sys, longreach.corpus.documents\n"
        "print([m for m in ('torch', 'markitdown', 'pypdf', 'charset_normalizer') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
