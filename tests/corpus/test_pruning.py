"""Pruning removes documents whose files are gone, and refuses where it looks as if a disk is away."""

import shutil

import pytest

from longreach.corpus.documents import Document
from longreach.corpus.store import Corpus
from longreach.errors import UsageError
from tests.corpus.corpus_fakes import FakeCompressor, dump


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    (folder / "sub").mkdir(parents=True)
    for name in ("a", "b", "c", "sub/d", "sub/e"):
        (folder / f"{name}.txt").write_text(f"the text of {name}")
    return folder


@pytest.fixture
def corpus(tmp_path, disk):
    corpus = Corpus.create(tmp_path / "store", "c", FakeCompressor())
    corpus.add([disk, Document("a note", "without a file")])
    return corpus


def names(corpus, disk):
    return [info.document.removeprefix(f"{disk}/") for info in corpus.documents()]


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def test_an_empty_mount_point_removes_nothing_without_force(corpus, disk, tmp_path):
    empty(disk)
    before = dump(corpus)
    (tmp_path / "new.txt").write_text("new")
    with pytest.raises(UsageError, match=r"remove 5 of the 5 documents of .*disk.*--force"):
        corpus.add([disk, tmp_path / "new.txt"], prune=True)
    assert dump(corpus) == before
    report = corpus.add(disk, prune=True, force=True)
    assert len(report.removed) == 5 and names(corpus, disk) == ["a note"]


def test_a_disk_that_is_away_altogether_says_nothing(corpus, disk):
    shutil.rmtree(disk)
    assert corpus.add(disk, prune=True).removed == [] and len(corpus.documents()) == 6


def test_an_empty_mount_point_within_the_folder_is_found(corpus, disk):
    empty(disk / "sub")
    with pytest.raises(UsageError, match=r"2 of the 2 documents of .*sub,"):
        corpus.add(disk, prune=True)
    shutil.rmtree(disk / "sub")  # the folder itself was deleted: that was meant
    assert len(corpus.add(disk, prune=True).removed) == 2


def test_most_of_a_folder_needs_force(corpus, disk):
    for name in ("a", "b", "c"):
        (disk / f"{name}.txt").unlink()
    with pytest.raises(UsageError, match="3 of the 5"):
        corpus.add(disk, prune=True)
    assert sorted(corpus.add(disk, prune=True, force=True).removed) == [str(disk / f"{name}.txt") for name in "abc"]


def test_a_few_files_go_without_a_word(corpus, disk):
    (disk / "a.txt").unlink()
    (disk / "sub" / "d.txt").unlink()
    assert len(corpus.add(disk, prune=True).removed) == 2 and corpus.verify().ok


def test_other_folders_are_counted_by_themselves(corpus, disk, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.txt").write_text("x and more")
    corpus.add(other)
    empty(other)
    with pytest.raises(UsageError, match=r"1 of the 1 document of .*other"):
        corpus.add([disk, other], prune=True)
    assert corpus.add(disk, prune=True).removed == []


def test_files_that_were_named_themselves(corpus, disk):
    files = [disk / "a.txt", disk / "b.txt", disk / "c.txt"]
    files[0].unlink()
    assert corpus.add(files, prune=True).removed == [str(files[0])]
    assert corpus.add(files, prune=True).removed == []
    empty(disk)
    with pytest.raises(UsageError, match="2 of the"):
        corpus.add(files, prune=True)
    assert corpus.add(files[1], prune=True).removed == [str(files[1])]


def test_what_is_excluded_stays(corpus, disk):
    report = corpus.add(disk, prune=True, exclude=["sub", "a.txt"])
    assert report.removed == [] and report.skipped == [] and len(corpus.documents()) == 6
    (disk / "a.txt").unlink()
    assert corpus.add(disk, prune=True, exclude="a.txt").removed == [str(disk / "a.txt")]


def test_without_prune_nothing_goes(corpus, disk):
    empty(disk)
    assert corpus.add(disk).removed == [] and len(corpus.documents()) == 6


@pytest.mark.parametrize("source", ["text \ud800 broken", "long text " * 30, "a\0b", Document("n", "text")])
def test_texts_have_no_files(corpus, source):
    assert corpus.add([source], prune=True).removed == []
