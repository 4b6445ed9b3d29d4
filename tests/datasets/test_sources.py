"""Every kind of source gives the same texts; what cannot be read is refused, with its place."""

import json
import sys
import types

import pyarrow
import pyarrow.parquet
import pytest

from longreach.corpus.documents import Document
from longreach.datasets import sources
from longreach.errors import DocumentError, MissingDependency
from tests.training.conftest import make_texts

TEXTS = [*make_texts(5), "naïve 日本語\nsecond line"]


def read(given):
    notes = []
    return list(sources.find(given).texts(notes.append)), notes


def write_parquet(path, texts, column="text"):
    pyarrow.parquet.write_table(pyarrow.table({"number": list(range(len(texts))), column: texts}), path)


def write_lines(path, texts):
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))


def test_every_kind_gives_the_texts_in_order(tmp_path):
    for number, text in enumerate(TEXTS):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{number}.txt").write_text(text, encoding="utf-8")
    write_lines(tmp_path / "b.jsonl", TEXTS)
    write_parquet(tmp_path / "c.parquet", TEXTS)
    for name in ("a", "b.jsonl", "c.parquet"):
        assert read(tmp_path / name) == (TEXTS, [])
    assert read(tmp_path)[0] == TEXTS * 3


def test_a_folder_is_sorted_and_without_hidden_or_unknown_files(tmp_path):
    for name in ("b.txt", "a.txt", ".hidden.txt", "image.png", "sub/c.txt", ".git/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read(tmp_path)[0] == ["a.txt", "b.txt", "sub/c.txt"]


def test_a_folder_is_walked_as_for_a_corpus(tmp_path):
    folder = tmp_path / "texts"
    for name in ("a.txt", "~$a.docx", "Thumbs.db", "a.txt.swp", "~draft.tmp", "__MACOSX/b.txt"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(name)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.txt").write_text("secret")
    (folder / "twin.txt").symlink_to("a.txt")
    (folder / "outside.txt").symlink_to(tmp_path / "elsewhere" / "secret.txt")
    (folder / "outside").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    (folder / "nowhere.txt").symlink_to("missing.txt")
    texts, notes = read(folder)
    assert texts == ["a.txt"]
    assert len(notes) == 3 and all(note.startswith("Omitted: ") for note in notes)
    for name in ("outside.txt", "outside", "nowhere.txt"):
        assert any(f"{name} is a link" in note for note in notes)


def test_what_converts_files_ends_with_the_source(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(sources.apart, "close", lambda: ended.append(True))
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    texts = sources.find(tmp_path).texts(print)
    assert next(texts) == "a" and not ended
    texts.close()
    assert ended == [True]


def test_files_without_text_are_left_out_of_a_folder_aloud_and_refused_by_name(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "good.txt").write_text("good")
    texts, notes = read(tmp_path)
    assert texts == ["good"] and len(notes) == 1 and "empty.txt" in notes[0]
    with pytest.raises(DocumentError, match=r"empty\.txt"):
        read(tmp_path / "empty.txt")


def test_the_digest_is_that_of_the_content(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_lines(tmp_path / folder / "a.jsonl", TEXTS)
    one, two = (sources.find(tmp_path / folder).digest for folder in ("one", "two"))
    assert one == two
    write_lines(tmp_path / "two" / "a.jsonl", [*TEXTS[:-1], "other"])
    assert sources.find(tmp_path / "two").digest != one
    (tmp_path / "one" / "a.jsonl").rename(tmp_path / "one" / "a.txt")  # the same bytes, read in another way
    assert sources.find(tmp_path / "one").digest != one


def test_documents_at_hand_are_a_source(tmp_path):
    documents = [Document(str(number), text) for number, text in enumerate(TEXTS)]
    source, notes = sources.make_source([*documents, Document("blank", " "), Document("0", "another")]), []
    assert list(source.texts(notes.append)) == TEXTS == list(source.texts(print))
    assert [note.split(":")[0] for note in notes] == ["Omitted", "Omitted"] and "blank" in notes[0] and "0" in notes[1]
    assert source.digest == sources.make_source(documents).digest != sources.make_source(documents[1:]).digest


@pytest.mark.parametrize(
    "line, words",
    [
        (b'{"text": "cut', "is not JSON"),
        (b'{"text": "\xff"}', "is not JSON"),
        (b'{"body": "a"}', "no field 'text'"),
        (b'["text"]', "no JSON object"),
        (b"null", "no JSON object"),
        (b'{"text": "a", "text": "b"}', 'names "text" twice'),
        (b'{"text": 3}', "int"),
        (b'{"text": "\\ud800"}', "lone surrogates"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path, line, words):
    good = json.dumps({"text": "good"}).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good, b"", line, good]))
    for given in (tmp_path / "a.jsonl", tmp_path):
        with pytest.raises(DocumentError, match=r"Line 3 of '.*a\.jsonl' ") as refused:
            read(given)
        assert words in str(refused.value)


def test_a_byte_order_mark_and_blank_lines_are_no_mistake(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two"}')
    assert read(tmp_path / "a.jsonl")[0] == ["one", "two"]


def test_bad_tables_are_one_sentence(tmp_path):
    write_parquet(tmp_path / "a.parquet", ["x"], column="content")
    with pytest.raises(DocumentError, match="no column 'text', only number, content"):
        read(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(DocumentError, match=r"b\.parquet cannot be read as Parquet"):
        read(tmp_path / "b.parquet")
    write_parquet(tmp_path / "c.parquet", ["x", None, "y"])
    assert read(tmp_path / "c.parquet")[0] == ["x", "y"]
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "d.parquet")
    with pytest.raises(DocumentError, match=r"Row 1 of '.*d\.parquet' has a value of type int"):
        read(tmp_path / "d.parquet")


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(DocumentError, match="holds no file to train on"):
        sources.find(tmp_path)
    with pytest.raises(DocumentError, match="no file or folder"):
        sources.find(tmp_path / "missing.txt")
    monkeypatch.setitem(sys.modules, "datasets", None)  # as where it is not installed
    with pytest.raises(MissingDependency, match=r"longreach\[hub\]"):
        sources.find("owner/name")


def test_a_data_set_that_cannot_be_had_is_one_sentence(monkeypatch):
    def load_dataset(name, config, split):
        assert (name, config, split) == ("owner/name", "en", "test")
        raise ConnectionError("no\nnetwork")

    fake = types.SimpleNamespace(load_dataset=load_dataset, disable_progress_bars=lambda: None)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(DocumentError, match=r"had from the Hub \(no network\)"):
        sources.find("owner/name:en@test")


def test_a_data_set_in_a_folder(tmp_path):
    pytest.importorskip("datasets", reason="the extra longreach[hub]")
    write_lines(tmp_path / "train.jsonl", TEXTS)
    source = sources.find_hub("owner/name", tmp_path)
    assert list(source.texts(print)) == TEXTS == list(source.texts(print))
    assert source.digest == sources.find_hub("owner/name", tmp_path).digest
    (tmp_path / "train.jsonl").write_text('{"other": "x"}\n')
    with pytest.raises(DocumentError, match="no column 'text', only other"):
        sources.find_hub("owner/name", tmp_path)
