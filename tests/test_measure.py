"""`scripts/measure.py`: what it counts, and that its check can fail."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """The script, looking at a package in a folder of its own."""
    spec = importlib.util.spec_from_file_location("measure", ROOT / "scripts" / "measure.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "measure", module)
    spec.loader.exec_module(module)
    package = tmp_path / "src" / "longreach"
    (package / "corpus").mkdir(parents=True)
    (package / "models").mkdir()
    for folder in (package, package / "corpus", package / "models"):
        (folder / "__init__.py").touch()
    (tmp_path / "tests").mkdir()
    layers = (ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8")
    (tmp_path / "tests" / "test_architecture.py").write_text(layers)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "PACKAGE", package)
    return module


def write(measure, name, text):
    (measure.PACKAGE / name).write_text(text)
    return measure.read_sources([measure.PACKAGE])


def test_circles_are_found_wherever_the_imports_stand(measure):
    write(measure, "corpus/a.py", "from longreach.corpus import b\n")
    sources = write(measure, "corpus/b.py", "def f():\n    from longreach.corpus.a import g\n")
    assert measure.find_circles(sources) == ["longreach.corpus.a <-> longreach.corpus.b"]
    sources = write(measure, "corpus/b.py", "if TYPE_CHECKING:\n    from longreach.corpus.a import g\n")
    assert measure.find_circles(sources) == []


def test_imports_upwards_are_found(measure):
    text = "def f():\n    from longreach.corpus.store import Corpus\n"
    sources = write(measure, "models/a.py", text)
    assert measure.find_upward_imports(sources) == ["src/longreach/models/a.py imports longreach.corpus.store"]


def test_what_is_counted(measure):
    text = '''"""A module."""

# Why it is so.
a, b = 1, [x for x in range(3)]
c = 1 if a else 2  # noqa: X


def f(x: Any, *rest: Any) -> dict[str, Any]:
    """Returns it."""
    return x
'''
    write(measure, "corpus/a.py", text)
    (source,) = measure.read_sources([measure.PACKAGE / "corpus" / "a.py"])
    assert measure.count_code_lines(source) == 4
    assert measure.count_comment_lines(source) == 1
    assert measure.count_tuple_assignments(source) == 1
    assert measure.count_any(source, set()) == 3


def test_files_that_are_too_large_are_named(measure):
    sources = write(measure, "corpus/a.py", "a = 1\n" * 376)
    assert measure.find_large_files(sources) == ["src/longreach/corpus/a.py has 376 lines, more than 375: split it."]
    assert measure.find_large_files(write(measure, "corpus/a.py", "a = 1\n" * 375)) == []
    (measure.PACKAGE / "kernels" / "triton").mkdir(parents=True)
    sources = write(measure, "kernels/triton/backward.py", "a = 1\n" * 440)  # the one exception
    assert measure.find_large_files(sources) == []


def test_an_alias_hides_no_any(measure):
    write(measure, "models/a.py", "Row = dict[str, Any]\n\n\ndef f(x: Row) -> int:\n    return 1\n")
    text = "from longreach.models.a import Row as Line\n\n\ndef g(x: list[Line], y: Rows) -> Line:\n    return y\n"
    sources = write(measure, "corpus/b.py", text)
    aliases = measure.find_any_aliases(sources)
    assert aliases == {("longreach.models.a", "Row")}
    assert sum(measure.count_any(source, aliases) for source in sources) == 3
