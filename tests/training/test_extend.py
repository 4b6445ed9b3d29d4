"""Extending a window: it learns, it goes on after being killed, and what cannot work is said in one sentence."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import longreach
from longreach.errors import TrainingError, UsageError
from longreach.models.hybrid.sparse import SparseAttention
from longreach.training.common import run
from longreach.training.common.checkpoints import last_checkpoint
from longreach.training.extend.data import Data, Samples
from longreach.training.extend.extend import extend
from longreach.training.extend.objective import chunked_loss
from longreach.training.extend.settings import ExtendSettings
from longreach.training.extend.trainer import LongTrainer
from tests.conftest import SHAPE, make_model, make_tokenizer
from tests.training import interrupted
from tests.training.conftest import make_hybrid, write_texts

ROOT = Path(__file__).parents[2]
FAST = {"length": 128, "steps": 5, "batch_tokens": 512, "held_out": 2, "learning_rate": 1e-2, "eval_every": 100}


def start(script, *arguments, processes=1):
    """A script of this folder in processes of its own."""
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
    command = [sys.executable, *(launcher if processes > 1 else ()), str(ROOT / "tests" / "training" / script)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.fixture
def train(texts, tmp_path):
    """Extends a tiny hybrid model."""

    def call(model=None, name="out", **settings):
        model = make_hybrid() if model is None else model
        return extend(
            model,
            make_tokenizer(),
            [texts],
            tmp_path / name,
            ExtendSettings(**(FAST | settings)),
            device="cpu",
            cache=tmp_path / "cache",
            say=lambda text: None,
        )

    return call


def test_it_learns_and_the_result_is_a_model(train, tmp_path):
    before = make_hybrid().state_dict()
    report = train(steps=8)
    assert report["perplexity"]["after"]["all"] < 0.5 * report["perplexity"]["before"]["all"]
    assert report["loss"]["last"] < report["loss"]["first"] - 1 and report["steps"] == 8
    assert report["peak_memory_bytes"] is None and 0 < report["padding_share"] < 0.5
    assert report == json.loads((tmp_path / "out" / "training.json").read_text())
    assert [step for step, _ in losses(tmp_path / "out")] == [*range(1, 9)]
    model, tokenizer = longreach.load(tmp_path / "out", device="cpu")
    assert model.config.model_type == "longreach_llama" and model.config.use_cache
    assert tokenizer("alice")["input_ids"] == make_tokenizer()("alice")["input_ids"]
    assert all(not torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("also", [(), ("norms",), ("embeddings",)])
def test_lora_trains_what_it_is_asked_to_and_nothing_else(train, tmp_path, also):
    before = make_hybrid().state_dict()
    report = train(lora_rank=2, train_norms="norms" in also, train_embeddings="embeddings" in also)
    assert report["loss"]["last"] < report["loss"]["first"]
    model, _ = longreach.load(tmp_path / "out", device="cpu")
    for name, weight in model.state_dict().items():
        projection = any(f"{x}_proj" in name for x in "qkvo")
        norm, embedding = "norm" in name, "embed_tokens" in name or "lm_head" in name
        expected = projection or (norm and "norms" in also) or (embedding and "embeddings" in also)
        assert torch.equal(weight, before[name]) != expected, name
    adapter = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert any("lora_A" in name for name in adapter)
    assert report["trained_parameters"] == sum(weight.numel() for weight in adapter.values())


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_losses(texts, tmp_path):
    steps, killed, whole = 60, tmp_path / "killed", tmp_path / "whole"
    process = start("interrupted.py", texts, killed, tmp_path / "cache", steps)
    deadline = time.monotonic() + 120
    while last_checkpoint(killed) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()  # SIGKILL
    assert process.wait() == -9, process.stdout.read()
    assert run.report_of(killed) is None
    lines = []
    report = interrupted.train(texts, killed, tmp_path / "cache", steps, lines.append)
    assert report["resumed_from_step"] >= 2 and any(line.startswith("Resuming from checkpoint-") for line in lines)
    interrupted.train(texts, whole, tmp_path / "cache", steps, lines.append)
    assert losses(killed) == losses(whole) and len(losses(whole)) == steps
    for name, weight in load_file(whole / "model.safetensors").items():
        assert torch.equal(weight, load_file(killed / "model.safetensors")[name])


@pytest.mark.parametrize(
    "settings, shape",
    [
        ({"lora_rank": 2, "train_norms": True, "train_embeddings": True}, {"tie_word_embeddings": True}),
        ({"lora_rank": 2, "train_norms": True, "train_embeddings": True, "dtype": "bfloat16"}, {}),
        ({"dtype": "bfloat16", "batch_size": 2}, {"tie_word_embeddings": True}),
    ],
)
def test_adapters_and_low_precision_go_on_to_the_same_losses(train, tmp_path, monkeypatch, settings, shape):
    settings |= {"steps": 6, "save_every": 3}
    train(model=make_hybrid(**shape), name="whole", **settings)
    step = LongTrainer.training_step

    def interrupt(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LongTrainer, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(model=make_hybrid(**shape), **settings)
    report = train(model=make_hybrid(**shape), **settings)
    assert report["resumed_from_step"] == 3
    assert losses(tmp_path / "out") == losses(tmp_path / "whole") and len(losses(tmp_path / "out")) == 6
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out")]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes did: a folder with their run, and how far parts of weights are from whole ones."""
    folder = tmp_path_factory.mktemp("ranks")
    write_texts(folder / "texts")
    process = start("ranks.py", folder / "texts", folder, folder / "cache", 4, processes=2)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    return folder


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(ranks):
    interrupted.train(ranks / "texts", ranks / "one", ranks / "cache", 4, lambda text: None)
    two, one = losses(ranks / "two"), losses(ranks / "one")
    assert [step for step, _ in two] == [step for step, _ in one] == [1, 2, 3, 4]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-4)
    reports = [run.report_of(ranks / name)["perplexity"] for name in ("one", "two")]
    assert reports[0]["after"] == pytest.approx(reports[1]["after"], rel=1e-3)


