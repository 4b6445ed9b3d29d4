"""`benchmarks/reading.py` on a tiny model: positions stay within their share, and readings say what made them."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from tests.conftest import make_model, make_tokenizer

ROOT = Path(__file__).resolve().parents[2]
STORIES = {
    "fox": "The fox took the hen. " + "Nobody saw how the fox went home in the night. " * 80,
    "king": "The king lost his ring. " + "All the servants of the king looked for the ring. " * 80,
}
QUESTIONS = [
    {"question": "Who took the hen?", "answer": "the fox", "document": "fox.txt"},
    {"question": "What did the king lose?", "answer": "his ring", "document": "king.txt"},
    {"question": "Who looked for the ring?", "answer": "the servants", "document": "king.txt"},
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    make_model(max_position_embeddings=8192).save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    (tmp_path / "stories").mkdir()
    for name, text in STORIES.items():
        (tmp_path / "stories" / f"{name}.txt").write_text(text)
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def call(*options):
        paths = [str(tmp_path / "stories"), str(tmp_path / "questions.jsonl")]
        more = ["--model", str(tmp_path / "tiny"), "--dtype", "float32", "--out", str(tmp_path / "out.json")]
        monkeypatch.setattr(sys, "argv", ["reading.py", *paths, *more, *options])
        importlib.import_module("reading").main()
        return json.loads((tmp_path / "out.json").read_text())

    return call


def test_passages_stay_within_their_share_of_the_full_story_and_say_what_measured_them(run, capsys):
    base = run("--baselines")["readings"]
    assert set(base) == {"no context", "full story"} and base["no context"]["vectors"] == 0
    found = run("--compressor", "mean-pool", "--ratio", "30", "--within", "9", "--only", "within|another")["readings"]
    label = "mean-pool 30x, passages within 1/9"
    assert set(found) - set(base) == {
        label, f"{label}, another story", "mean-pool 30x, another story",
        "mean-pool 30x, raw passages within 1/9", "mean-pool 30x, raw passages within 1/9, adapter off",
    }  # fmt: skip
    for name, reading in found.items():
        if "within" in name:
            assert base["no context"]["positions"] < reading["positions"] <= base["full story"]["positions"] / 9, name
    assert found[label]["vectors"] > 0 and found["mean-pool 30x, raw passages within 1/9"]["vectors"] == 0
    assert "--baselines" in found["no context"]["command"] and "--within 9" in found[label]["command"]
    with pytest.raises(SystemExit):
        run("--baselines", "--limit", "2")
    assert "other settings" in capsys.readouterr().err
