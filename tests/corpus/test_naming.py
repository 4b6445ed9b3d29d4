"""A document is named alike wherever one is named; looking at corpora takes neither torch nor transformers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from longreach.corpus.documents import Document
from longreach.corpus.naming import find_fitting, resolve
from longreach.corpus.store import Corpus
from longreach.errors import UsageError
from tests.corpus.corpus_fakes import FakeCompressor

NAMES = ["/home/me/books/alice.txt", "/home/me/books/tom.txt", "/home/you/tom.txt", "tom", "/home/you/café.md", "note"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("/home/me/books/alice.txt", ["/home/me/books/alice.txt"]),
        ("alice.txt", ["/home/me/books/alice.txt"]),
        ("alice", ["/home/me/books/alice.txt"]),
        ("books/alice", ["/home/me/books/alice.txt"]),
        ("./books/alice.txt", ["/home/me/books/alice.txt"]),
        ("lice.txt", []),
        ("tom", ["tom"]),
        ("tom.txt", ["/home/me/books/tom.txt", "/home/you/tom.txt"]),
        ("you/tom", ["/home/you/tom.txt"]),
        ("cafe\u0301.md", ["/home/you/café.md"]),
        ("/tom.txt", []),
        ("", []),
        (".", []),
        ("\0", []),
        ("note", ["note"]),
    ],
)
def test_what_a_name_may_stand_for(given, found):
    assert find_fitting(given, NAMES) == found


def test_errors_say_what_to_write():
    with pytest.raises(UsageError, match=r"may be '/home/me/books/tom.txt', '/home/you.*: write more"):
        resolve("tom.txt", NAMES, "c")
    with pytest.raises(UsageError, match=r"no document 'whales': `longreach corpus show c` lists them"):
        resolve("whales", NAMES, "c")


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for name in ("one.txt", "two.txt", "sub/two.txt"):
        (folder / name).write_text(f"The words of {name}.")
    corpus = Corpus.create(tmp_path / "store", "c", FakeCompressor())
    corpus.add([folder, Document("plain", "A text without a file.")])
    monkeypatch.chdir(folder)
    return corpus


def test_every_door_takes_the_same_names(corpus, tmp_path):
    for given in ("one.txt", "./one.txt", "sub/../one.txt", "one", str(tmp_path / "in" / "one.txt")):
        assert corpus.document_text(given) == "The words of one.txt."
        assert {passage.document for passage in corpus.search("words", document=given)} == {corpus.resolve(given)}
    assert corpus.document_text("two.txt") == "The words of two.txt."  # from here that is the path of one of them
    os.chdir(tmp_path)
    with pytest.raises(UsageError, match="may be"):
        corpus.search("words", document="two.txt")
    with pytest.raises(UsageError, match="may be"):
        corpus.remove(["one.txt", "two.txt"])
    assert len(corpus.documents()) == 4
    assert corpus.remove(["sub/two.txt", "plain", "one"]) == sorted(
        [str(tmp_path / "in" / "sub" / "two.txt"), "plain", str(tmp_path / "in" / "one.txt")]
    )
    assert [info.document for info in corpus.documents()] == [str(tmp_path / "in" / "two.txt")]


COMMANDS = [
    "ls",
    "show c",
    "show c --json",
    "versions c",
    "verify c",
    "rm c b",
    "rollback c 2",
    "compact c",
    "repair c",
    "rm c --yes",
]


def test_commands_that_look_at_corpora_import_neither_torch_nor_transformers(tmp_path):
    shutil.unpack_archive(Path(__file__).with_name("format1.zip"), tmp_path)
    code = "import sys\nfrom longreach.cli.app import main\n"
    code += "codes = []\n"
    code += f"for line in {COMMANDS!r}:\n"
    code += f"    try:\n        main(['corpus', *line.split(), '--store', {str(tmp_path)!r}])\n"
    code += "    except SystemExit as done:\n        codes.append(done.code)\n"
    code += "print(codes, {'torch', 'transformers'} & set(sys.modules), file=sys.stderr)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == f"{[0] * len(COMMANDS)} set()"


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # where Python takes file names for ASCII
PRUNED = r"""
import os, sys
from pathlib import Path
from tests.corpus.corpus_fakes import Corpus, FakeCompressor
root = Path(sys.argv[1])
assert sys.getfilesystemencoding() == "ascii"
corpus = Corpus.open(root, "c", FakeCompressor())
first = corpus.add([root / "in"], prune=True)
os.remove(os.path.join(os.fsencode(root), b"in", "caf\u00e9.txt".encode()))
second = corpus.add([root / "in"], prune=True, force=True)
print(ascii([sorted(first.added), first.skipped, second.removed, sorted(second.unchanged)]))
"""


@pytest.mark.slow
def test_names_are_whole_where_the_locale_knows_ascii_only(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("café.txt", "日本.txt", "plain.txt"):
        (tmp_path / "in" / name).write_text("Words of a file.")
    Corpus.create(tmp_path, "c", FakeCompressor())
    run = {"env": os.environ | ASCII, "capture_output": True, "text": True, "cwd": Path(__file__).parents[2]}
    done = subprocess.run([sys.executable, "-c", PRUNED, str(tmp_path)], **run)
    cafe, japan, plain = (str(tmp_path / "in" / name) for name in ("café.txt", "日本.txt", "plain.txt"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ascii([[cafe, plain, japan], [], [cafe], [plain, japan]])
    (tmp_path / "c").rename(tmp_path / "café")
    show = [sys.executable, "-m", "longreach.cli", "corpus", "show", "café", "--store", str(tmp_path)]
    shown = subprocess.run(show, **(run | {"encoding": "utf-8"}))
    assert shown.returncode == 0 and "日本.txt" in shown.stdout and "café: model" in shown.stdout


@pytest.mark.parametrize("given", ["\ud800", "a\0b", "x" * 5000])
def test_what_no_path_can_be_fits_nothing(given):
    assert find_fitting(given, ["/texts/a.txt", "b"]) == []
