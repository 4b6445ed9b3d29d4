import random
import shutil
import threading
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longreach.compressors.jobs import Job
from longreach.corpus import ingest, integrity
from longreach.corpus.documents import Document
from longreach.corpus.store import Corpus
from longreach.corpus.tables import connect
from longreach.errors import (
    CorpusBusy,
    CorpusDamaged,
    CorpusError,
    CorpusExists,
    CorpusNotFound,
    FingerprintMismatch,
    StorageError,
    UsageError,
)
from tests.corpus.corpus_fakes import FakeCompressor, dump

A = Document("a", "It was a bright cold day in April 😀,\r\nand the clocks were striking thirteen.")
B = Document("b", "Call me Ishmael. Some years ago — never mind how long precisely.")


@pytest.fixture
def corpus(tmp_path):
    corpus = Corpus.create(tmp_path, "c", FakeCompressor(), model_ref="fake")
    corpus.add([A, B])
    return corpus


def names(corpus):
    return [document.document for document in corpus.documents()]


def test_a_document_comes_back_exactly(corpus):
    assert corpus.document_text("a") == A.text
    (info, _) = corpus.documents()
    assert (info.document, info.characters, info.tokens) == ("a", len(A.text), len(A.text.encode()))
    passages = corpus.passages("a")
    assert info.passages == len(passages) and info.vectors == 2 * len(passages)
    assert len(corpus.passages()) == len(passages) + len(corpus.passages("b"))


def test_vectors_are_those_the_compressor_made(corpus):
    compressor = FakeCompressor()
    ids = compressor.tokenizer(A.text, add_special_tokens=False)["input_ids"]
    expected = [result.memory.vectors for result in compressor.stream([Job("k", ids)])]
    revision = corpus.documents()[0].revision
    stored = corpus.vectors(revision)
    assert stored[0].dtype == torch.bfloat16
    assert all(map(torch.equal, stored, expected)) and len(stored) == len(expected)
    assert all(map(torch.equal, corpus.vectors(revision, [3, 0]), [expected[3], expected[0]]))
    assert corpus.vectors(revision, []) == []
    with pytest.raises(CorpusDamaged, match="999"):
        corpus.vectors(revision, [999])


def test_reopening_finds_everything(corpus, tmp_path):
    again = Corpus.open(tmp_path, "c")
    assert again.settings == corpus.settings and again.settings.model_ref == "fake"
    assert again.documents() == corpus.documents() and dump(again) == dump(corpus)
    assert again.adapter_path is None
    with pytest.raises(UsageError, match="opened to read"):
        again.add("more text to read")


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab 😀é\r\n\t—漢👩‍👧"), min_size=1, max_size=80))
def test_spans_tile_and_quote_the_source(text):
    ids, pieces = ingest.cut(text, FakeCompressor())
    assert pieces[0].start == 0 and pieces[-1].end == len(text) and pieces[-1].tokens.stop == len(ids)
    assert all(one.end == next_.start and one.start <= one.end for one, next_ in pairwise(pieces))


def test_tokenizing_a_long_text_warns_of_nothing(caplog, corpus):
    corpus.add(Document("long", "x" * 500))  # far beyond the tokenizer's model_max_length
    assert not caplog.records


def test_a_slow_tokenizer_is_refused(corpus):
    class Slow:
        is_fast = False

    corpus.compressor.tokenizer = Slow()
    with pytest.raises(UsageError, match="fast tokenizer"):
        corpus.add(Document("new", "text"))


def test_adding_again_does_nothing(corpus):
    before, state = dump(corpus), corpus.state()
    report = corpus.add([A, B])
    assert report.unchanged == ["a", "b"] and not report.added and report.passages == 0
    assert dump(corpus) == before and corpus.state() == state


