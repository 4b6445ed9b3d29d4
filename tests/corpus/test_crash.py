"""Writers that die, disks that fill up, processes that meet. Children come from a fork server that has torch loaded."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from longreach.corpus import ingest
from longreach.corpus.documents import Document
from longreach.corpus.store import Corpus
from longreach.errors import StorageError
from tests.corpus.corpus_fakes import FakeCompressor, child_add, child_read, dump

TEXTS = [
    ("a", "The first document is not long, but longer than the second one. 😀"),
    ("b", "The second."),
    ("c", "The third one comes after the other two, and it has the same number of words, nearly."),
    ("copy of b", "The second."),
]


@pytest.fixture(scope="module")
def context():
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.corpus.corpus_fakes", "lancedb"])
    return context


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    corpus = Corpus.create(tmp_path_factory.mktemp("whole"), "c", FakeCompressor())
    corpus.add([Document(*text) for text in TEXTS])
    return dump(corpus)


@pytest.fixture
def corpus(tmp_path):
    return Corpus.create(tmp_path, "c", FakeCompressor())


def start(context, target, *args):
    process = context.Process(target=target, args=args)
    process.start()
    return process


def finish(process):
    process.join(60)
    return process.exitcode


def assert_whole(corpus, expected):
    assert corpus.verify().problems == []
    passages, documents = dump(corpus)
    assert documents == expected[1] and passages == expected[0]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_again_and_again_it_ends_up_the_same(context, corpus, expected, when):
    """Dies at the 11th, 4th, 9th, ... write of the file log, and each run goes on where the last one died."""
    root, runs = corpus.path.parent, 0
    for at in [11, 4, 9, 7, 12, 6] * 20:
        runs += 1
        code = finish(start(context, child_add, root, TEXTS, 0.0, (when, at)))
        assert code in (0, -signal.SIGKILL)
        report = corpus.verify()
        assert report.problems == []
        for document in corpus.documents():
            assert corpus.document_text(document.document) == dict(TEXTS)[document.document]
        if code == 0:
            break
    assert runs > 5 and code == 0
    assert_whole(corpus, expected)
    assert corpus.compressor.compressed == 0


@pytest.mark.slow
def test_killed_at_any_moment(context, tmp_path, expected):
    chance = random.Random(int(time.time()))
    for number in range(5):
        root = tmp_path / str(number)
        corpus = Corpus.create(root, "c", FakeCompressor())
        process = start(context, child_add, root, TEXTS, 0.01)
        deadline = time.monotonic() + 30
        while len((corpus.path / "files.jsonl").read_bytes()) < 4000 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.6))
        process.kill()
        process.join()
        assert corpus.verify().problems == []
        corpus.add([Document(*text) for text in TEXTS])
        assert_whole(corpus, expected)


def test_what_was_appended_is_not_compressed_again(context, corpus, expected):
    assert finish(start(context, child_add, corpus.path.parent, TEXTS, 0.0, ("after", 10))) == -signal.SIGKILL
    kept = len(dump(corpus)[0])
    assert kept >= 3
    corpus.add([Document(*text) for text in TEXTS])
    assert corpus.compressor.compressed == len(expected[0]) - kept
    assert_whole(corpus, expected)


@pytest.mark.parametrize("harm", ["gap", "copy", "too many"])
def test_a_revision_in_disorder_is_put_right(corpus, expected, harm):
    corpus.add([Document(*text) for text in TEXTS])
    table = corpus._database.open_table("passages")
    if harm == "gap":
        table.delete("`index` = 1")
    elif harm == "copy":
        table.add(table.search().where("`index` = 2").to_arrow())
    else:
        table.update(where="`index` = 0", values={"index": 100})
    corpus._database.open_table("documents").delete("true")
    corpus.add([Document(*text) for text in TEXTS])
    assert dump(corpus) == expected


def test_interrupted_by_ctrl_c(corpus, expected, monkeypatch):
    monkeypatch.setattr(ingest, "FLUSH_PASSAGES", 1)
    real, left = ingest.Ingest._take, [9]

    def interrupted(self, *args):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(ingest.Ingest, "_take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        corpus.add([Document(*text) for text in TEXTS])
    assert corpus.verify().ok and len(dump(corpus)[0]) == 8
    corpus.add([Document(*text) for text in TEXTS])
    assert_whole(corpus, expected)


def test_ctrl_c_in_the_middle_of_a_commit(corpus, monkeypatch):
    """The commit ends before the lock is let go."""
    real = ingest.Ingest._flush

    def slow(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        real(self)

    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(ingest.Ingest, "_flush", slow)
    with pytest.raises(KeyboardInterrupt):
        corpus.add([Document(*text) for text in TEXTS])
    assert len(corpus.documents()) == len(TEXTS) and corpus.verify().ok


@pytest.mark.slow
def test_two_writers_and_a_reader(context, corpus, expected):
    root = corpus.path.parent
    more = [(f"{name} again", f"{text} again") for name, text in TEXTS]
    reader = start(context, child_read, root, 3.0)
    writers = [start(context, child_add, root, texts, 0.01) for texts in (TEXTS, more)]
    assert [finish(process) for process in [*writers, reader]] == [0, 0, 0]
    assert corpus.verify().problems == []
    assert {d.document: corpus.document_text(d.document) for d in corpus.documents()} == dict(TEXTS + more)


def test_two_create_at_once(tmp_path):
    outcomes = []

    def create():
        try:
            outcomes.append(Corpus.create(tmp_path, "c", FakeCompressor()))
        except Exception as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=create) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Corpus", "str"] and "CorpusExists" in outcomes
    assert Corpus.open(tmp_path, "c").verify().ok and [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up(small_disk, expected, monkeypatch):
    monkeypatch.setattr(ingest, "FLUSH_PASSAGES", 1)
    documents = [Document(*text) for text in TEXTS]
    for left in (0, 4096, 12288, 16384, 24576, 32768):
        corpus = Corpus.create(small_disk, "c", FakeCompressor())
        corpus.add(documents[0])
        ballast = small_disk / "ballast"
        free = os.statvfs(small_disk)
        ballast.write_bytes(b"0" * (free.f_bavail * free.f_frsize - left))
        with pytest.raises(StorageError, match="free space"):
            corpus.add(documents)
        with pytest.raises(StorageError):
            corpus.add(documents)
        assert corpus.document_text("a") == documents[0].text
        assert corpus.verify().problems == []
        ballast.unlink()
        corpus.add(documents)
        assert_whole(corpus, expected)
        corpus.delete()


def test_a_read_only_disk(small_disk):
    corpus = Corpus.create(small_disk, "c", FakeCompressor())
    corpus.add([Document(*text) for text in TEXTS])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    reader = Corpus.open(small_disk, "c", FakeCompressor())
    assert reader.document_text("b") == "The second." and reader.verify().ok
    for write in (lambda: reader.add(Document("d", "new")), lambda: reader.remove("a"), reader.compact, reader.delete):
        with pytest.raises(StorageError, match="Read-only"):
            write()
    with pytest.raises(StorageError, match="Read-only"):
        Corpus.create(small_disk, "d", FakeCompressor())
