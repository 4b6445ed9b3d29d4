"""`longreach extend`: from a stock model and files to a model with a longer window."""

import json

import pytest

import longreach

SMALL = ("--block-size", 8, "--local-blocks", 2, "--full-layers", 1)
RUN = ("--length", 128, "--max-steps", 2, "--batch-tokens", 256, "--held-out", 2, "--device", "cpu")


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": "the queen of hearts " * (1 + n % 5)}) + "\n" for n in range(16)))
    return path


def test_a_stock_model_is_converted_and_trained(run, models, data, tmp_path):
    out = tmp_path / "out"
    command = ("extend", models / "one", data, out, *SMALL, *RUN)
    result = run(*command, "--json")
    assert result.code == 0 and result.json["steps"] == 2 and result.json["model_type"] == "longreach_llama"
    assert "step 2/2  loss " in result.err and " tokens/s" in result.err and "perplexity" in result.err
    config = longreach.load(out, device="cpu")[0].config
    assert config.full_layers == [1] and config.sparse_attention["local_blocks"] == 2
    again = run(*command)
    assert again.code == 0 and "is done already" in again.err and "2 steps" in again.out


def test_lora_on_a_full_model(run, models, data, tmp_path):
    options = ("--lora", 2, "--train-norms", "--train-embeddings", "--schedule", "constant")
    result = run("extend", models / "one", data, tmp_path / "out", *RUN, *options)
    assert result.code == 0 and "held-out perplexity" in result.out
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()
    assert longreach.load(tmp_path / "out", device="cpu")[0].config.model_type == "llama"


def test_several_sources_and_others_for_testing(run, models, data, tmp_path):
    (tmp_path / "more.txt").write_text("off with his head " * 40)
    options = ("--eval-data", tmp_path / "more.txt", "--json")
    result = run("extend", models / "one", data, tmp_path / "more.txt", tmp_path / "out", *RUN, *options)
    assert result.code == 0 and result.json["held_out_documents"] == 1
    first, second = result.json["sources"]
    assert first["name"] == str(data) and first["share"] + second["share"] == pytest.approx(1)


def test_trackers_get_what_is_logged(run, models, data, tmp_path, monkeypatch):
    import transformers

    from longreach.training import extend

    asked = []
    monkeypatch.setattr(extend, "get_available_reporting_integrations", lambda: ["tensorboard", "wandb"])
    monkeypatch.setattr(
        transformers.trainer, "get_reporting_integration_callbacks", lambda names: asked.append(names) or []
    )
    options = ("--report-to", "tensorboard", "--report-to", "wandb")
    assert run("extend", models / "one", data, tmp_path / "out", *RUN, *options).code == 0
    assert asked == [["tensorboard", "wandb"]]


def test_bad_input_is_one_sentence(wrong, models, data, tmp_path):
    out, one = tmp_path / "out", models / "one"
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "good"}\n{"text": \n')
    wrong(1, ["bad.jsonl, line 2 does not parse"], "extend", one, bad, out, *RUN)
    (tmp_path / "empty.jsonl").write_text("")
    wrong(1, ["empty.jsonl holds no text"], "extend", one, tmp_path / "empty.jsonl", out, *RUN)
    wrong(1, ["nowhere.txt"], "extend", one, tmp_path / "nowhere.txt", out, *RUN)
    wrong(2, ["local window"], "extend", one, data, out, "--pattern", "strided", *RUN)
    wrong(2, ["max_steps is 0"], "extend", one, data, out, "--length", 64, "--max-steps", 0)
    wrong(2, ["no tracker 'nope'"], "extend", one, data, out, *RUN, "--report-to", "nope")
    wrong(2, ["--length"], "extend", one, data, out)
    wrong(2, ["no training run"], "extend", one, data, models, *RUN)
    assert not out.exists()


def test_a_hybrid_model_is_not_converted_again(run, wrong, models, data, tmp_path):
    hybrid = tmp_path / "hybrid"
    assert run("convert", models / "one", hybrid, *SMALL).code == 0
    wrong(2, ["hybrid model already"], "extend", hybrid, data, tmp_path / "out", *SMALL, *RUN)
    assert run("extend", hybrid, data, tmp_path / "out", *RUN).code == 0
    wrong(2, ["another run", "seed is 0 there and 1 here"], "extend", hybrid, data, tmp_path / "out", *RUN, "--seed", 1)
