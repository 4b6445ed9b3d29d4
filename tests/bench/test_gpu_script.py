"""`benchmarks/gpu.sh`: its steps in tiny sizes, and what it does when one of them fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from longreach.cli.app import app

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.sh"
STEPS = ["attention-decode", "attention-forward", "attention-train", "model-decode", "model-train", "model-prefill"]
STEPS.append("model-decode-compiled")

FAKE = """#!/usr/bin/env bash
# Stands for Python: notes its call, writes what --out names; `train` steps fail, `decode` steps never end.
[ "$1" = -c ] && exit 0
echo "$*" >>"$CALLS"
case "$*" in
*"--what train"*) echo "a reason" >&2; exit 3 ;;
*"--what decode"*) [ -n "${HANG:-}" ] && sleep 60 ;;
esac
echo '{}' >"${@: -1}"
"""


@pytest.fixture
def run(tmp_path):
    def call(out, **environment):
        environment = {**os.environ, "LONGREACH_BENCH_DRY": "1", "CALLS": str(tmp_path / "calls"), **environment}
        return subprocess.run([SCRIPT, *out], env=environment, capture_output=True, text=True, cwd=tmp_path)

    return call


@pytest.fixture
def fake(tmp_path):
    path = tmp_path / "fake-python"
    path.write_text(FAKE)
    path.chmod(0o755)
    return str(path)


@pytest.mark.slow
def test_every_step_of_a_dry_run_writes_its_json(run, tmp_path):
    done = run(["out"], PYTHON=sys.executable, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[1].rstrip(":") for line in done.stdout.splitlines()[:-1]] == STEPS
    reports = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in STEPS}
    for name, report in reports.items():
        bench, what = name.split("-")[:2]
        assert report["bench"] == bench and (report.get("what") == what or what in report)
        assert report["hardware"]["device"] == "cpu" and report["density" if bench == "attention" else "slice"]
    prefill = reports["model-prefill"]["prefill"]["variants"]
    assert prefill["hybrid"]["kv_allocated_bytes"] == prefill["hybrid"]["kv_block_bytes"]


def test_a_step_that_fails_is_named_and_the_next_ones_run(run, fake, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model-train.json").write_text("of an earlier run")
    done = run(["out"], PYTHON=fake)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "not measured: attention-train model-train"
    assert "FAILED   model-train: exit code 3: a reason" in done.stdout
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {*STEPS} - {"attention-train", "model-train"}
    assert len((tmp_path / "calls").read_text().splitlines()) == len(STEPS)


def test_time_limits_hold(run, fake, tmp_path):
    done = run(["out"], PYTHON=fake, HANG="1", LONGREACH_BENCH_SECONDS="1")
    assert done.returncode == 1 and "attention-decode: longer than 1 s" in done.stdout
    assert "model-prefill: no time left of 1 s" in done.stdout
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_without_the_dry_mode_sizes_are_those_of_the_goal(run, fake, tmp_path):
    run(["out"], PYTHON=fake, LONGREACH_BENCH_DRY="")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert all("--shape llama2-7b --length 131072 --dtype bfloat16 --device cuda" in call for call in calls)
    assert all("--impl triton,flex" in call for call in calls if "attention" in call.split()[:4])
    assert [call for call in calls if "--layers" in call] == [call for call in calls if "--layers 12" in call] != []
    group = typer.main.get_command(app).commands["bench"]
    for call in calls:  # what a GPU would be asked is understood, down to the options
        command, *options = call.split("bench ", 1)[1].split()
        group.commands[command].make_context(command, options)
    assert ["--graphs --compile" in call for call in calls] == [name == "model-decode-compiled" for name in STEPS]


BARE = """
import sys

for name in ("lancedb", "bm25s", "pyarrow", "pypdf", "markitdown", "Stemmer", "platformdirs", "gguf", "psutil", "peft",
             "sentence_transformers", "matplotlib", "accelerate"):
    sys.modules[name] = None  # not installed
from longreach.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", [("attention", "--impl", "cpu"), ("model", "--shape", "smollm2", "--layers", "1")])
def test_the_benches_need_no_more_than_torch_transformers_and_typer(command):
    options = ["--device", "cpu", "--length", "8", "--repeats", "1", "--json"]
    what = ["--what", "prefill,decode,train", "--new-tokens", "1"] if command[0] == "model" else []
    done = subprocess.run([sys.executable, "-c", BARE, "bench", *command, *what, *options], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["bench"] == command[0]


def test_it_wants_a_folder(run):
    assert run([]).returncode == 2