def test_a_changed_text_replaces(corpus):
    state = corpus.state()
    report = corpus.add(Document("a", "quite another text"))
    assert report.replaced == ["a"] and not report.added
    assert corpus.document_text("a") == "quite another text" and corpus.document_text("b") == B.text
    assert corpus.state() != state and corpus.verify().ok


def test_equal_texts_are_compressed_once(tmp_path):
    compressor = FakeCompressor()
    corpus = Corpus.create(tmp_path, "c", compressor)
    copies = [Document("a", A.text), Document("copy", A.text), B, Document("late", A.text)]
    report = corpus.add(copies)
    assert sorted(report.added) == ["a", "b", "copy", "late"]
    once = compressor.compressed
    assert once == report.passages == len(dump(corpus)[0])
    corpus.add(Document("later", A.text))
    assert compressor.compressed == once and corpus.document_text("later") == A.text and corpus.verify().ok


@pytest.mark.slow
def test_files_skip_and_prune(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "one.txt").write_text("the first file")
    (folder / "two.txt").write_text("the second file")
    corpus = Corpus.create(tmp_path / "store", "c", FakeCompressor())
    corpus.add([folder, A])
    one, two = sorted(str(path) for path in folder.iterdir())
    (folder / "one.txt").unlink()
    (folder / "two.txt").write_bytes(b"")
    report = corpus.add(folder)
    assert [skipped.name for skipped in report.skipped] == [two] and names(corpus) == [one, two, "a"]
    report = corpus.add([folder, "a long text " * 500], prune=True)
    corpus.remove(report.added)
    assert report.removed == [one] and names(corpus) == [two, "a"]
    assert corpus.document_text(two) == "the second file" and corpus.verify().ok
    shutil.rmtree(folder)
    assert corpus.add(folder, prune=True).removed == []  # a folder that is not there says nothing about its files


def test_odd_names_are_stored_and_removed(corpus):
    odd = ['o\'clock "x" \\ %_;--', "new\nline", "漢😀"]
    corpus.add([Document(name, f"text of {name}") for name in odd])
    assert set(odd) < set(names(corpus)) and corpus.document_text(odd[0]) == f"text of {odd[0]}"
    corpus.remove(odd)
    assert names(corpus) == ["a", "b"] and corpus.verify().ok
    with pytest.raises(UsageError, match="no document 'x'"):
        corpus.remove(["a", "x"])
    with pytest.raises(UsageError, match="no document 'x'"):
        corpus.document_text("x")
    assert names(corpus) == ["a", "b"]


def test_versions_rollback_and_compact(corpus):
    first = corpus.versions()[-1]
    assert first.documents == 2
    corpus.add(Document("a", "rewritten"))
    corpus.remove("b")
    corpus.rollback(first.version)
    assert corpus.document_text("a") == A.text and corpus.document_text("b") == B.text
    assert corpus.versions()[-1].version > first.version and corpus.verify().ok
    with pytest.raises(UsageError, match="choose one of 1, 2"):
        corpus.rollback(99)
    corpus.compact()
    assert len(corpus.versions()) == 1 and corpus.verify().ok
    assert corpus.document_text("a") == A.text and len(dump(corpus)[0]) == len(corpus.passages())
    corpus.add(Document("a", "after compaction"))
    assert corpus.verify().ok


def test_an_open_reader_sees_commits_and_survives_compaction(corpus, tmp_path):
    reader = Corpus.open(tmp_path, "c")
    assert names(reader) == ["a", "b"]
    corpus.add(Document("c", "third"))
    corpus.remove("b")
    corpus.compact()
    assert names(reader) == ["a", "c"] and reader.document_text("c") == "third"


def test_reading_from_threads(corpus):
    wrong = []

    def read():
        for _ in range(10):
            if corpus.document_text("a") != A.text or len(corpus.vectors(corpus.documents()[1].revision)) < 2:
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    [thread.start() for thread in threads]
    corpus.add(Document("c", "meanwhile, a third document"))
    [thread.join() for thread in threads]
    assert not wrong


