"""`longreach convert`: a folder that every other command reads as a model."""

import json

import pytest
from transformers import AutoConfig

from tests.cli.conftest import TEXTS

SMALL = ("--block-size", 4, "--local-blocks", 4, "--stride", 8)


def test_a_converted_model_is_a_model(run, models, texts, tmp_path):
    out = tmp_path / "hybrid"
    result = run("convert", models / "one", out, *SMALL, "--full-layers", "0,2", "--max-length", 8192, "--json")
    assert result.code == 0 and result.json["full_layers"] == [0, 2] and result.json["max_length"] == 8192
    assert result.json["sparse_attention"] == {"block_size": 4, "sink_blocks": 1, "local_blocks": 4, "stride": 8}
    assert 0.2 < result.json["kv_reduction"] < 1 / 3
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "longreach_llama" and config["max_position_embeddings"] == 8192
    assert AutoConfig.from_pretrained(out).rope_parameters["rope_theta"] > 1e4
    store = ("--store", tmp_path / "store")
    assert run("ingest", texts, "--corpus", "c", "--model", out, "--ratio", 7, *store).code == 0
    answer = run("ask", "c", "Who stole the tarts?", "--max-new-tokens", 4, "--json", *store)
    assert answer.code == 0 and {passage["document"].rsplit("/")[-1] for passage in answer.json["passages"]} <= {*TEXTS}


def test_a_hybrid_model_keeps_its_pattern(run, models, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("convert", models / "one", first, *SMALL, "--full-layers", "0,2", "--max-length", 8192).code == 0
    again = run("convert", first, second, "--stride", 0, "--max-length", 16384, "--json").json
    assert again["sparse_attention"] == {"block_size": 4, "sink_blocks": 1, "local_blocks": 4, "stride": 0}
    assert again["full_layers"] == [0, 2] and again["max_length"] == 16384
    kept = run("convert", second, tmp_path / "third", "--stride", 4, "--json")
    assert kept.json["max_length"] == 16384 and kept.json["rope_parameters"] == again["rope_parameters"]
    assert "the window grows" not in kept.err


def test_it_says_what_it_made(run, models, tmp_path):
    result = run("convert", models / "one", tmp_path / "hybrid", "--full-layers", 1, "--rope", "1e6")
    assert result.code == 0 and "1 of 3 layers full, window 131,072 tokens" in result.out
    assert "convert: the window grows from" in result.err and "to 131,072" in result.err
    config = json.loads((tmp_path / "hybrid" / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 1e6


@pytest.mark.parametrize(
    "options, word",
    [
        (("--full-layers", 9), "0 to 3"),
        (("--full-layers", "1,x"), "middle-third"),
        (("--pattern", "dense"), "sink-window, strided"),
        (("--block-size", 48), "power of two"),
        (("--max-length", 100), "at least 1984"),
        (("--rope", "ntk"), "theta, yarn, linear"),
        (("--rope", "inf"), "such as 5e6"),
        (("--full-layers", ","), "indices such as 4,5,6"),
        (("--dtype", "float8_e4m3fn"), "float32, bfloat16 or float16"),
    ],
)
def test_wrong_values_are_one_sentence(run, models, tmp_path, options, word):
    result = run("convert", models / "one", tmp_path / "hybrid", *options)
    assert result.code == 2 and word in result.sentence and not (tmp_path / "hybrid").exists()


def test_nothing_is_overwritten(run, models, tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    result = run("convert", models / "one", tmp_path)
    assert result.code == 2 and "exists already" in result.sentence


def test_plan_compares_full_and_hybrid(run):
    result = run("plan", "--shape", "llama2-7b", "--length", "131072", "--hardware", "8xh100", "--json")
    assert result.code == 0
    assert result.json["full"]["kv_bytes"] == 131072 * 32 * 2 * 4096 * 2
    assert 0.6 < result.json["kv_reduction"] < 0.7 and result.json["prefill_speedup"] > 1.5
    assert "hybrid" in run("plan", "--shape", "smollm2").out
    for wrong in (
        ["--shape", "nope"],
        ["--shape", "smollm2", "--hardware", "0xh100"],
        ["--shape", "smollm2", "--length", "0"],
    ):
        refused = run("plan", *wrong)
        assert refused.code == 2 and "Traceback" not in refused.err
