"""`longreach report`: files that are written, one JSON object, and one sentence for what goes wrong."""

import json

import pytest

from tests.evals.run_folders import docqa_run, length_run


@pytest.fixture
def niah(tmp_path):
    return length_run(tmp_path / "niah")


def test_a_page_a_twin_and_the_figures(run, niah, tmp_path):
    out, twin = tmp_path / "report.html", tmp_path / "report.md"
    result = run("report", niah, docqa_run(tmp_path / "docqa"), "--out", out, "--markdown", twin, "--json")
    assert result.code == 0 and result.json["out"] == str(out) and result.json["markdown"] == str(twin)
    rows = json.loads((niah / "scores.json").read_text())["rows"]
    assert result.json["suites"][0]["rows"] == rows
    assert all(repr(row["score"]) in out.read_text() for row in rows)
    assert twin.read_text().startswith("### Needle in a haystack\n")
    plain = run("report", niah, "--out", out)
    assert plain.code == 0 and plain.out == "" and "1 run" in plain.err
    assert "Questions about documents" not in out.read_text()


def test_labels(run, wrong, niah, tmp_path):
    out, other = tmp_path / "report.html", length_run(tmp_path / "other", samples_digest="other")
    sentence = wrong(2, ["'niah' and 'other'", "different samples", "--label"], "report", niah, other, "--out", out)
    assert sentence.endswith(".") and not out.exists()
    labels = ("--label", "before", "--label", "after")
    result = run("report", niah, other, "--out", out, *labels, "--json")
    assert result.code == 0 and result.json["runs"][1]["label"] == "after"
    assert "full (before)" in out.read_text() and "full (after)" in out.read_text()
    wrong(2, ["1 label for 2 runs"], "report", niah, other, "--out", out, "--label", "before")


def test_an_unfinished_run_is_named(run, tmp_path):
    out = tmp_path / "report.html"
    result = run("report", length_run(tmp_path / "half", finished=False), "--out", out)
    assert result.code == 0 and "half" in result.err and "unfinished, 90 of 90" in out.read_text()


def test_wrong_calls_are_one_sentence(wrong, niah, tmp_path):
    out = tmp_path / "report.html"
    wrong(2, ["RUNS"], "report", "--out", out)
    wrong(2, ["--out"], "report", niah)
    wrong(2, ["nowhere", "not the folder of a run"], "report", tmp_path / "nowhere", "--out", out)
    wrong(2, ["cannot be written", "folder that exists"], "report", niah, "--out", tmp_path / "none" / "report.html")
    wrong(2, ["cannot be written"], "report", niah, "--out", tmp_path)
    wrong(2, ["cannot be written"], "report", niah, "--out", out, "--markdown", niah)
    wrong(2, ["the same file"], "report", niah, "--out", out, "--markdown", out)
    wrong(2, ["the same file"], "report", niah, "--out", out, "--markdown", niah / ".." / out.name)
    wrong(2, ["is a file of a run"], "report", niah, "--out", niah / "run.json")
    (niah / "predictions.jsonl").write_text('{"reader": "full"\n')
    wrong(2, ["Line 1", "not JSON"], "report", niah, "--out", out)
    assert not out.exists()


def test_a_disk_that_refuses_is_one_sentence(wrong, niah, tmp_path):
    wrong(1, ["The system refused"], "report", niah, "--out", "/dev/full")