def test_other_work_records_its_files(corpus):
    folder = corpus.path
    with corpus.changing("study"):
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").write_bytes(b"1234")
    assert corpus.adapter_path == folder / "adapter" and corpus.verify().ok
    (folder / "adapter" / "weights").write_bytes(b"1235")
    assert corpus.verify().problems[0] == "adapter/weights is not what was written."
    with corpus.changing("study"):
        (folder / "adapter" / "weights").write_bytes(b"12345")
    assert corpus.verify().ok


@pytest.mark.parametrize("bad", ["", ".", "..", ".hidden", "a/b", "a\\b", "a..b", "x\n", "\0", "x" * 101, " a", "c:d"])
def test_bad_names(tmp_path, bad):
    with pytest.raises(UsageError, match="printable characters"):
        Corpus.create(tmp_path, bad, FakeCompressor())
    with pytest.raises(UsageError):
        Corpus.open(tmp_path, bad)


def test_create_open_delete(tmp_path):
    with pytest.raises(CorpusNotFound, match="none yet"):
        Corpus.open(tmp_path / "nowhere", "c")
    corpus = Corpus.create(tmp_path / "store", "my corpus é", FakeCompressor())
    with pytest.raises(CorpusExists):
        Corpus.create(tmp_path / "store", "my corpus é", FakeCompressor())
    with pytest.raises(CorpusNotFound, match="my corpus é"):
        Corpus.open(tmp_path / "store", "other")
    with pytest.raises(FingerprintMismatch, match="other settings"):
        Corpus.open(tmp_path / "store", "my corpus é", FakeCompressor(seed=1))
    assert Corpus.names(tmp_path / "store") == ["my corpus é"]
    corpus.delete()
    assert Corpus.names(tmp_path / "store") == [] and not list((tmp_path / "store").iterdir())
    for use in (corpus.documents, corpus.verify, lambda: corpus.add(A)):
        with pytest.raises(CorpusNotFound):
            use()


def test_a_second_writer_is_told_to_wait(corpus, tmp_path):
    other = Corpus.open(tmp_path, "c", FakeCompressor(), lock_seconds=0.1)
    with corpus.changing("study"):
        with pytest.raises(CorpusBusy):
            other.add(A)
        with pytest.raises(CorpusBusy):
            other.verify(lock_seconds=0.1)
        assert names(other) == ["a", "b"]


