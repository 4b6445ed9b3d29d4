"""The runner: what is written, what a run that was killed goes on to, and what is refused."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from longreach.errors import UsageError
from longreach.evals.report.markdown import markdown
from longreach.evals.report.page import page
from longreach.evals.report.parts import RESCORED
from longreach.evals.report.report import figures
from longreach.evals.report.runs import read_run
from longreach.evals.run.runner import cut_batches
from longreach.evals.scores.intervals import interval
from longreach.evals.scores.overlap import SCORING
from tests.evals.scripted import Scripted, guessing, oracle, run, samples

ROOT = Path(__file__).parents[3]
RUN_KEYS = {
    "suite", "settings", "seed", "samples", "samples_digest", "readers", "versions", "hardware", "command", "started",
    "longreach_run",
}  # fmt: skip
LINE_KEYS = {
    "reader", "suite", "task", "id", "document", "length", "tags", "question", "answers", "prediction", "metric",
    "score", "scoring", "read_tokens", "positions", "new_tokens", "first_token_seconds", "seconds", "kv_bytes",
    "peak_bytes",
}  # fmt: skip
ROW_KEYS = {
    "reader", "task", "length", "metric", "samples", "score", "low", "high", "positions", "read_tokens",
    "first_token_seconds", "tokens_per_second", "kv_bytes", "peak_bytes", "seconds",
}  # fmt: skip


def lines(out):
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def header(out):
    return json.loads((out / "run.json").read_text())


def test_an_oracle_scores_100_and_guessing_near_0(tmp_path):
    said = []
    scores = run(tmp_path / "out", say=said.append, arguments=["eval", "scripted", "--out", "here"])
    assert scores == json.loads((tmp_path / "out" / "scores.json").read_text())
    rows = {(row["reader"], row["task"], row["length"]): row for row in scores["rows"]}
    assert set(rows) == {(r, t, n) for r in ("oracle", "random") for t in ("one", "two", "mean") for n in (64, 128)}
    assert all(set(row) == ROW_KEYS for row in rows.values())
    perfect = rows["oracle", "one", 64]
    assert (perfect["score"], perfect["low"], perfect["high"], perfect["samples"]) == (100, None, None, 5)
    assert (perfect["metric"], perfect["tokens_per_second"], perfect["kv_bytes"]) == ("all", 2.0, 1000)
    assert perfect["positions"] == sum(len(s.context) for s in samples()[:5]) / 5
    mean = rows["oracle", "mean", 128]
    assert (mean["score"], mean["low"], mean["high"], mean["samples"]) == (100, 100, 100, 10)
    assert all(row["score"] < 30 for key, row in rows.items() if key[0] == "random")
    assert said[-1].startswith("40/40  random, two at 128") and said[-1].endswith("0:00:00 left")


def test_the_folder_holds_what_the_report_reads(tmp_path):
    run(tmp_path / "out", arguments=["eval", "scripted", "--out", "here"])
    made, found = header(tmp_path / "out"), lines(tmp_path / "out")
    assert set(made) == RUN_KEYS and made["longreach_run"] == 1
    assert made["command"] == "longreach eval scripted" and made["versions"]["torch"] and made["hardware"]["processor"]
    assert made["settings"] == {"lengths": [64, 128], "batch_size": 3} and (made["seed"], made["samples"]) == (3, 20)
    assert made["readers"] == {"oracle": {"kind": "scripted"}, "random": {"kind": "scripted"}}
    assert len(found) == 40 and all(set(line) == LINE_KEYS for line in found)
    first, sample = found[0], samples()[0]
    assert (first["id"], first["question"], first["answers"]) == (sample.id, sample.question, [*sample.answers])
    assert first["score"] == 1.0 and first["tags"] == {"index": 0} and first["length"] == 64


def test_a_mean_weighs_tasks_alike_whatever_their_samples(tmp_path):
    """Ten right answers of one task and two wrong ones of another: 50, each task being sure of its own."""
    asked = samples(("many",), (64,), 10) + samples(("few",), (64,), 2)
    reader = Scripted("half", lambda sample, _: sample.answers[0] if sample.task == "many" else "no")
    rows = {row["task"]: row for row in run(tmp_path / "out", samples=asked, readers=[reader])["rows"]}
    assert (rows["many"]["score"], rows["few"]["score"], rows["mean"]["score"]) == (100, 0, 50)
    assert rows["mean"]["low"] == rows["mean"]["high"] == 50
    assert rows["many"]["low"] == interval([100.0] * 10).low


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_predictions(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    threads = str(torch.get_num_threads())  # as many in both processes: another number is another run
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        "OMP_NUM_THREADS": threads,
    }
    command = [sys.executable, "-m", "tests.evals.scripted", str(killed)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    log, deadline = killed / "predictions.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") >= 4) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()  # SIGKILL
    assert process.wait() == -9, process.stderr.read()
    assert not (killed / "scores.json").exists()
    there = [line["id"] for line in lines(killed)]
    assert 4 <= len(there) < 40
    with log.open("ab") as file:
        file.write(b'{"reader": "oracle", "id": "one-64-4", "predic')  # and its last line was cut off
    reader = oracle()
    run(killed, readers=[reader, guessing()])
    run(whole)
    assert lines(killed) == lines(whole) and header(killed).keys() == header(whole).keys()
    assert (killed / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    whole_batches = [batch for batch in cut_batches(samples(), 3) if {sample.id for sample in batch} <= set(there)]
    assert whole_batches and not {sample.id for batch in whole_batches for sample in batch} & set(reader.asked)


def test_what_is_there_is_never_asked_again_and_batches_stay_what_they_were(tmp_path):
    out = tmp_path / "out"
    first = run(out)
    log = out / "predictions.jsonl"
    text = log.read_bytes()
    again = [oracle(), guessing()]
    assert run(out, readers=again) == first and not again[0].asked and not again[1].asked
    started = header(out)["started"]
    kept = text.splitlines(keepends=True)
    log.write_bytes(b"".join(kept[:4]) + kept[4][:30])  # the second of the second batch was being written
    assert "of 2" in kept[4].decode() and "of 3" in kept[0].decode()
    again = [oracle(), guessing()]
    assert run(out, readers=again) == first
    assert log.read_bytes() == text and header(out)["started"] == started
    assert again[0].asked[:2] == ["one-64-3", "one-64-4"] and len(again[0].asked) == 17


def test_batches_hold_one_task_length_and_limit():
    asked = samples()
    asked[1] = replace(asked[1], max_new_tokens=9)
    found = cut_batches(asked, 3)
    assert [sample for batch in found for sample in batch] == asked
    assert [len(batch) for batch in found[:4]] == [1, 1, 3, 3]
    assert all(len({(s.task, s.length, s.max_new_tokens) for s in batch}) == 1 for batch in found)


def test_readers_may_prepare_and_may_leave_out_what_they_cannot_read(tmp_path):
    class Short(Scripted):
        def reads(self, sample):
            return sample.length < 100

        def prepare(self, folder):
            self.asked.append(folder)
            return {"ingest_seconds": 1.5}

        def close(self):
            self.asked.append("closed")

    out = tmp_path / "out"
    reader = Short("short", lambda sample, _: sample.answers[0])
    rows = run(out, readers=[reader, guessing()])["rows"]
    assert {row["length"] for row in rows if row["reader"] == "short"} == {64}
    assert reader.asked[0] == out and reader.asked[-1] == "closed" and len(reader.asked) == 12
    assert header(out)["readers"]["short"] == {"kind": "scripted", "ingest_seconds": 1.5}
    other = Short("short", lambda sample, _: sample.answers[0])
    assert run(out, readers=[other, guessing()])["rows"] == rows and other.asked == ["closed"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"settings": {"lengths": [64]}}, r"settings.lengths is \[64, 128\] there and \[64\] here"),
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"batch_size": 2}, "settings.batch_size is 3 there and 2 here"),
        ({"samples": samples(count=4)}, "samples is 20 there and 16 here"),
        (
            {"readers": [Scripted("oracle", None, digest="b"), guessing()]},
            'readers.oracle.digest is null there and "b"',
        ),
        ({"readers": [oracle()]}, "readers.random is"),
    ],
)
def test_the_run_of_other_settings_is_refused(tmp_path, change, words):
    run(tmp_path / "out")
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    with pytest.raises(UsageError, match=words):
        run(tmp_path / "out", **change)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before


def test_folders_that_are_no_run_of_this_kind(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="exists already and is no run"):
        run(tmp_path / "full")
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "run.json").write_text('{"seed": 1}')
    with pytest.raises(UsageError, match="is the folder of a training run"):
        run(tmp_path / "trained")
    run(tmp_path / "out")
    log = tmp_path / "out" / "predictions.jsonl"
    log.write_bytes(log.read_bytes().replace(b'{"reader"', b'{"rea', 1))
    with pytest.raises(UsageError, match=r"Line 1 of '.*predictions.jsonl' is damaged"):
        run(tmp_path / "out")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"readers": [oracle(), oracle()]}, "Two systems are called 'oracle'"),
        ({"samples": samples() + samples()[:1]}, "Two samples have the id 'one-64-0'"),
        ({"samples": [replace(samples()[0], metric="vibes")]}, "no metric 'vibes'"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_calls_that_cannot_be(tmp_path, change, words):
    with pytest.raises(UsageError, match=words):
        run(tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_nothing_to_ask_and_nobody_to_answer(tmp_path):
    from longreach.evals.run.runner import evaluate

    for asked, readers, words in (([], [oracle()], "no samples"), (samples(), [], "no systems")):
        with pytest.raises(UsageError, match=words):
            evaluate(asked, readers, tmp_path / "out", suite="scripted", settings={})


def test_answers_of_an_earlier_release_are_scored_by_the_rules_of_this_one(tmp_path):
    """A run that was begun under other rules is never a mixture: lines of both rules are scored by those of today."""
    asked = [replace(sample, metric="f1", answers=("Paris",)) for sample in samples(("one",), (64,), 12)]
    quoting = Scripted("quoting", lambda sample, _: "\u201cParis\u201d")
    first = run(tmp_path / "out", samples=asked, readers=[quoting])
    place = tmp_path / "out" / "predictions.jsonl"
    old = [line | {"score": 0.0} for line in lines(tmp_path / "out")]
    for line in old[:6]:
        del line["scoring"]
    kept = [line for line in old if "scoring" not in line]
    place.write_text("".join(json.dumps(line) + "\n" for line in kept))
    again = run(tmp_path / "out", samples=asked, readers=[quoting])
    assert again["rows"][0]["score"] == first["rows"][0]["score"] == 100 and again["scoring"] == SCORING
    assert [line["score"] for line in lines(tmp_path / "out")] == [0.0] * 6 + [1.0] * 6  # what is there stays

    stale = {"rows": [row | {"score": 0.0} for row in first["rows"]]}
    (tmp_path / "out" / "scores.json").write_text(json.dumps(stale))
    found = read_run(tmp_path / "out")
    assert found.rescored and found.rows[0]["score"] == 100 and {line["score"] for line in found.predictions} == {1.0}
    told = figures([found])
    assert told["runs"][0]["rescored"] and RESCORED in page(told) and RESCORED in markdown(told)
    assert not read_run(_fresh(tmp_path / "new", asked, quoting)).rescored


def _fresh(folder, asked, reader):
    run(folder, samples=asked, readers=[reader])
    return folder
