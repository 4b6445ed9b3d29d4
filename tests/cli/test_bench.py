"""`longreach bench`: one JSON object, the same in a file, a table for people, one sentence for every mistake."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from longreach.cli.bench_tables import finetune_table
from longreach.cli.output import memory_said
from longreach.pattern import AttentionPattern, LayerPlan

SMALL = ("--block-size", 4, "--sink-blocks", 1, "--local-blocks", 2, "--stride", 3)
ATTENTION = ("bench", "attention", "--device", "cpu", "--length", 45, "--impl", "cpu", "--repeats", 1, *SMALL)
PATTERN = AttentionPattern(4, 1, 2, 3)
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture
def model(models):
    return ("bench", "model", "--device", "cpu", "--model", models / "one", "--length", 45, "--repeats", 1, *SMALL)


def test_attention_is_one_json_object_here_and_in_the_file(run, tmp_path):
    result = run(*ATTENTION, "--json", "--out", tmp_path / "out.json", "--plot", tmp_path / "out.png")
    assert result.code == 0, result
    report = result.json
    assert json.loads((tmp_path / "out.json").read_text()) == report
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert {"command", "date", "hardware", "versions", "notes"} <= set(report) and "round 1 of 1" in result.err
    seen = int(PATTERN.mask(45, 45, 3).sum())
    base, ours = report["results"]
    assert (base["impl"], ours["impl"]) == ("sdpa", "cpu") and report["source"] == "smollm2"
    assert report["density"] == seen / (3 * 45 * 46 // 2) and ours["ideal_speedup"] == 1 / report["density"]
    assert ours["flops"] == 4 * 64 * 3 * seen and base["flops"] == 4 * 64 * 9 * 45 * 46 // 2
    assert report["pattern"] == {"block_size": 4, "sink_blocks": 1, "local_blocks": 2, "stride": 3}


@pytest.mark.parametrize("what, parts", [("forward", 1), ("train", 3), ("decode", 1)])
def test_attention_prints_a_row_for_each_part_and_implementation(run, what, parts):
    lines = run(*ATTENTION, "--what", what).out.splitlines()
    assert lines[0].split()[:3] == ["part", "impl", "seconds"] and len(lines) == 1 + 2 * parts + 2
    assert [line.split()[1] for line in lines[1:-2]] == ["sdpa", "cpu"] * parts
    assert lines[-1] == "baseline: torch.nn.functional.scaled_dot_product_attention, causal (default)"


def test_the_default_is_what_this_device_can(run, monkeypatch):
    from longreach.kernels import flex, reference

    monkeypatch.setattr(flex, "attend", reference.attend)  # compiling it takes long, and is tested elsewhere
    report = run(*ATTENTION[:6], "--repeats", 1, *SMALL, "--json")
    assert [row["impl"] for row in report.json["results"]] == ["sdpa", "cpu", "flex"]
    train = run(*ATTENTION[:6], "--repeats", 1, *SMALL, "--what", "train", "--json")
    assert {row["impl"] for row in train.json["results"]} == {"sdpa", "cpu"} and "no backward pass" in train.err


def test_model_counts_bytes_and_work_exactly(run, model, tmp_path):
    result = run(*model, "--what", "prefill,decode,train", "--new-tokens", 2, "--json", "--out", tmp_path / "m.json")
    assert result.code == 0, result
    report = result.json
    assert json.loads((tmp_path / "m.json").read_text()) == report
    layers = LayerPlan.make(3)
    assert report["full_layers"] == list(layers.full) == [1] and report["sparse_layers"] == 2
    full, hybrid = (report["prefill"]["variants"][name] for name in ("full", "hybrid"))
    assert full["kv_allocated_bytes"] == full["kv_bytes"] == 2 * 3 * 45 * 2 * 8 * 4
    assert hybrid["kv_bytes"] == sum(layers.kv_bytes(PATTERN, 45, 2, 8, 4))
    assert hybrid["kv_allocated_bytes"] == hybrid["kv_block_bytes"] >= hybrid["kv_bytes"]
    hidden = sum(2 * (45 * 46 // 2) - sum(PATTERN.visited(45, 2, layer)) for layer in layers.sparse)
    assert full["flops"] - hybrid["flops"] == 4 * 8 * 2 * hidden
    (decode,) = report["decode"]
    moved = {name: figures["bytes"] - figures["kv_bytes"] for name, figures in decode["variants"].items()}
    assert moved == {"full": report["weights_bytes"], "hybrid": report["weights_bytes"]}
    assert len(decode["rounds_seconds"]["hybrid"]) == 2 and not decode["graphs"]
    assert report["train"]["ideal_speedup"] > 1 and report["slice"] is None


def test_model_prints_a_row_for_each_model(run, model, tmp_path):
    result = run(*model, "--what", "decode,train", "--new-tokens", 1, "--layers", 2, "--plot", tmp_path / "m.svg")
    lines = result.out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        [what, name] for what in ("decode", "train") for name in ("full", "hybrid")
    ]
    assert "a slice: 2 of 3 layers" in result.err and (tmp_path / "m.svg").read_text().startswith("<?xml")


def test_a_shape_has_random_weights_of_its_own(run):
    options = ("--layers", 1, "--full-layers", 0, "--length", 9, "--what", "prefill", "--repeats", 1, *SMALL, "--json")
    report = run("bench", "model", "--device", "cpu", "--shape", "smollm2", *options).json
    assert report["slice"] == {"layers": 1, "of": 30, "full_layers_of_all": 0} and report["sparse_layers"] == 1
    assert report["shape"]["hidden"] == 576 and report["weights_bytes"] > 4 * 49152 * 576


@pytest.mark.parametrize(
    "options, words",
    [
        (("--shape", "gpt-5"), ("gpt-5", "smollm2", "llama2-7b")),
        (("--impl", "fast"), ("fast", "reference, cpu, flex, triton")),
        (("--impl", ","), ("at least one",)),
        (("--pattern", "dense"), ("dense", "sink-window, strided")),
        (("--block-size", 48), ("48", "power of two")),
        (("--length", 0), ("length", "at least 1")),
        (("--rows", 0), ("rows", "at least 1")),
        (("--what", "backwards"), ("backwards", "forward, train, decode")),
        (("--plot", "chart.pdf"), ("chart.pdf", ".png or .svg")),
        (("--out", "no/such/folder/a.json"), ("a.json", "folder that exists")),
    ],
)
def test_wrong_attention_options(wrong, options, words):
    wrong(2, words, *ATTENTION, *options)


@pytest.mark.parametrize(
    "options, words",
    [
        (("--shape", "gpt-5"), ("gpt-5", "llama2-7b")),
        ((), ("shape", "model")),
        (("--shape", "smollm2", "--length", -1), ("length", "at least 1")),
        (("--shape", "smollm2", "--new-tokens", 0), ("new_tokens", "at least 1")),
        (("--shape", "smollm2", "--layers", 31), ("31", "1 to 30")),
        (("--shape", "smollm2", "--full-layers", "40"), ("40", "0 to 30")),
        (("--shape", "smollm2", "--pattern", "dense"), ("sink-window, strided",)),
        (("--shape", "smollm2", "--what", "prefil"), ("prefil", "prefill, decode, train")),
        (("--shape", "smollm2", "--layers", 1, "--what", "decode", "--length", 4, "--graphs"), ("GPU",)),
    ],
)
def test_wrong_model_options(wrong, options, words):
    wrong(2, words, "bench", "model", "--device", "cpu", *options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "command", [("attention",), ("model", "--shape", "smollm2"), ("finetune", "--shape", "smollm2"), ("reader",)]
)
def test_a_gpu_that_is_not_there(wrong, command):
    wrong(2, ("no device 'cuda'", "use cpu"), "bench", *command, "--device", "cuda")


def test_out_of_memory_says_what_to_lower(wrong, models):
    huge = ("--device", "cpu", "--length", 10**12)
    wrong(1, ("Out of memory", "--length or --rows"), "bench", "attention", *huge, "--impl", "cpu")
    wrong(1, ("Out of memory", "--length or --rows"), "bench", "finetune", "--model", models / "one", *huge)
    words = ("Out of memory", "--length, --rows or --layers")
    wrong(1, words, "bench", "model", "--shape", "smollm2", "--layers", 1, "--what", "prefill", *huge)


def test_a_gpu_out_of_memory_is_the_same(wrong, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("longreach.bench.attention.run", full)
    wrong(1, ("Out of memory", "--length or --rows"), *ATTENTION)


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError, match="else"), memory_said("--length", False):
        raise RuntimeError("something else")


def test_a_plot_without_matplotlib(wrong, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name))
    monkeypatch.setattr("longreach.bench.attention.run", lambda *args: pytest.fail("measured before it was refused"))
    words = ("not installed", "pip install -c constraints.txt matplotlib")
    wrong(1, words, *ATTENTION, "--plot", tmp_path / "a.png")


@pytest.fixture
def finetune(models):
    options = ("--length", 60, "--ratio", 10, "--qa-tokens", 5, "--repeats", 1, "--device", "cpu")
    return ("bench", "finetune", "--model", models / "one", *options)


def test_finetune_is_one_json_object_with_the_keys_of_the_published_report(run, finetune, tmp_path):
    result = run(*finetune, "--rows", 2, "--json", "--out", tmp_path / "out.json")
    assert result.code == 0, result
    report = result.json
    assert json.loads((tmp_path / "out.json").read_text()) == report
    (published,) = RESULTS.glob("finetune_*.json")
    assert keys(json.loads(published.read_text())) <= keys(report)
    assert (report["length_tokens"], report["vectors"], report["qa_tokens"], report["rows"]) == (60, 6, 5, 2)
    assert [report["variants"][name]["positions"] for name in ("full", "vectors")] == [65, 11]
    assert "round 1 of 1: full, vectors, compression" in result.err


def test_finetune_prints_a_row_for_each_part_and_what_it_comes_to(run, finetune):
    lines = run(*finetune).out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["full", "vectors", "compression"]
    assert "FLOPs say" in lines[0] and "goal 11.5x" in lines[5] and "11.52x" in lines[5]
    assert "compressing pays after" in lines[6] or "never pays" in lines[6]


def test_finetune_says_whether_the_goal_was_reached(capsys):
    part = {"positions": 9, "seconds": 1.0, "documents_per_second": 1.0, "peak_memory_bytes": None}
    report = {
        "variants": {"vectors": part | {"speedup": 11.5}},
        "compression": part | {"epochs_to_pay": 0.25, "speedup_after_epochs": {"1": 2.0, "3": 5.0}},
        "goal": 11.5,
        "paper": 11.52,
    }
    finetune_table(report)
    said = capsys.readouterr().out
    assert "(goal reached)" in said and "pays after 0.25 epochs; with it counted, 2.00x after 1, 5.00x after 3" in said
    report["variants"]["vectors"]["speedup"], report["compression"]["epochs_to_pay"] = 11.4, None
    finetune_table(report)
    said = capsys.readouterr().out
    assert "(goal MISSED)" in said and "never pays" in said


@pytest.mark.parametrize(
    "options, words",
    [
        ((), ("shape", "model")),
        (("--shape", "gpt-5"), ("gpt-5", "llama2-7b")),
        (("--shape", "smollm2", "--ratio", 0), ("ratio is 0",)),
        (("--shape", "smollm2", "--length", 20), ("ratio is 30", "at most the length, 20")),
        (("--shape", "smollm2", "--out", "no/such/folder/a.json"), ("a.json", "folder that exists")),
    ],
)
def test_wrong_finetune_options(wrong, options, words):
    wrong(2, words, "bench", "finetune", "--device", "cpu", *options)


@pytest.mark.slow
def test_the_reader_is_measured_with_the_keys_of_the_published_report(run, models, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Alice fell down the rabbit hole. She was very surprised.\n" * 60)
    options = ("--model", models / "one", "--device", "cpu", "--repeats", 1)
    result = run("bench", "reader", "--text", text, *options, "--json", "--out", tmp_path / "out.json")
    assert result.code == 0, result
    report = result.json
    assert json.loads((tmp_path / "out.json").read_text()) == report
    (published,) = RESULTS.glob("reader_*.json")
    assert keys(json.loads(published.read_text())) <= keys(report)
    compressed = report["compression"]["mean-pool 1536"]
    assert compressed["tokens"] == 3072 and compressed["ratios"] == [compressed["ratio"]]
    asked = report["first_token"]["document, cold"]
    assert len(asked["pairs"]) == 4  # five questions, the first of which warms up
    ratios = sorted(ours / bare for ours, bare in asked["pairs"])
    assert asked["ask_over_bare"] == pytest.approx((ratios[1] + ratios[2]) / 2)
    short = tmp_path / "short.txt"
    short.write_text("Alice.")
    refused = run("bench", "reader", "--text", short, *options)
    assert refused.code == 2 and "at least 3,072" in refused.sentence
    missing = run("bench", "reader", "--text", tmp_path / "none.txt", *options)
    assert missing.code == 2 and "--text" in missing.sentence


def keys(value, path=""):
    """All paths of keys in a report, numbers and lists being leaves."""
    if not isinstance(value, dict):
        return {path}
    return {path} | {found for name, inner in value.items() for found in keys(inner, f"{path}/{name}")}


def test_the_reader_is_described_in_lines():
    from longreach.bench.reader import lines

    report = {
        "start_seconds": {"import longreach": 0.02, "longreach --help": 0.4},
        "compression": {"mean-pool": {"tokens_per_second": 360.0, "ratio": 0.92}},
        "first_token": {
            "ingest_tokens_per_second": 450.0,
            "passages, cold": {"seconds": 1.0, "positions": 563, "ask_over_bare": 2.5},
        },
    }
    found = lines(report)
    assert [line.endswith("(goal reached)") for line in found] == [True, False, True, False]
    assert "563 positions, 2.50x a bare prefill" in found[-1]