def test_verify_finds_any_flipped_byte(corpus):
    assert corpus.verify().ok
    chance = random.Random(0)
    files = [path for path in corpus.path.rglob("*") if path.is_file() and path.name != integrity.LOCK]
    assert len(files) > 10
    for path in files:
        whole = path.read_bytes()
        for at in {0, len(whole) // 2, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(8))}:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
            assert not corpus.verify().ok, f"{path} at {at}"
        path.write_bytes(whole[:-1])
        # The log may end in the middle of a line: that is how a full disk leaves it, and it is whole up to there.
        assert path.name == integrity.LOG or not corpus.verify().ok, f"{path} one byte short"
        path.unlink()
        assert not corpus.verify().ok, f"{path} deleted"
        path.write_bytes(whole)
    assert corpus.verify().ok


def test_reading_flipped_bytes_never_gives_wrong_text_or_vectors(corpus):
    """Readers do not hash files, so rows must carry their own proof."""
    text, revision = corpus.document_text("a"), corpus.documents()[0].revision
    vectors = corpus.vectors(revision)
    (path,) = (corpus.path / "db" / "passages.lance" / "data").iterdir()
    whole, chance = path.read_bytes(), random.Random(1)
    caught = 0
    for _ in range(25):
        at = chance.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        reader = Corpus(corpus.path, corpus.settings, None)
        try:
            assert reader.document_text("a") == text
            assert all(map(torch.equal, reader.vectors(revision), vectors))
        except CorpusDamaged:
            caught += 1
    path.write_bytes(whole)
    assert caught


def test_verify_finds_rows_deleted_through_lance(corpus):
    connect(corpus.path).open_table("passages").delete("`index` = 1")
    assert any("was not written by longreach" in problem for problem in corpus.verify().problems)
    with corpus.changing("study"):
        pass
    assert not corpus.verify().ok  # an honest writer does not take them over
    _adopt(corpus)  # and where the file log is made to agree, the rows still tell
    assert any("'a' is damaged, passage 1 is missing" in problem for problem in corpus.verify().problems)
    with pytest.raises(CorpusDamaged):
        corpus.passages("a")
    corpus.remove("a")  # the advice of the message
    corpus.add([A])
    assert corpus.document_text("a") == A.text


def test_verify_finds_a_changed_document_row(corpus):
    connect(corpus.path).open_table("documents").update(where="document = 'a'", values={"characters": 5})
    _adopt(corpus)
    assert any("its row is not what was written" in problem for problem in corpus.verify().problems)
    with pytest.raises(CorpusDamaged):
        corpus.documents()


def test_verify_finds_a_deleted_document_row_and_a_foreign_file(corpus):
    (corpus.path / "notes.txt").write_text("mine")
    assert corpus.verify().problems[0] == "notes.txt was not written by longreach."
    (corpus.path / "notes.txt").unlink()
    connect(corpus.path).open_table("documents").delete("document = 'a'")
    assert not corpus.verify().ok


def _adopt(corpus):
    """Leaves an intent open, so that the next writer takes the files for those of a writer that was killed."""
    integrity.FileLog(corpus.path)._append({"intent": "passages"})
    with corpus.changing("nothing"):
        pass


def test_a_full_or_read_only_disk_becomes_a_sentence(corpus, monkeypatch):
    for message in ("LanceError(IO): No space left on device (os error 28)", "Read-only file system (os error 30)"):

        def refuse(*_args, message=message, **_more):
            raise RuntimeError(message)

        monkeypatch.setattr(type(corpus._database.open_table("passages")), "add", refuse)
        with pytest.raises(StorageError, match="run the same command again"):
            corpus.add(Document("c", "third"))
    monkeypatch.undo()
    assert names(corpus) == ["a", "b"] and corpus.verify().ok
    corpus.add(Document("c", "third"))
    assert corpus.verify().ok


def test_every_error_is_a_corpus_error(corpus):
    (corpus.path / "corpus.json").write_text("{}")
    with pytest.raises(CorpusError, match="restore it from a backup"):
        Corpus.open(corpus.path.parent, "c")


def test_a_corpus_made_anew_is_not_the_one_that_was_opened(tmp_path):
    old = Corpus.create(tmp_path, "c", FakeCompressor())
    old.add(A)
    Corpus.open(tmp_path, "c").delete()
    new = Corpus.create(tmp_path, "c", FakeCompressor(seed=1))
    for use in (lambda: old.add(A), old.documents, old.state, lambda: old.remove("a")):
        with pytest.raises(CorpusNotFound, match="made anew"):
            use()
    assert new.documents() == [] and new.verify().ok


def test_a_killed_writer_excuses_no_damage_to_the_adapter(tmp_path):
    corpus = Corpus.create(tmp_path, "c", FakeCompressor())
    with corpus.changing("study"):
        (corpus.path / "adapter").mkdir()
        (corpus.path / "adapter" / "weights").write_bytes(b"trained")
    integrity.FileLog(corpus.path)._append({"intent": "passages"})  # what a kill in the middle of a flush leaves
    assert corpus.verify().ok
    (corpus.path / "adapter" / "weights").write_bytes(b"trainee")
    assert not corpus.verify().ok


def test_folders_that_are_no_corpora_are_not_listed(tmp_path):
    corpus = Corpus.create(tmp_path, "c", FakeCompressor())
    shutil.copytree(corpus.path, tmp_path / "a..b")
    assert Corpus.names(tmp_path) == ["c"]
