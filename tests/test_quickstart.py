"""The quickstart does what it says: its examples are run in order, with a tiny model in the place of the default."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longreach.cli.app import app
from longreach.session import workspace
from tests.conftest import make_model, make_tokenizer

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "quickstart.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
COMMANDS = re.findall(r"^longreach .*$", TEXT, re.M)
BOOK = "The Knave of Hearts stole the tarts. The King was very angry. The Dormouse told a story.\n" * 12


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files that the examples name, and a model small enough to answer in no time."""
    model = make_model(max_position_embeddings=4096)
    for name in ("load", "load_named"):
        monkeypatch.setattr(workspace, name, lambda ref, **options: (model, make_tokenizer()))
    monkeypatch.setattr(workspace, "default_compressor", lambda ref: "mean-pool")
    monkeypatch.setenv("LONGREACH_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(BOOK)
    asked = ("Who stole the tarts?", "Who was angry?", "Who told a story?")
    lines = [json.dumps({"question": question, "answer": "The Knave."}) for question in asked]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))


def test_every_example_is_complete():
    assert len(PYTHON) == 4 and len(COMMANDS) == 6
    for code in PYTHON:
        compile(code, "quickstart", "exec")
        assert code.startswith("import longreach as lr\n")


def test_the_examples_run_in_the_order_they_are_read(place, capsys):
    for block in re.findall(r"^```(python|)\n(.*?)^```$", TEXT, re.M | re.S):
        kind, code = block
        if kind == "python":
            exec(compile(code, "quickstart", "exec"), {"__name__": "quickstart"})
            continue
        for line in code.splitlines():
            done = CliRunner().invoke(app, shlex.split(line)[1:])
            assert done.exit_code == 0, (line, done.output)
    printed = capsys.readouterr().out
    assert "book.txt" in printed and "positions for" in printed
    for name in ("no context", "raw", "compressed", "mixed", "full"):
        assert f"{name}: " in printed
