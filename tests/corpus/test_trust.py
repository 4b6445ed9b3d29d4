"""Damage of every kind to a corpus: found, refused, and repaired as far as something vouches for what is left."""

import contextlib
import json
import os
import re
import resource
import shutil
import threading
import time
from pathlib import Path

import filelock
import pytest

from longreach.corpus import artefacts, compaction
from longreach.corpus.artefacts import ADAPTER
from longreach.corpus.documents import Document
from longreach.corpus.documents.convert import read
from longreach.corpus.faults import explain_storage_faults
from longreach.corpus.head import HEAD, Head, list_manifests, parse_version
from longreach.corpus.integrity import LOCK, LOG, FileLog, hash_file
from longreach.corpus.schema import sha256
from longreach.corpus.store import Corpus
from longreach.corpus.tables import connect
from longreach.errors import CorpusBusy, CorpusDamaged, DocumentError, StorageError, UsageError
from longreach.reading.policy import Policy
from longreach.reading.scorecard import Scorecard, ScorecardRow
from tests.corpus.corpus_fakes import FakeCompressor, dump

A = Document("a", "It was a bright cold day in April 😀,\r\nand the clocks were striking thirteen.")
B = Document("b", "Call me Ishmael. Some years ago — never mind how long precisely.")
LOST = "raise the limit with `ulimit -n"


@pytest.fixture
def corpus(tmp_path):
    corpus = Corpus.create(tmp_path, "c", FakeCompressor())
    corpus.add([A, B])
    return corpus


@pytest.fixture
def old(tmp_path):
    """A corpus of two documents, five versions, an adapter and a scorecard, made before there were seals and heads."""
    shutil.unpack_archive(Path(__file__).with_name("format1.zip"), tmp_path)
    return Corpus.open(tmp_path, "c", FakeCompressor())


def texts(corpus):
    return {info.document: corpus.document_text(info.document) for info in corpus.documents()}


def flip(path, at=-1):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def on_disk(corpus, words):
    return [path for path in corpus.path.rglob("*") if path.is_file() and words.encode() in path.read_bytes()]


def study(corpus, weights=b"weights", name="made"):
    """Puts an adapter and a scorecard in, as `study` does."""
    made = corpus.path.parent / name
    made.mkdir()
    (made / "adapter_config.json").write_text("{}")
    (made / "adapter_model.safetensors").write_bytes(weights)
    with corpus.changing("study") as found:
        found.put(ADAPTER, made)
    row = ScorecardRow("text", Policy(), 12, 50.0, 40.0, 60.0, 25.0, 48.0, 900.5)
    Scorecard((row,), "text", "It is the default.", 12, 2048, None, "f", "m", corpus.state(), "today").save(corpus)


# A corpus from before


def test_a_corpus_from_before_is_opened_read_extended_and_compacted(old):
    assert texts(old) == {"a": "The text that took its place: déjà vu.", "b": "Call me Ishmael."}
    assert old.verify().problems == [] and [version.documents for version in old.versions()] == [0, 2, 2, 3, 2]
    assert old.adapter_path == old.path / "adapter"
    assert Scorecard.load(old.artefacts) is None  # intact, and of scores that are counted otherwise today
    assert old.add([A, B]).replaced == ["a", "b"] and old.verify().problems == []
    old.rollback(3)
    assert texts(old)["b"] == "Call me Ishmael." and old.verify().problems == []
    old.compact()
    assert old.verify().problems == [] and not on_disk(old, "that was removed")
    assert old.adapter_path == old.path / "adapter"


