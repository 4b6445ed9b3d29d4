"""docs/serving.md does what it says: its examples run in order, against a server with a tiny model."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.serving.conftest import make_corpus, make_settings, running

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
CURL = re.findall(r"^curl .*?\}'$", TEXT, re.M | re.S)
BOOK = "The Knave of Hearts stole the tarts. The King was very angry. The Dormouse told a story.\n" * 12


@pytest.fixture(scope="module")
def address(tmp_path_factory, base):
    """A server whose store has the corpus of the examples."""
    folder = tmp_path_factory.mktemp("docs")
    model = folder / "smollm2"
    model.symlink_to(base)
    make_corpus(folder / "store", str(model))
    with running(make_settings(folder / "store", str(model))) as server:
        yield server.address


def test_every_example_is_complete():
    assert len(PYTHON) == 3 and len(CURL) == 1
    for code in PYTHON:
        assert code.startswith("from openai import OpenAI\n")


def test_the_examples_run_in_the_order_they_are_read(address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(BOOK)
    for code in PYTHON:
        code = code.replace("http://127.0.0.1:8000", address)
        exec(compile(code, "serving.md", "exec"), {"__name__": "serving"})
    printed = capsys.readouterr().out
    assert "completed None" in printed and "book.txt" in printed and " text" in printed


def test_curl_gets_an_answer(address):
    command = shlex.split(CURL[0].replace("http://127.0.0.1:8000", address))
    done = subprocess.run(command, capture_output=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["choices"][0]["message"]["content"] and answer["longreach"]["citations"]