@pytest.mark.slow
def test_parts_of_weights_learn_and_save_what_whole_ones_do(ranks):
    found = json.loads((ranks / "found.json").read_text())
    assert len(found) == 3
    for same, *differences in found:
        assert same and max(map(abs, differences)) < 1e-5


def test_every_token_of_a_step_counts_alike(train, texts, tmp_path):
    settings = ExtendSettings(**(FAST | {"batch_tokens": 1024}))
    report = train(batch_tokens=1024, steps=1)
    data = Data.make([texts], make_tokenizer(), settings.mix, held_out=2, cache=tmp_path / "cache")
    total = count = 0
    with chunked_loss(make_hybrid()) as model, torch.no_grad():
        for sample in (Samples(data, 8)[index] for index in range(8)):
            predicted = int((sample["labels"] != -100).sum())
            total, count = total + predicted * float(model(**sample).loss), count + predicted
    assert report["loss"]["first"] == pytest.approx(total / count, rel=1e-5)
    assert len({data.order.tokens(index) for index in range(8)}) > 1  # a mean of means would be another number


def test_checkpointing_changes_memory_and_not_losses(train, tmp_path):
    train(name="with")
    train(name="without", checkpointing=False)
    assert [x for _, x in losses(tmp_path / "with")] == pytest.approx([x for _, x in losses(tmp_path / "without")])


def test_bfloat16_on_every_layer(train, tmp_path, monkeypatch):
    seen = set()
    attend = SparseAttention._attend

    def watch(self, q, k, v, *rest):
        if q.shape[-1] == SHAPE["head_dim"]:  # not the twin that the self-check makes, which is always in float32
            seen.update((q.dtype, k.dtype, v.dtype))
        return attend(self, q, k, v, *rest)

    monkeypatch.setattr(SparseAttention, "_attend", watch)
    for name, options in (("full", {}), ("lora_rank", {"lora_rank": 4, "train_norms": True, "train_embeddings": True})):
        report = train(name=name, dtype="bfloat16", **options)
        assert seen == {torch.bfloat16} and report["loss"]["last"] < report["loss"]["first"] - 0.3
    kept = load_file(tmp_path / "full" / "model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {torch.float32}


def test_a_full_model_gets_a_longer_window(train, tmp_path):
    model = make_model(max_position_embeddings=64)
    theta = model.config.rope_parameters["rope_theta"]
    train(model=model)
    loaded, _ = longreach.load(tmp_path / "out", device="cpu")
    assert loaded.config.model_type == "llama" and loaded.config.max_position_embeddings == 128
    assert loaded.config.rope_parameters["rope_theta"] == pytest.approx(theta * 2**1.8)
    ids = torch.arange(100)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)  # the rotary embedding in use is that of the config


