"""The miniatures show their mechanism when run, and the committed figures reach the goals."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def quick(name, folder):
    """Returns the figures of a short run, in a process of its own, as users start it."""
    out = folder / f"{name}.json"
    command = [sys.executable, str(ROOT / "recipes" / f"{name}.py"), "--quick", "--out", str(out)]
    paths = [str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert json.loads(done.stdout) == report and str(folder) not in done.stdout
    return report


def committed(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}_cpu-2cores_2026-11-22.json").read_text())


def check_hybrid(report, share, lost):
    """Hybrid over full at least `share` everywhere; without full layers at most `lost` beyond the windows' reach."""
    found = report["variants"]
    full, hybrid = found["full"], found["hybrid"]
    assert report["hybrid_over_full"] == pytest.approx(hybrid["recall"] / full["recall"], abs=1e-3)
    assert full["recall"] > share and hybrid["recall"] >= share * full["recall"]
    assert hybrid["recall_beyond_reach"] >= share * full["recall_beyond_reach"]
    for name in ("sink-window", "hybrid, full layers removed"):
        assert found[name]["full_layers"] == [] and found[name]["recall_beyond_reach"] <= lost
        assert found[name]["recall"] < hybrid["recall"] / 2
    assert 0 < len(hybrid["full_layers"]) < report["layers"] / 2
    assert report["reach_tokens"] < report["text_tokens"] / 2 and hybrid["facts_beyond_reach"] > 50


def check_compressor(report, least, margin, lost):
    """At both ratios: at least `least` recalled, mean pooling worse by `margin`, at most `lost` from what is not it."""
    found = report["variants"]
    assert found["raw text"]["recall"] > least
    for ratio in ("8x", "16x"):
        ours = found[f"autocompressor {ratio}"]
        assert ours["recall"] >= least and ours["recall"] - found[f"mean-pool {ratio}"]["recall"] >= margin
        assert max(ours[name] for name in ("another_text", "no_vectors", "dimensions_shuffled")) <= lost


@pytest.mark.slow
def test_full_layers_recall_what_windows_do_not(tmp_path):
    check_hybrid(quick("miniature_hybrid", tmp_path), share=0.8, lost=0.1)


def test_the_committed_hybrid_reaches_the_goal():
    report = committed("miniature-hybrid")
    assert (report["command"], report["seed"]) == ("python recipes/miniature_hybrid.py", 0)
    check_hybrid(report, share=report["goals"]["hybrid_over_full"], lost=0.05)
    assert report["goals"]["hybrid_over_full"] == 0.95 and report["text_tokens"] >= 1024


def test_the_table_of_the_hybrid_is_the_json():
    text, report = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8"), committed("miniature-hybrid")
    names = ("full", "hybrid", "sink-window", "hybrid, full layers removed")
    found = [report["variants"][name][key] for name in names for key in ("recall", "recall_beyond_reach")]
    assert re.findall(r"\| ([\d.]+)% \| ([\d.]+)% \|", text)[:4] == [
        (f"{100 * recall:.1f}", f"{100 * beyond:.1f}") for recall, beyond in zip(found[::2], found[1::2], strict=True)
    ]
    said = (report["hybrid_over_full"], report["kv_reduction"], report["variants"]["hybrid"]["recall_converted"])
    assert re.findall(r"(?:reaches|is|recalls) ([\d.]+)%", text)[:3] == [f"{100 * value:.1f}" for value in said]


@pytest.mark.slow
def test_facts_are_recalled_from_their_own_vectors_only(tmp_path):
    check_compressor(quick("miniature_compressor", tmp_path), least=0.5, margin=0.2, lost=0.1)


def test_the_committed_compressor_reaches_the_goals():
    report = committed("miniature-compressor")
    assert (report["command"], report["seed"]) == ("python recipes/miniature_compressor.py", 0)
    assert report["goals"] == {"autocompressor 8x": 0.9, "autocompressor 16x": 0.9} and report["goals_reached"]
    assert report["vectors"] == {f"{ratio}x": report["text_tokens"] // ratio for ratio in (8, 16)}
    check_compressor(report, least=0.9, margin=0.5, lost=0.05)


def test_the_table_of_the_compressor_is_the_json():
    text, report = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8"), committed("miniature-compressor")
    for name, found in report["variants"].items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        kinds = ("recall", "another_text", "no_vectors", "dimensions_shuffled", "order_shuffled")
        assert re.findall(r"([\d.]+)%", row) == [f"{100 * found[kind]:.1f}" for kind in kinds]
