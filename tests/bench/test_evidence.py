"""`benchmarks/evidence.py`: what it plans is understood, and it goes on where it was killed, on a tiny model."""

import importlib
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import typer

from longreach.cli.app import app
from longreach.evals.suites.registry import find_suite
from tests.conftest import make_model, make_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "niah": {"lengths": "700", "depths": 4, "samples": 5},
    "babilong": {"lengths": "100", "tasks": "qa9", "samples": 1},  # there is no such task
    "qmsum": {"samples": 1},
}
RUN = """
import json, sys
import evidence, evidence_plan
evidence_plan.PLANS["cpu"] = json.loads(sys.argv.pop())
evidence.main()
"""
DATA = dict.fromkeys(("fairytaleqa", "qmsum", "squality", "texts", "qa_1", "qa_2", "babi"), "there")


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("evidence_plan")


def asked(**changes):
    known = {"quick": False, "device": "cpu", "model": "smollm2", "hybrid": "trained", "compressor": None}
    return Namespace(**known | {"data": DATA, "haystack": None} | changes)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("compressor", [None, "a-folder"])
def test_every_plan_is_one_that_eval_understands(plan, device, quick, compressor):
    steps, left_out = plan.steps(asked(device=device, quick=quick, compressor=compressor))
    assert not left_out and len({step.name for step in steps}) == len(steps) == 14
    group = typer.main.get_command(app).commands["eval"]
    for step in steps:
        name = step.words[1]
        command = group.get_command(None, name)
        values = command.make_context(name, [*step.words[2:], "--out", "out"]).params
        systems = tuple(values["systems"].split(","))
        find_suite(name).check_systems(systems)
        assert step.words[2] == "trained" and systems == ("hybrid",) if "trained" in step.name else "full" in systems
        assert (values["device"], values["dtype"]) == (device, "bfloat16")
        of_parts = name == "docqa" and "full" in systems
        assert values.get("compressor") == (compressor if of_parts else None)
        assert ("compressed" in systems) == of_parts  # one ships for the model
        suite = find_suite(name).from_words(values | {"compressor": None})
        if name != "docqa":
            assert max(suite.lengths) <= (4096 if device == "cpu" or quick else 32768)
            assert values["beyond_window"] == (max(suite.lengths) > plan.WINDOW)


def test_the_time_is_that_of_two_cores(plan):
    for quick, minutes in ((True, 10), (False, 120)):
        steps, _ = plan.steps(asked(quick=quick))
        assert sum(step.seconds for step in steps) < 2 * minutes * 60
        assert sum(step.seconds for step in plan.steps(asked(quick=quick, hybrid=None))[0]) < 1.5 * minutes * 60
    assert {step.seconds for step in plan.steps(asked(device="cuda"))[0]} == {None}


def test_what_has_no_data_is_left_out_by_name(plan):
    steps, left_out = plan.steps(asked(data={"squality": "there"}, hybrid=None))
    assert [step.name for step in steps] == ["niah", "ruler", "babilong", "docqa-squality"]
    assert set(left_out) == {"ruler qa_1", "ruler qa_2", "perplexity", "fairytaleqa", "qmsum"}
    assert left_out["perplexity"] == "give --data texts=PATH"


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT / "src")]))
    make_model(max_position_embeddings=4096).save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    return (str(tmp_path / "out"), "--model", str(tmp_path / "tiny"))


@pytest.fixture
def run(plan, monkeypatch, capfd):
    def call(parts, *options):
        monkeypatch.setitem(plan.PLANS, "cpu", parts)
        monkeypatch.setattr(sys, "argv", ["evidence.py", *options])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module("evidence").main()
        return ended.value.code, *capfd.readouterr()

    return call


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_repeats_nothing(options, run, tmp_path):
    out = tmp_path / "out"
    log, report = out / "niah" / "predictions.jsonl", out / "evidence.json"
    first = subprocess.Popen([sys.executable, "-c", RUN, *options, json.dumps(SMALL)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    first.kill()  # SIGKILL
    assert first.wait() == -9
    time.sleep(0.5)
    there = log.read_bytes()
    assert 3 <= there.count(b"\n") < 60
    killed = json.loads(report.read_bytes())["runs"]["niah"]
    assert killed["state"] == "" and killed["seconds"] > 0

    code, said, errors = run(SMALL, *options)
    assert code == 1 and said.splitlines()[-1] == "not measured: babilong", errors
    assert log.read_bytes().startswith(there[: there.rindex(b"\n") + 1]) and log.read_bytes().count(b"\n") == 60
    evidence = json.loads(report.read_bytes())
    assert evidence["command"] == "python benchmarks/evidence.py OUT --model tiny"
    assert evidence["left_out"] == {"qmsum": "give --data qmsum=PATH"} and evidence["hardware"]["device"] == "cpu"
    assert evidence["at_once"] == min(2, os.cpu_count()) and evidence["seconds"] > killed["seconds"]
    niah, babilong = evidence["runs"]["niah"], evidence["runs"]["babilong"]
    assert niah["state"] == "finished" and niah["seconds"] > killed["seconds"] and niah["processor_seconds"] > 0
    assert babilong["state"].startswith("failed: There is no task 'qa9' of babilong")
    rows = json.loads((out / "niah" / "scores.json").read_bytes())["rows"]
    assert all(repr(row["score"]) in (out / "report.html").read_text() for row in rows)
    assert (out / "report.md").read_text().startswith("### Needle in a haystack\n")

    code, said, errors = run({"niah": SMALL["niah"]}, *options)
    assert code == 0 and said.splitlines()[-1].startswith("all measured in"), errors
    assert json.loads(report.read_bytes())["runs"] == {"niah": niah}
    code, _, errors = run({"niah": SMALL["niah"] | {"samples": 2}}, *options)
    assert code == 2 and "'niah' of other options" in errors


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--data", "squad=there"), "give NAME=PATH with a name out of fairytaleqa"),
        (("--data", "qmsum"), "give NAME=PATH"),
        (("--hybrid", "nowhere"), "'nowhere' holds no hybrid model"),
    ],
)
def test_mistakes_are_said_before_anything_runs(run, tmp_path, wrong, said):
    code, _, errors = run(SMALL, str(tmp_path / "out"), *wrong)
    assert code == 2 and said in errors and not (tmp_path / "out").exists()