def test_flips_in_artefacts_from_before_are_refused(old):
    flip(old.path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(CorpusDamaged, match="longreach study"):
        _ = old.adapter_path
    card = old.path / "scorecard.json"
    card.write_text(card.read_text().replace("50.0", "51.0"))
    with pytest.raises(CorpusDamaged, match=r"scorecard\.json is damaged"):
        Scorecard.load(old.artefacts)


# Versions and the clock


def set_clock_ahead(corpus, table, seconds=86_400):
    """Makes the newest version of a table one that was written when the clock was ahead."""
    path = list_manifests(corpus.path, table)[-1]
    raw, now = path.read_bytes(), int(time.time())
    for written in range(now + 1, now - 60, -1):
        if raw.count(b"\x08" + _varint(written)) == 1:
            path.write_bytes(raw.replace(b"\x08" + _varint(written), b"\x08" + _varint(written + seconds)))
            break
    else:
        raise AssertionError("no time is found in the manifest")
    log = FileLog(corpus.path)
    log.rewrite({name: hash_file(corpus.path / name) for name in log.files})


def _varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def test_text_written_when_the_clock_was_ahead_is_gone_after_compaction(tmp_path):
    corpus = Corpus.create(tmp_path, "c", FakeCompressor())
    corpus.add(Document("a", "tell nobody of the hidden treasure"))
    for table in ("passages", "documents"):
        set_clock_ahead(corpus, table)
    ahead = corpus.versions()[-1]
    assert ahead.timestamp.timestamp() > time.time() + 80_000 and corpus.verify().ok
    corpus.add(Document("a", "nothing to see"))
    assert [version.version for version in corpus.versions()] == [1, 2, 3]
    assert on_disk(corpus, "treasure")
    corpus.compact()
    assert not on_disk(corpus, "treasure") and corpus.verify().problems == []
    assert len(corpus.versions()) == 1 and texts(corpus) == {"a": "nothing to see"}


def test_every_listed_version_is_whole(corpus):
    corpus.add(Document("a", "rewritten"))
    corpus.remove("b")
    corpus.add(Document("c", "third"))
    for version in corpus.versions():
        corpus.rollback(version.version)
        assert len(corpus.documents()) == version.documents and corpus.verify().ok
    corpus.compact()
    corpus.add(Document("d", "fourth"))
    for version in corpus.versions():
        corpus.rollback(version.version)
        assert len(texts(corpus)) == version.documents and corpus.verify().ok


def test_a_little_text_in_a_large_file_is_gone_after_compaction(tmp_path):
    corpus = Corpus.create(tmp_path, "c", FakeCompressor())
    corpus.add([Document(str(number), f"Document {number} of many others like it.") for number in range(30)])
    corpus.add(Document("s", "tell nobody of the hidden treasure"))
    corpus.compact()
    before = dump(corpus)
    corpus.remove("s")
    corpus.compact()
    assert not on_disk(corpus, "treasure") and corpus.verify().problems == []
    assert dump(corpus)[1] == [row for row in before[1] if row["document"] != "s"]
    assert len(texts(corpus)) == 30


@pytest.mark.parametrize("at", range(1, 9))
def test_a_compaction_that_is_killed_leaves_versions_that_are_whole(corpus, monkeypatch, at):
    corpus.add(Document("a", "rewritten"))
    corpus.remove("b")
    calls = []

    def deadly(real):
        def step(*args, **more):
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            return real(*args, **more)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(compaction, "_optimize", deadly(compaction._optimize))
        patch.setattr(Path, "unlink", deadly(Path.unlink))
        patch.setattr(Path, "replace", deadly(Path.replace))
        with contextlib.suppress(KeyboardInterrupt):
            corpus.compact()
    assert corpus.verify().problems == [] and texts(corpus) == {"a": "rewritten"}
    for version in corpus.versions():
        corpus.rollback(version.version)
        assert corpus.verify().problems == [] and len(texts(corpus)) == version.documents
    corpus.add([A, B])
    corpus.compact()
    assert corpus.verify().problems == [] and texts(corpus) == {"a": A.text, "b": B.text}
    assert not on_disk(corpus, "rewritten")


def test_compaction_shortens_the_log(corpus):
    for number in range(5):
        corpus.add(Document("a", f"text {number}"))
    long = len((corpus.path / LOG).read_bytes())
    corpus.compact()
    assert len((corpus.path / LOG).read_bytes()) < long / 3 and corpus.verify().ok
    corpus.add(A)
    assert corpus.verify().ok


# A log, a table or an artefact that lost something


@pytest.mark.parametrize("table", ["documents", "passages"])
def test_a_table_that_lost_its_newest_version_is_neither_read_nor_written(corpus, table):
    list_manifests(corpus.path, table)[-1].unlink()
    for use in (corpus.documents, corpus.versions, lambda: corpus.add(Document("c", "third")), corpus.compact):
        with pytest.raises(CorpusDamaged, match=f"{table}.*is missing.*repair"):
            use()
    assert not corpus.verify().ok
    with pytest.raises(CorpusDamaged):  # nothing healed over it
        corpus.add(A)


def test_a_listing_in_the_place_of_another_is_not_read(corpus):
    folder = corpus.path / "db" / "documents.lance" / "data"
    before = set(folder.iterdir())
    corpus.add([Document("c", "A third document.")])
    added = set(folder.iterdir()) - before
    assert texts(Corpus.open(corpus.path.parent, "c")).keys() == {"a", "b", "c"}
    for path in added:
        shutil.copyfile(sorted(before)[-1], path)
    for reading in (corpus, Corpus.open(corpus.path.parent, "c")):  # the first has read the file before
        with pytest.raises(CorpusDamaged, match=r"documents\.lance/data/.* is not what was written"):
            reading.documents()
    assert not corpus.verify().ok


@pytest.mark.parametrize("head", [Head([[1]], {}), Head([], {"documents": "x"}), Head([], {"documents": None})])
def test_a_head_with_other_types_is_damage_although_its_checksum_is_right(corpus, head):
    values = json.dumps(head._asdict(), sort_keys=True)
    checked = {**json.loads(values), "sum": sha256(values.encode())[:16]}
    (corpus.path / HEAD).write_text(json.dumps(checked) + "\n")
    assert len(corpus.documents()) == 2
    with pytest.raises(CorpusDamaged, match=f"{HEAD} is missing or not what was written"):
        corpus.add(Document("c", "third"))
    assert not corpus.verify().ok
    corpus.repair()
    assert corpus.verify().ok


@pytest.mark.parametrize(
    "entry", [{"file": ["a"], "bytes": 1, "sha256": ""}, {"file": "a"}, {"removed": {}}, {"intent": 1}, {"file": 2}]
)
def test_a_line_of_the_log_with_other_types_is_damage_although_its_checksum_is_right(corpus, entry):
    log = corpus.path / LOG
    last = json.loads(log.read_bytes().split(b"\n")[-2])
    line = entry | {"sum": sha256(last["sum"].encode(), json.dumps(entry).encode())[:16]}
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(CorpusDamaged, match=r"line \d+ is not what was written"):
        corpus.add(Document("c", "third"))
    assert not corpus.verify().ok
    corpus.repair()
    assert corpus.verify().ok and len(corpus.documents()) == 2


def test_a_writer_refuses_where_any_file_is_gone_or_cut(corpus):
    for path in sorted(path for path in (corpus.path / "db").rglob("*") if path.is_file()):
        if path.name == "latest_version_hint.json":
            continue
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(CorpusDamaged):
            corpus.add(Document("c", "third"))
        path.write_bytes(whole[:-1])
        with pytest.raises(CorpusDamaged):
            corpus.add(Document("c", "third"))
        path.write_bytes(whole)
    corpus.add(Document("c", "third"))
    assert corpus.verify().ok


def test_a_log_that_was_cut_or_flipped_is_found_and_made_anew(corpus):
    study(corpus)
    corpus.add(Document("c", "third"))
    before, log = dump(corpus), corpus.path / LOG
    whole = log.read_bytes()
    lines = [match.end() for match in re.finditer(b"\n", whole)]
    cuts = {0, 1, len(whole) - 1, *lines[:-1:4], *(end + 20 for end in lines[:-1:5])}
    flips = {3, len(whole) // 2, len(whole) - 5, lines[5] - 4}
    for damaged in [whole[:cut] for cut in sorted(cuts)] + [
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in sorted(flips)
    ]:
        log.write_bytes(damaged)
        assert not corpus.verify().ok
        with pytest.raises(CorpusDamaged, match="longreach corpus repair"):
            corpus.add(Document("d", "fourth"))
        assert dump(corpus) == before
        report = corpus.repair()
        assert report.documents == 3 and all("earlier versions" in sentence for sentence in report.lost)
        assert corpus.verify().problems == [] and dump(corpus) == before
        assert corpus.adapter_path == corpus.path / "adapter" and Scorecard.load(corpus.artefacts)
        if not report.lost:  # the next one is of another corpus now
            assert len(corpus.versions()) == 4
        else:
            break
    log.unlink()
    assert not corpus.verify().ok
    assert corpus.repair().documents == 3 and corpus.verify().ok and dump(corpus) == before
    corpus.add(Document("d", "fourth"))
    assert corpus.verify().ok


def test_every_cut_of_the_log_is_found(corpus):
    log = corpus.path / LOG
    whole = log.read_bytes()
    for cut in range(0, len(whole), 97):
        log.write_bytes(whole[:cut])
        assert not corpus.verify().ok, cut
    log.write_bytes(whole)
    assert corpus.verify().ok
    (corpus.path / HEAD).unlink()
    assert not corpus.verify().ok


def test_a_flipped_line_costs_no_versions(corpus):
    corpus.add(Document("a", "rewritten"))
    log = corpus.path / LOG
    whole = log.read_bytes()
    at = whole.index(b'"done"') + 2
    log.write_bytes(whole[:at] + b"x" + whole[at + 1 :])
    versions = corpus.versions()
    report = corpus.repair()
    assert report.lost == [] and corpus.versions() == versions and corpus.verify().ok
    corpus.rollback(versions[1].version)
    assert texts(corpus) == {"a": A.text, "b": B.text} and corpus.verify().ok


def test_repair_keeps_documents_whose_rows_hold_and_names_the_others(corpus):
    study(corpus)
    database = connect(corpus.path)
    database.open_table("passages").delete(f"revision = '{corpus.documents()[0].revision}' AND `index` = 1")
    (corpus.path / LOG).write_bytes(b"")
    (corpus.path / "notes.txt").write_text("mine")
    flip(corpus.path / "adapter" / "adapter_model.safetensors")
    flip(corpus.path / "scorecard.json", 30)
    report = corpus.repair()
    said = "\n".join(report.lost)
    assert report.documents == 1 and texts(corpus) == {"b": B.text}
    for word in ("Document 'a'", "adapter", "scorecard.json", "notes.txt", "earlier versions"):
        assert word in said
    assert corpus.adapter_path is None and Scorecard.load(corpus.artefacts) is None
    (corpus.path / "notes.txt").unlink()
    assert corpus.verify().problems == []
    corpus.add(A)
    assert texts(corpus) == {"a": A.text, "b": B.text} and corpus.verify().ok


def test_repair_of_a_table_that_lost_its_newest_version_says_so(corpus):
    corpus.add(Document("c", "third"))
    list_manifests(corpus.path, "documents")[-1].unlink()
    report = corpus.repair()
    assert report.documents == 2 and "newest version (3) of the table 'documents'" in report.lost[0]
    assert corpus.verify().problems == []
    assert corpus.add(Document("c", "third")).added == ["c"] and corpus.verify().ok


def test_flips_in_artefacts_are_refused_when_they_are_read(corpus):
    study(corpus)
    assert corpus.verify().ok and corpus.adapter_path and Scorecard.load(corpus.artefacts)
    for path in sorted((corpus.path / "adapter").iterdir()):
        whole = path.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            flip(path, at)
            with pytest.raises(CorpusDamaged, match="not what was stored"):
                _ = corpus.adapter_path
            path.write_bytes(whole)
        path.unlink()
        with pytest.raises(CorpusDamaged):
            _ = corpus.adapter_path
        path.write_bytes(whole)
    card = corpus.path / "scorecard.json"
    whole = card.read_bytes()
    for at in range(0, len(whole) - 1, 7):
        if whole[at : at + 1] not in b' \n,:{}"[]':
            flip(card, at)
            with pytest.raises(CorpusDamaged):
                Scorecard.load(corpus.artefacts)
            card.write_bytes(whole)
    assert Scorecard.load(corpus.artefacts) and corpus.adapter_path


def test_a_killed_study_excuses_no_damage(corpus):
    study(corpus)
    FileLog(corpus.path)._append({"intent": "changing: study"})  # what a kill leaves
    flip(corpus.path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(CorpusDamaged):
        _ = corpus.adapter_path
    with pytest.raises(CorpusDamaged):
        corpus.add(Document("c", "third"))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_study_killed_between_its_renames_is_put_back_by_the_next_writer(corpus, monkeypatch, at):
    study(corpus, b"first")
    real, calls = Path.rename, []

    def killed(self, to):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            study(corpus, b"second", "other")
    assert corpus.verify().ok
    assert (corpus.adapter_path / "adapter_model.safetensors").read_bytes() == b"first"  # readers are not left without
    corpus.add(Document("c", "third"))
    assert corpus.adapter_path == corpus.path / "adapter" and corpus.verify().ok
    assert (corpus.adapter_path / "adapter_model.safetensors").read_bytes() == b"first"
    assert Scorecard.load(corpus.artefacts) is not None
    assert not [path for path in corpus.work_path.iterdir() if path.name.startswith("old-")]


# What kills leave in a store


def test_leftovers_are_swept_unless_a_process_holds_them(corpus, tmp_path):
    leftovers = [tmp_path / ".new-1", tmp_path / ".deleted-2", tmp_path / ".new-held"]
    for clear in (
        lambda: Corpus.create(tmp_path, "d", FakeCompressor()),
        lambda: Corpus.open(tmp_path, "d").delete(),
        lambda: corpus.add(Document("c", "third")),
    ):
        for folder in leftovers:
            shutil.copytree(corpus.path, folder)
        with filelock.FileLock(leftovers[2] / LOCK):
            clear()
            assert [folder.exists() for folder in leftovers] == [False, False, True]
            assert (leftovers[2] / "corpus.json").exists()
        shutil.rmtree(leftovers[2])
    assert Corpus.names(tmp_path) == ["c"] and corpus.verify().ok


@pytest.mark.parametrize("seconds", [0.0])
def test_a_delete_that_is_killed_is_ended_by_the_next_create(tmp_path, monkeypatch, seconds):
    corpus = Corpus.create(tmp_path, "c", FakeCompressor())
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            corpus.delete()
    assert Corpus.names(tmp_path) == [] and [path.name[:9] for path in tmp_path.iterdir()] == [".deleted-"]
    again = Corpus.create(tmp_path, "c", FakeCompressor())
    assert [path.name for path in tmp_path.iterdir()] == ["c"] and again.verify().ok


def test_a_linked_corpus_and_a_linked_store(tmp_path):
    Corpus.create(tmp_path / "real", "c", FakeCompressor()).add(A)
    (tmp_path / "store").symlink_to(tmp_path / "real")
    linked = Corpus.open(tmp_path / "store", "c", FakeCompressor())
    linked.add(B)
    assert linked.verify().ok and texts(linked) == {"a": A.text, "b": B.text}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "d").symlink_to(tmp_path / "real" / "c")
    Corpus.open(tmp_path / "other", "d").delete()
    assert Corpus.names(tmp_path / "real") == [] == list((tmp_path / "other").iterdir())


# Errors of the system


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (24, "too many open files.*ulimit -n"),
        (23, "too many open files"),
        (28, "full.*free space"),
        (122, "quota"),
        (30, "Read-only.*writable"),
        (13, "Permission denied.*permit access"),
        (12, "no memory left"),
        (5, "Input/output error.*Check the disk"),
        (11, "no more threads"),
        (28, "full"),
        (116, "Stale file handle"),
    ],
)
def test_errors_of_the_system_mean_what_they_are(number, words):
    where = Path("/store/Permission denied")
    for error in (
        OSError(number, os.strerror(number), "x"),
        RuntimeError(
            f"lance error: LanceError(IO): Generic LocalFileSystem error: x (os error {number}), /rust/x.rs:1"
        ),
    ):
        with pytest.raises(StorageError, match=words) as caught, explain_storage_faults(where):
            raise error
        assert "backup" not in str(caught.value)
    for error in (RuntimeError(f"Object at {where}/x not found (os error 2)"), ValueError("bad magic"), KeyError("x")):
        with pytest.raises(CorpusDamaged), explain_storage_faults(where):
            raise error


