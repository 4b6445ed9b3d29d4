"""What the README and docs/results.md claim: every file they name is there, and their figures stand in the JSON."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longreach.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_linked_file_exists(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    for link in links:
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_the_readme_is_short():
    assert len(README.split()) <= 900


def test_no_placeholder_is_left():
    assert not re.findall(r"\b(?:DEMO|BENCH)_\w+|\bTODO\b", README + RESULTS)


def test_the_measured_table_is_the_json():
    name = re.search(r"benchmarks/results/(reader_\S+?\.json)", RESULTS)[1]
    report = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    rows = [line for line in RESULTS.splitlines() if line.startswith(("| compressing", "| ask"))]
    said = [float(re.search(r"\| ([\d.]+)(?: of|x)", row)[1]) for row in rows]
    ratios = [value["ratio"] for value in report["compression"].values()]
    first = report["first_token"]
    asks = [
        first[f"{what}, {state}"]["ask_over_bare"] for state in ("cold", "hot") for what in ("passages", "document")
    ]
    assert said == [round(value, 2) for value in ratios + asks]


def results(name):
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def hybrid(report):
    """What `bench model` found of decoding or of prefill."""
    return report["decode"][0] if "decode" in report else report["prefill"]


def of_cpu(report):
    part = "forward+backward" if report["what"] == "train" else "forward"
    return next(row for row in report["results"] if (row["impl"], row["part"]) == ("cpu", part))


def test_speed_ups_are_those_of_the_json():
    said = re.findall(r"([\d.]+)x, \[([\d.]+) of ideal\]\(\.\./benchmarks/results/(\S+?\.json)\)", RESULTS)
    assert len(said) == 9
    for speedup, share, name in said:
        report = results(name)
        if report["bench"] == "attention":
            found, ideal = of_cpu(report), "achieved_over_ideal"
        else:
            found = hybrid(report)["variants"]["hybrid"]
            ideal = "achieved_over_ideal" if "decode" in report else "achieved_over_ideal_equal_kernels"
        assert (f"{found['speedup']:.2f}", f"{found[ideal]:.2f}") == (speedup, share), name


def test_the_comparison_with_flex_attention_is_the_json():
    row = next(line for line in RESULTS.splitlines() if line.startswith("| sparse attention over FlexAttention"))
    kinds = ("16k", "32k", "16k-strided", "32k-strided")
    found = [of_cpu(results(f"attention-{kind}_cpu-2cores_2026-11-22.json"))["speedup_over_flex"] for kind in kinds]
    assert re.findall(r"([\d.]+)x", row.split("|")[2]) == [f"{value:.2f}" for value in found]


def test_the_saved_cache_is_the_json():
    rows = "\n".join(line.split("|")[2] for line in RESULTS.splitlines() if line.startswith("| KV cache allocated"))
    names = ("model-decode-32k", "model-decode-128k", "model-kv-32k")
    reports = [hybrid(results(f"{name}_cpu-2cores_2026-11-22.json")) for name in names]
    found = [f"{100 * report['kv_allocated_reduction']:.1f}" for report in reports]
    assert re.findall(r"-([\d.]+)%", rows) == found
    for report in reports:  # the arithmetic, in whole blocks; slots are taken ahead for the tokens to come
        figures = report["variants"]["hybrid"]
        assert 0 <= figures["kv_allocated_bytes"] / figures["kv_block_bytes"] - 1 < 0.002


def test_fine_tuning_is_the_json():
    report = results("finetune_cpu-2cores_2026-11-22.json")
    ours, once, rounds = report["variants"]["vectors"], report["compression"], report["rounds_seconds"]
    start = RESULTS.index("| documents learned a second")
    rows = RESULTS[start : RESULTS.index("Not measured yet", start)]
    after = once["speedup_after_epochs"]
    for said in (
        f"as {report['vectors']} vectors",
        f"{ours['processor_speedup']:.2f}x in processor time, {ours['ideal_speedup']:.2f}x by arithmetic",
        f">= {report['goal']}x",
        f"after {once['epochs_to_pay']:.2f} epochs; counted in, ",
        f"{after['1']:.2f}x after 1 epoch, {after['10']:.2f}x after 10",
        f"{report['paper']}x",
    ):
        assert said in rows
    pairs = list(zip(rounds["full"], rounds["vectors"], rounds["compression"], strict=True))
    assert "gave {:.0f}x and {:.0f}x".format(*(full / ours for full, ours, _ in pairs)) in " ".join(rows.split())
    paid = "{:.2f} and {:.2f} epochs".format(*(once / (full - ours) for full, ours, once in pairs))
    assert paid in " ".join(rows.split())
    assert ours["processor_speedup"] >= report["goal"] <= ours["speedup"]


def test_both_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_miniatures_are_those_of_the_json():
    rows = [
        line
        for line in RESULTS.splitlines()
        if line.startswith(("| full attention", "| hybrid, a", "| compressor, 8x"))
    ]
    rows.append(next(line for line in RESULTS.splitlines() if line.startswith("| mean pooling with a trained")))
    said = [[float(figure) for figure in re.findall(r"([\d.]+)%", row)] for row in rows]
    hybrids = results("miniature-hybrid_cpu-2cores_2026-11-22.json")["variants"]
    vectors = results("miniature-compressor_cpu-2cores_2026-11-22.json")["variants"]
    ours = [vectors[f"autocompressor {ratio}"] for ratio in ("8x", "16x")]
    found = [
        [hybrids["full"]["recall"], hybrids["sink-window"]["recall_beyond_reach"]],
        [hybrids["hybrid"]["recall"], hybrids["hybrid, full layers removed"]["recall_beyond_reach"]],
        [*(row["recall"] for row in ours), *(row["another_text"] for row in ours)],
        [*(vectors[f"mean-pool {ratio}"]["recall"] for ratio in ("8x", "16x")), 1 / 64],
    ]
    assert said == [[round(100 * share, 1) for share in row] for row in found]


def test_what_the_shipped_compressor_reaches_is_the_json():
    found = results("reading-fairytaleqa_cpu-2cores_2026-11-23.json")["readings"]
    full = results("reading-fairytaleqa-200_cpu-2cores_2026-11-22.json")["readings"]["full story"]
    within = "smollm2-weighted-pool 4x, passages within 1/16"
    named = [found[name] for name in (within, f"{within}, another story", "no context")] + [full]
    said = re.search(
        r"all ([\d,]+) questions .*? in 1/(\d+) .*? give ([\d.]+)\s.*?vectors ([\d.]+), no context ([\d.]+)\s"
        r".*?has ([\d.]+)\s",
        RESULTS,
        re.S,
    )
    assert said[1] == f"{found[within]['questions']:,}"
    assert int(said[2]) == full["positions"] // found[within]["positions"]
    assert list(said.groups()[2:]) == [f"{one['f1']:.1f}" for one in named]
    words = " ".join(README.split())
    assert f"On {said[1]} questions about 23 stories" in words
    assert f"in 1/{said[2]} of the story's positions answer with {said[3]} token F1" in words
    assert f"no context gives {said[5]}, and vectors of another story {said[4]}." in words


def test_what_the_shipped_hybrid_reaches_is_its_card():
    card = (ROOT / "models" / "smollm2-longgen-32k" / "README.md").read_text(encoding="utf-8")
    found = re.search(r"16384 to 32768 \| ([\d.]+) \| ([\d.]+) \|", card)
    saved = re.search(r"KV cache is ([\d.]+%) smaller", card)
    words = " ".join(README.split())
    assert f"KV cache that is {saved[1]} smaller at 32K" in words
    assert f"a perplexity of {float(found[1]):.1f} on tokens 16K to 32K" in words
    assert f"trained on the same tokens has {float(found[2]):.1f}" in words


def test_the_evidence_is_what_its_runs_say(tmp_path):
    folder = ROOT / re.search(r"\(\.\./(benchmarks/results/evidence_\w[^/]+)/", RESULTS)[1]
    evidence = json.loads((folder / "evidence.json").read_text(encoding="utf-8"))
    runs = [str(folder / name) for name in evidence["runs"]]
    assert len(runs) == 14 and all(run["state"] == "finished" for run in evidence["runs"].values())
    again = tmp_path / "report.md"
    done = CliRunner().invoke(app, ["report", *runs, "--out", str(tmp_path / "r.html"), "--markdown", str(again)])
    assert done.exit_code == 0, done.output
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert again.read_text(encoding="utf-8") == report
    shown = RESULTS[RESULTS.index("## Evidence") :]
    rows = [line for line in shown.splitlines() if line.startswith("| ") and not line.startswith(("| system", "| ---"))]
    assert len(rows) >= 15 and set(rows) <= set(report.splitlines())
    assert f"{evidence['seconds'] / 60:.0f} minutes" in shown
    quick = json.loads((folder.parent / folder.name.replace("_", "-quick_", 1)).with_suffix(".json").read_text())
    assert "eight and a half minutes" in shown and 8 * 60 < quick["seconds"] < 9 * 60