@pytest.mark.parametrize("amount, steps", [({"tokens": 2000}, range(4, 7)), ({}, range(2, 12))])
def test_tokens_or_the_data_once_decide_how_many_steps(train, amount, steps):
    report = train(steps=None, **amount)
    assert report["steps"] in steps and report["tokens"] >= amount.get("tokens", 0)
    if not amount:
        assert 1 <= report["epochs"] < 1.4


def test_what_is_done_is_not_done_again(train, tmp_path):
    first = train()
    weights = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert train(save_every=3, report_to=("none",)) == first  # settings that decide nothing may differ
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == weights


def test_a_run_that_was_killed_while_its_result_was_written_writes_it_again(train, tmp_path, monkeypatch):
    first = train(lora_rank=2)
    for name in ("training.json", "config.json", "model.safetensors"):
        (tmp_path / "out" / name).unlink()
    monkeypatch.setattr(LongTrainer, "training_step", None)  # nothing is left to learn
    again = train(lora_rank=2)
    different = {key for key in first if first[key] != again[key]}
    assert different == {"seconds", "resumed_from_step"} and again["resumed_from_step"] == 5
    longreach.load(tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    "change, words", [({"seed": 1}, "seed is 0 there and 1 here"), ({"length": 64}, "length is 128")]
)
def test_a_folder_of_another_run_is_refused(train, change, words):
    train()
    with pytest.raises(UsageError, match=words):
        train(**change)


def test_another_model_is_another_run(train):
    train()
    with pytest.raises(UsageError, match="model is"):
        train(model=make_hybrid(seed=5))


@pytest.mark.parametrize(
    "options, lower",
    [
        ({"batch_size": 3}, r"lower --batch-size \(it is 3\)"),
        ({}, r"--lora-rank 16, or --length \(it is 128\)"),
        ({"lora_rank": 2}, r"lower --length"),
        ({"checkpointing": False}, "--no-checkpointing"),
    ],
)
def test_out_of_memory_says_what_to_lower(train, monkeypatch, options, lower):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("longreach.training.extend.objective.chunked_cross_entropy", fail)
    with pytest.raises(TrainingError, match=f"Out of memory: .*{lower}.*last checkpoint stays"):
        train(held_out=0, **options)


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/1"),
    ],
)
def test_a_full_disk_says_so(train, tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(LongTrainer, "_save", fail)
    with pytest.raises(TrainingError, match="does not fit on the disk: free some space"):
        train(held_out=0)


def test_a_length_below_the_local_window_is_refused(train, tmp_path):
    with pytest.raises(UsageError, match=r"15 tokens and the pattern's local window 16 \(2 blocks of 8\)"):
        train(length=15)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"steps": 0}, "steps is 0"),
        ({"tokens": 5}, "give one of them"),
        ({"schedule": "linear"}, "cosine or constant"),
        ({"train_norms": True}, "go with lora"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"warmup": 2}, "0 to 1"),
        ({"dtype": "float16"}, "bfloat16 or float32"),
        ({"length": 1}, "at least 2"),
    ],
)
def test_wrong_settings_are_refused(change, words):
    with pytest.raises(UsageError, match=words):
        ExtendSettings(**(FAST | change))


def test_a_device_that_is_not_there_is_refused(texts, tmp_path):
    for device in ("cuda:1", "tpu") if torch.cuda.is_available() else ("cuda:1", "tpu", "cuda"):
        with pytest.raises(UsageError, match="device"):
            extend(make_hybrid(), make_tokenizer(), [texts], tmp_path / "o", ExtendSettings(**FAST), device=device)
