"""`longreach extend`: from a stock model and files to a model with a longer window."""

import importlib.util
import json
import re
import sys

import pytest

import longreach

SMALL = ("--block-size", 8, "--local-blocks", 2, "--full-layers", 1)
RUN = ("--length", 128, "--steps", 2, "--batch-tokens", 256, "--held-out", 2, "--device", "cpu")


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
    options = ("--lora-rank", 2, "--train-norms", "--train-embeddings", "--schedule", "constant")
    result = run("extend", models / "one", data, tmp_path / "out", *RUN, *options)
    assert result.code == 0 and "held-out perplexity" in result.out
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()
    assert longreach.load(tmp_path / "out", device="cpu")[0].config.model_type == "llama"


def test_several_sources_and_others_for_testing(run, models, data, tmp_path):
    (tmp_path / "more.txt").write_text("off with his head " * 40)
    options = ("--evaluation", tmp_path / "more.txt", "--json")
    result = run("extend", models / "one", data, tmp_path / "more.txt", tmp_path / "out", *RUN, *options)
    assert result.code == 0 and result.json["held_out_documents"] == 1
    first, second = result.json["sources"]
    assert first["name"] == str(data) and first["share"] + second["share"] == pytest.approx(1)


def test_progress_says_loss_speed_and_time_left(run, models, data, tmp_path):
    said = run("extend", models / "one", data, tmp_path / "out", *RUN).err
    assert re.search(r"step 2/2  loss \d+\.\d{4}  [\d,]+ tokens/s  lr \d\.\d\de-\d\d  0:00:00 left\n", said)


TENSORBOARD = """
import json, pathlib

class SummaryWriter:
    def __init__(self, log_dir):
        self.path = pathlib.Path(log_dir)
        self.path.mkdir(parents=True, exist_ok=True)

    def add_scalar(self, name, value, step):
        with (self.path / "scalars.jsonl").open("a") as file:
            file.write(json.dumps([name, value, step]) + "\\n")

    def add_text(self, *args):
        pass

    def flush(self):
        pass

    def close(self):
        pass
"""


def test_tensorboard_gets_what_is_logged(run, models, data, tmp_path, monkeypatch):
    (tmp_path / "tensorboardX.py").write_text(TENSORBOARD)  # transformers' own callback writes to it
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delitem(sys.modules, "tensorboardX", raising=False)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    out = tmp_path / "out"
    assert run("extend", models / "one", data, out, *RUN, "--report-to", "tensorboard").code == 0
    (file,) = out.rglob("scalars.jsonl")
    scalars = {(name, step): value for name, value, step in map(json.loads, file.read_text().splitlines())}
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for line in logged:
        for name, value in line.items():
            where = f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"
            assert name == "step" or scalars[where, line["step"]] == value
    assert all((name, 2) in scalars for name in ("train/tokens_per_second", "eval/perplexity"))
    assert {step for name, step in scalars if name == "train/loss"} == {1, 2}


@pytest.mark.parametrize("command", ["extend", "pretrain"])
@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed(wrong, models, data, tmp_path, monkeypatch, command, tracker):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.startswith(tracker) else find(name, *rest)
    )
    options = RUN if command == "extend" else ("--device", "cpu")
    sentence = wrong(
        1, [f"pip install {tracker}", "--report-to"], command, models / "one", data, tmp_path / "out", *options,
        "--report-to", tracker,
    )  # fmt: skip
    assert sentence.count(".") == 1 and not (tmp_path / "out").exists()


def test_bad_input_is_one_sentence(wrong, models, data, tmp_path):
    out, one = tmp_path / "out", models / "one"
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "good"}\n{"text": \n')
    wrong(2, ["Line 2 of", "bad.jsonl' is not JSON"], "extend", one, bad, out, *RUN)
    (tmp_path / "empty.jsonl").write_text("")
    wrong(1, ["empty.jsonl holds no text"], "extend", one, tmp_path / "empty.jsonl", out, *RUN)
    wrong(1, ["nowhere.txt"], "extend", one, tmp_path / "nowhere.txt", out, *RUN)
    wrong(2, ["local window"], "extend", one, data, out, "--pattern", "strided", *RUN)
    wrong(2, ["steps is 0"], "extend", one, data, out, "--length", 64, "--steps", 0)
    wrong(2, ["no tracker 'nope'"], "extend", one, data, out, *RUN, "--report-to", "nope")
    wrong(2, ["--length"], "extend", one, data, out)
    wrong(2, ["no run"], "extend", one, data, models, *RUN)
    assert not out.exists()


def test_a_hybrid_model_is_not_converted_again(run, wrong, models, data, tmp_path):
    hybrid = tmp_path / "hybrid"
    assert run("convert", models / "one", hybrid, *SMALL).code == 0
    wrong(2, ["hybrid model already"], "extend", hybrid, data, tmp_path / "out", *SMALL, *RUN)
    assert run("extend", hybrid, data, tmp_path / "out", *RUN).code == 0
    wrong(2, ["another run", "seed is 0 there and 1 here"], "extend", hybrid, data, tmp_path / "out", *RUN, "--seed", 1)