def test_too_many_open_files_are_no_damage(corpus):
    connect(corpus.path).open_table("passages").count_rows()  # what is imported late is there by now
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, hard))
    try:
        for use in (corpus.documents, corpus.passages, lambda: corpus.add(Document("c", "third")), corpus.compact):
            with pytest.raises(StorageError, match=LOST):
                use()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for handle in held:
            os.close(handle)
    assert corpus.verify().ok and texts(corpus) == {"a": A.text, "b": B.text}


def test_a_system_that_starts_no_threads_is_no_damage(corpus, tmp_path, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    page = tmp_path / "page.html"
    page.write_text("<p>third")
    with monkeypatch.context() as without_threads:
        without_threads.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StorageError, match="starts no more threads"):
            corpus.add(Document("c", "third"))
        with pytest.raises(DocumentError, match=r"page\.html cannot be read.*can't start new thread"):
            read(page)
    assert corpus.add([Document("c", "third"), page]).skipped == [] and corpus.verify().ok


def test_a_folder_that_may_only_be_read_is_read(corpus, monkeypatch):
    study(corpus)
    monkeypatch.setattr(filelock.FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert texts(corpus) == {"a": A.text, "b": B.text} and corpus.verify().ok and corpus.adapter_path
    with pytest.raises(StorageError, match="permit access"):
        corpus.add(Document("c", "third"))


def test_a_version_whose_passages_are_gone_is_not_rolled_back_to(corpus):
    first = corpus.versions()[-1].version
    revision = corpus.documents()[0].revision
    corpus.remove("a")
    with corpus._open_log() as log, log.change("passages"):
        connect(corpus.path).open_table("passages").delete(f"revision = '{revision}'")
    with pytest.raises(CorpusDamaged, match="'a' is damaged"):
        corpus.rollback(first)
    assert texts(corpus) == {"b": B.text} and corpus.verify().ok
    with pytest.raises(UsageError):
        corpus.rollback(99)


def test_versions_are_numbers_in_names(corpus):
    found = list_manifests(corpus.path, "documents")
    assert [parse_version(path) for path in found] == [1, 2] == [entry.version for entry in corpus.versions()]
    assert parse_version(Path("7.manifest")) == 7 and artefacts.SEAL == "sha256.json"


def test_a_busy_corpus_is_neither_repaired_nor_compacted(corpus, tmp_path):
    other = Corpus.open(tmp_path, "c", lock_seconds=0.1)
    with corpus.changing("study"):
        for use in (other.repair, other.compact, other.delete):
            with pytest.raises(CorpusBusy):
                use()
    assert corpus.verify().ok
