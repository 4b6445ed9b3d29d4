"""A format of another package is read like those of this one, by two files with public names only."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from longreach.corpus.documents import (
    Document,
    Format,
    Limits,
    Skipped,
    apart,
    find,
    list_suffixes,
    read_all,
    register,
    unregister,
)
from longreach.corpus.store import Corpus
from longreach.datasets import sources
from longreach.errors import DocumentError, UsageError
from tests.cli.conftest import library, made, models, run, texts  # noqa: F401
from tests.corpus.corpus_fakes import FakeCompressor
from tests.extension.format import RECIPE

SOUP = "Soup\nPeel the onions.\n\nBoil them."
TEXT = "# Soup\n- Peel the onions.\n- Boil them."
NOTE = "Step 2 is empty."
CONVERTER = "tests.extension.format.recipe:convert"


@pytest.fixture
def recipes():
    register(RECIPE)
    yield
    apart.close()
    unregister(RECIPE)


@pytest.fixture
def soup(tmp_path):
    path = tmp_path / "kitchen" / "soup.RECIPE"
    path.parent.mkdir()
    path.write_text(SOUP)
    return path


def test_it_takes_at_most_two_files():
    sources = [path for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_")]
    assert len(sources) <= 2
    for path in sources:
        assert "corpus.documents." not in path.read_text() and "import _" not in path.read_text()


def test_a_corpus_reads_it_from_folders_and_by_name(recipes, soup, tmp_path):
    corpus = Corpus.create(tmp_path / "store", "c", FakeCompressor())
    report = corpus.add(soup.parent)
    assert report.added == [soup.as_posix()] and report.notes == {soup.as_posix(): (NOTE,)}
    assert corpus.document_text(soup.as_posix()) == TEXT
    assert corpus.add([soup]).unchanged == [soup.as_posix()] and corpus.verify().ok


def test_it_is_unknown_before_and_afterwards(soup):
    for _ in range(2):
        assert find(soup.parent).unread == {".recipe": 1} and ".recipe" not in list_suffixes()
        assert list(read_all([soup])) == [Document(soup.as_posix(), SOUP)]  # named itself: as plain text
        register(RECIPE)
        assert find(soup.parent) == [soup] and ".recipe" in list_suffixes()
        unregister(RECIPE)


def test_it_is_converted_in_another_process_within_the_limits(recipes, soup):
    began = time.monotonic()
    soup.write_text("wait")
    (late,) = read_all([soup], Limits(seconds=1))
    assert isinstance(late, Skipped) and "the limit seconds is 1 s" in late.reason
    assert time.monotonic() - began < 60
    soup.write_text(SOUP)
    (long,) = read_all([soup], Limits(text_characters=9))
    assert isinstance(long, Skipped) and "the limit text_characters is 9" in long.reason
    assert list(read_all([soup])) == [Document(soup.as_posix(), TEXT, (NOTE,))]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"locked", "is locked: unlock it."),
        (b"\xff", "is damaged or is not a .recipe file"),
        (b"list", "returns no Converted"),
    ],
)
def test_its_failures_are_one_sentence(recipes, soup, content, reason):
    soup.write_bytes(content)
    (item,) = read_all([soup])
    assert isinstance(item, Skipped) and reason in item.reason and "\n" not in item.reason


def test_without_isolation_it_is_converted_here(soup, monkeypatch):
    here = Format("recipes", (".recipe",), CONVERTER, isolated=False)
    register(here)
    monkeypatch.setattr(apart, "convert_apart", None)
    assert list(read_all([soup])) == [Document(soup.as_posix(), TEXT, (NOTE,))]
    unregister(here)


def test_the_command_reads_it(recipes, library, run, soup):  # noqa: F811
    assert "recipe" in run("ingest", "--help").out
    result = run("ingest", soup.parent, "--corpus", "library", "--json")
    assert result.code == 0 and result.json["added"] == [soup.as_posix()]
    assert result.json["notes"] == [{"document": soup.as_posix(), "notes": [NOTE]}]
    soup.write_text("wait")
    result = run("ingest", soup.parent, "--corpus", "library", "--json", "--limit", "seconds=1")
    assert result.code == 1 and "the limit seconds is 1 s" in result.err


def test_mistyped_paths_and_training_know_its_suffix(recipes, soup, tmp_path):
    (item,) = find(["my soup.recipe"])
    assert isinstance(item, Skipped) and "does not exist" in item.reason
    assert list(sources.find(soup.parent).texts(lambda _: None)) == [TEXT]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DocumentError, match=r"\.recipe"):
        sources.find(empty)


def test_an_installed_package_declares_it(tmp_path, soup):
    """As after `pip install`: nothing but the entry point leads to the format."""
    info = tmp_path / "site" / "recipes-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recipes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[longreach.formats]\nrecipe = tests.extension.format:RECIPE\n")
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from longreach.corpus.documents import list_suffixes, read_all\n"
        "assert '.recipe' in list_suffixes()\n"
        "print([item.text for item in read_all([sys.argv[1]])])\n"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, str(soup), str(info.parent), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == repr([TEXT]) and not done.stderr


def test_an_installed_format_that_cannot_be_loaded_is_named(tmp_path):
    info = tmp_path / "recipes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recipes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[longreach.formats]\nrecipe = tests.extension.nothing:RECIPE\n")
    code = "import sys; sys.path.append(sys.argv[1])\nfrom longreach.cli import main; main(['ingest', '--help'])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2 and "tests.extension.nothing:RECIPE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_suffix_is_replaced_only_on_purpose():
    mine = Format("my pages", (".html",), CONVERTER)
    with pytest.raises(UsageError, match="already read as HTML"):
        register(mine)
    register(mine, replace=True)
    unregister(mine)
    with pytest.raises(UsageError, match="already read as HTML"):
        register(mine)


@pytest.mark.parametrize("suffixes", [(), ".a", ("",), ("a",), (".A",), (".a.b",), (".a/b",)])
def test_wrong_suffixes_are_refused(suffixes):
    with pytest.raises(UsageError, match="suffix"):
        Format("wrong", suffixes, CONVERTER)


@pytest.mark.parametrize("converter", ["", "a", "a:", ":b", "a b:c", "__main__:convert", "a:b:c", "os:system('x')"])
def test_wrong_names_of_converters_are_refused(converter):
    with pytest.raises(UsageError, match="converter"):
        Format("wrong", (".wrong",), converter)


@pytest.mark.parametrize("converter", ["tests.extension.nothing:convert", "os:nothing", "os:sep"])
def test_converters_that_cannot_be_imported_are_refused(converter):
    with pytest.raises(UsageError, match="converter"):
        register(Format("wrong", (".wrong",), converter))
    assert ".wrong" not in list_suffixes()
