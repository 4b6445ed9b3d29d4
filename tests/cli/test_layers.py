"""`longreach layers`, and `convert` that reads or makes a ranking."""

import json
import sys

import pytest

QUICK = ("--length", 2048, "--window", 64, "--samples", 1, "--kinds", "numbers", "--device", "cpu")


def test_it_ranks_and_convert_takes_it(run, models, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["longreach", "layers", "one", "--heads"])
    out = tmp_path / "ranking.json"
    ranked = run("layers", models / "one", *QUICK, "--out", out, "--heads", "--most", 2, "--dtype", "float32", "--json")
    assert ranked.code == 0 and ranked.json["file"] == str(out)
    assert [len(choice["full_layers"]) for choice in ranked.json["choices"]] == [0, 2, 3]
    saved = json.loads(out.read_text())
    assert saved["order"] == ranked.json["order"] and len(saved["heads"]) == 6
    assert saved["command"] == "longreach layers one --heads"
    made = run("convert", models / "one", tmp_path / "h", "--full-layers", "measured:2", "--ranking", out, "--json")
    assert made.code == 0 and made.json["full_layers"] == saved["choices"][1]["full_layers"]
    other = run("convert", models / "other", tmp_path / "o", "--full-layers", "measured", "--ranking", out)
    assert other.code == 2 and "another model" in other.sentence and not (tmp_path / "o").exists()


def test_it_prints_a_table_and_a_chart(run, models, tmp_path):
    result = run("layers", models / "one", *QUICK, "--out", tmp_path / "r.json", "--plot", tmp_path / "r.svg")
    assert result.code == 0 and "KV MiB at 4,096 tokens" in result.out and "3 full  #" in result.out
    assert "<svg" in (tmp_path / "r.svg").read_text()


@pytest.mark.slow
def test_convert_measures_what_is_not_known(run, tmp_path):
    from tests.conftest import make_model, make_tokenizer

    model = tmp_path / "model"
    make_model(max_position_embeddings=8192).save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    # Bytes are tokens here, so the usual probes do not fit and it says so.
    result = run("convert", model, tmp_path / "out", "--full-layers", "measured")
    assert "measured first" in result.err


@pytest.mark.parametrize(
    "options, word",
    [
        (("--window", 100), "multiple of 64"),
        (("--length", 200), "nothing lies outside"),
        (("--kinds", "riddles"), "numbers, keys, prose"),
        (("--texts", "nowhere.txt"), "plain text in UTF-8"),
        (("--plot", "chart.pdf"), ".png or .svg"),
        (("--most", 9), "1 to 3"),
    ],
)
def test_wrong_values_are_one_sentence(run, models, options, word):
    result = run("layers", models / "one", *options)
    assert result.code == 2 and word in result.sentence


def test_a_text_shorter_than_the_window_is_refused(run, models, tmp_path):
    (tmp_path / "short.txt").write_text("A short text.")
    result = run("layers", models / "one", "--texts", tmp_path / "short.txt")
    assert result.code == 2 and "give a longer text" in result.sentence


@pytest.mark.parametrize(
    "options, word",
    [
        (("--full-layers", "measured:x"), "measured:N"),
        (("--full-layers", "measured:9"), "0 to 3"),
        (("--ranking", "r.json"), "--full-layers measured"),
        (("--full-layers", "measured", "--ranking", "r.json"), "cannot be read"),
    ],
)
def test_convert_refuses_in_one_sentence(run, models, tmp_path, options, word):
    result = run("convert", models / "one", tmp_path / "out", *options)
    assert result.code == 2 and word in result.sentence and not (tmp_path / "out").exists()
