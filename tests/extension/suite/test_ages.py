"""A suite that is registered from outside is a command of `longreach eval` and a part of `longreach report`."""

import json
from importlib import metadata

import pytest

from longreach import installed
from longreach.evals.suites import registry
from longreach.evals.suites.registry import register, unregister
from tests.cli.conftest import models, run, wrong  # noqa: F401
from tests.extension.suite.ages import AgeSuite, score_nearness


@pytest.fixture(autouse=True)
def registered():
    register(AgeSuite)
    yield
    unregister(AgeSuite.name)


@pytest.fixture
def asked(models, tmp_path):  # noqa: F811
    return ("eval", "ages", models / "one", "--device", "cpu", "--people", 5, "--out", tmp_path / "out")


def read_lines(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_it_is_asked_and_scored_by_its_own_metric(run, asked, tmp_path):  # noqa: F811
    done = run(*asked, "--greeting", "Good morning.", "--polite", "--json")
    assert done.code == 0, done
    assert done.json["suite"] == "ages" and "4 people are asked about" in done.err
    systems = ("full", "hybrid, untrained")
    assert [(row["reader"], row["task"]) for row in done.json["rows"]] == [
        (system, task) for system in systems for task in ("age", "name", "mean")
    ]
    for line in read_lines(tmp_path / "out"):
        (sample,) = (one for one in AgeSuite(people=5).make_samples(None, print) if one.id == line["id"])
        assert line["score"] == AgeSuite.metrics()[sample.metric](line["prediction"], sample)
        assert line["question"] == sample.question and line["metric"] in ("nearness", "part")
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert (settings["people"], settings["greeting"], settings["polite"]) == (5, "Good morning.", True)
    (sample, *_) = AgeSuite().make_samples(None, print)
    assert score_nearness(sample.answers[0], sample) == 1 and score_nearness("nobody knows", sample) == 0


def test_it_is_resumed_where_it_was_stopped(run, asked, tmp_path):  # noqa: F811
    options = ("--tasks", "age", "--samples", 3, "--systems", "full")
    first = run(*asked, *options, "--json")
    assert first.code == 0, first
    log = tmp_path / "out" / "predictions.jsonl"
    whole = log.read_bytes().splitlines(keepends=True)
    assert len(whole) == 3
    log.write_bytes(whole[0] + whole[1][:20])
    (tmp_path / "out" / "scores.json").unlink()
    again = run(*asked, *options, "--json")
    assert again.code == 0 and "2/2" in again.err
    kept = [{key: line[key] for key in ("id", "prediction", "score")} for line in map(json.loads, whole)]
    assert [{key: line[key] for key in ("id", "prediction", "score")} for line in read_lines(tmp_path / "out")] == kept
    other = run(*asked, *options, "--greeting", "Hi.")
    assert other.code == 2 and 'settings.greeting is "Hello." there and "Hi." here' in other.sentence


def test_its_help_is_made_of_its_options(run):  # noqa: F811
    done = run("eval", "ages", "--help")
    assert done.code == 0
    for words in (AgeSuite.summary, f"longreach eval {AgeSuite.example}", "--people <int>", "[default: 20]"):
        assert words in done.out
    assert "--polite" in done.out and "--haystack" not in done.out and "kvpress" not in done.out
    assert AgeSuite.summary in run("eval", "--help").out


def test_wrong_options_are_one_sentence(wrong, asked):  # noqa: F811
    wrong(2, ["people is 1; give at least 2."], *asked, "--people", 1)
    wrong(2, ["no option '--depths' (it belongs to niah)", "--people, --greeting, --polite"], *asked, "--depths", 3)
    wrong(2, ["no task 'height' of ages: use age, name"], *asked, "--tasks", "height")
    wrong(2, ["no system 'kvpress' of ages"], *asked, "--systems", "kvpress")


def test_its_runs_are_reported_under_its_title(run, asked, tmp_path):  # noqa: F811
    assert run(*asked).code == 0
    page, twin = tmp_path / "report.html", tmp_path / "report.md"
    done = run("report", tmp_path / "out", "--out", page, "--markdown", twin, "--json")
    assert done.code == 0, done
    (found,) = done.json["suites"]
    assert found["suite"] == "ages" and {row["reader"] for row in found["by_age"]} == {"full", "hybrid, untrained"}
    assert "<h2>Ages of people</h2>" in page.read_text()
    for row in found["by_age"]:
        assert f"{row['reader']}, {'old' if row['old'] else 'young'}: {row['score']:.1f}" in page.read_text()
    assert twin.read_text().startswith("### Ages of people\n")
    unregister("ages")
    done = run("report", tmp_path / "out", "--out", page, "--json")
    assert done.code == 0 and done.json["suites"][0]["rows"] == found["rows"]
    assert "<h2>ages</h2>" in page.read_text()


def test_installed_packages_announce_theirs_as_entry_points(run, monkeypatch):  # noqa: F811
    unregister("ages")
    place = "tests.extension.suite.ages:AgeSuite"
    points = [metadata.EntryPoint("ages", place, registry.ENTRY_POINTS)]
    monkeypatch.setattr(installed, "entry_points", lambda group: points if group == registry.ENTRY_POINTS else [])
    registry._announced.cache_clear()
    try:
        assert "--people" in run("eval", "ages", "--help").out
    finally:
        registry._announced.cache_clear()


def test_without_it_there_is_no_such_command(wrong, models, tmp_path):  # noqa: F811
    unregister("ages")
    wrong(2, ["no suite 'ages'", "niah, ruler"], "eval", "ages", models / "one", "--out", tmp_path / "out")
