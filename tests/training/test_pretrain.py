"""`pretrain`: what it leaves behind, going on after a kill, and what stops it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from longreach import AutoCompressor, Document
from longreach.compressors.autocompressor.objective import TextObjective
from longreach.compressors.autocompressor.recipe import AutoCompressorRecipe
from longreach.errors import DocumentError, ModelError, TrainingError, UsageError
from longreach.training.common.checkpoints import CHECKPOINTS, step_of, whole_checkpoints
from longreach.training.pretrain.pretrain import pretrain
from longreach.training.pretrain.schedule import Schedule
from tests.conftest import make_model, make_tokenizer

TEXT = "The rabbit had a watch, looked at it, and hurried on down the hole. "
RECIPE = AutoCompressorRecipe(segment_tokens=20, summary_tokens=5, min_summary_tokens=1, lora_rank=2, lora_alpha=4)
SCHEDULE = Schedule(steps=6, batch_size=2, accumulate=2, learning_rate=1e-2, save_every=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"Chapter {number}. " + TEXT * 20)
    return folder


def train(base, data, out, recipe=RECIPE, schedule=SCHEDULE, **options):
    options = {"cache": base.parent / "tokens", "device": "cpu"} | options
    return pretrain(base, [data], out, recipe, schedule, **options)


def log(folder):
    return json.loads((whole_checkpoints(folder)[-1] / "trainer_state.json").read_text())["log_history"]


def losses(folder):
    return {entry["step"]: entry["loss"] for entry in log(folder) if "loss" in entry}


@pytest.fixture(scope="module")
def whole(base, data, tmp_path_factory):
    """A run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, train(base, data, out)


def test_the_result_is_a_compressor(whole, base):
    out, report = whole
    assert (report.steps, report.resumed_at, report.tokens) == (6, 0, 6 * 2 * 2 * 80) and report.seconds > 0
    assert report.last_loss < report.first_loss - 0.1
    loaded = AutoCompressor.from_pretrained(out, ratio=10)  # finds its base model by itself
    assert loaded.describe() | {"method": ""} == {
        "method": "",
        "summary_tokens": 2,
        "segment_tokens": 20,
        "mode": "accumulate",
    }
    ids = list(TEXT.encode())
    untrained = AutoCompressor(make_model(), make_tokenizer(), 2, 20)
    assert (loaded.compress([ids])[0] - untrained.compress([ids])[0]).abs().max() > 1e-2


def test_checkpoints_are_small_and_whole(whole, base):
    out, _ = whole
    assert [path.name for path in whole_checkpoints(out)] == ["checkpoint-4", "checkpoint-6"]
    of_base = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    for checkpoint in whole_checkpoints(out):
        names = {path.name for path in checkpoint.iterdir()}
        assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= names
        assert not names & {"model.safetensors", "pytorch_model.bin", "training_args.bin"}
        assert (checkpoint / "adapter_model.safetensors").stat().st_size < of_base / 2
    first, last = (AutoCompressor.from_pretrained(path) for path in whole_checkpoints(out))
    assert first.fingerprint != last.fingerprint == AutoCompressor.from_pretrained(out).fingerprint


def test_a_model_in_bfloat16_is_trained_in_float32(base, data, whole, tmp_path):
    recipe = replace(RECIPE, reconstruction=0.5, distillation=0.5)
    report = train(base, data, tmp_path / "out", recipe, dtype="bfloat16")
    assert report.last_loss < report.first_loss - 0.1
    trained = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    assert AutoCompressor.from_pretrained(tmp_path / "out").compress([[1] * 30])[0].isfinite().all()
    (logged,) = [e for e in log(tmp_path / "out") if e["step"] == 6 and "loss" in e]
    assert logged["loss"] == pytest.approx(logged["lm"] + 0.5 * logged["reconstruction"] + 0.5 * logged["distillation"])


def test_substeps_share_a_draw_and_pass_on_vectors_without_gradients(base, data, tmp_path, monkeypatch):
    calls, real = [], TextObjective.forward

    def recorded(self, **given):
        names = ("ids", "labels", "lengths", "summary_tokens", "vectors")
        calls.append([given.get(name) for name in names])
        return real(self, **given)

    monkeypatch.setattr(TextObjective, "forward", recorded)
    train(base, data, tmp_path / "out", schedule=replace(SCHEDULE, steps=3))
    assert len(calls) == 3 * 2 * 2
    for first, second in zip(calls[::2], calls[1::2], strict=True):
        ids, labels = (torch.cat([first[i], second[i]], dim=1) for i in (0, 1))
        assert torch.equal(labels[:, :-1], ids[:, 1:]) and (labels[:, -1] == -100).all()
        assert first[3] == second[3] and sum(first[2]) == sum(second[2]) == 40
        assert first[4] is None and second[4].shape == (2, 2 * first[3], 32) and not second[4].requires_grad
    assert len({call[2] for call in calls}) > 3 and len({call[3] for call in calls}) > 1


def test_a_run_repeats_and_takes_more_steps(base, data, whole, tmp_path):
    out = tmp_path / "out"
    train(base, data, out, schedule=replace(SCHEDULE, save_every=3, checkpointing=True))
    assert losses(out) == pytest.approx(losses(whole[0]), abs=1e-5)  # each layer twice, and nothing else
    with pytest.raises(UsageError, match="trained to step 6 already"):
        train(base, data, out)
    longer = train(base, data, out, schedule=replace(SCHEDULE, steps=8))
    assert (longer.steps, longer.resumed_at, longer.tokens) == (8, 6, 2 * 2 * 2 * 80)
    assert len(losses(out)) == 8 and longer.last_loss < longer.first_loss


RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.training.test_pretrain import RECIPE, SCHEDULE, train
base, data, out, accumulate, dropout = sys.argv[1:]
recipe, schedule = replace(RECIPE, lora_dropout=float(dropout)), replace(SCHEDULE, accumulate=int(accumulate))
train(Path(base), data, out, recipe, schedule)
"""


def start(base, data, out, accumulate=2, dropout=0.05, **variables):
    """The same run as a process of its own."""
    root = Path(__file__).parents[2]
    paths = [str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)} | variables
    command = [sys.executable, "-c", RUN, base, data, out, str(accumulate), str(dropout)]
    return subprocess.Popen(command, env=environment, cwd=root, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_and_started_again_it_has_the_same_losses(base, data, whole, tmp_path):
    out = tmp_path / "out"
    process = start(base, data, out)
    deadline = time.monotonic() + 120
    while process.poll() is None and not whole_checkpoints(out) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    killed_at = int(whole_checkpoints(out)[-1].name.split("-")[1])
    assert killed_at < 6 and not (out / "compressor.json").exists()
    half = out / CHECKPOINTS / "checkpoint-7"  # one more, cut off while it was written
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    report = train(base, data, out)
    assert report.resumed_at == killed_at and report.steps == 6 and not half.exists()
    assert losses(out) == losses(whole[0])
    again, first = AutoCompressor.from_pretrained(out), AutoCompressor.from_pretrained(whole[0])
    assert again.fingerprint == first.fingerprint  # every trained weight is equal


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(base, data, tmp_path):
    """Dropout apart, two processes of one batch a step are one process of two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    both = [start(base, data, tmp_path / "two", 1, 0.0, RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")]
    recipe = replace(RECIPE, lora_dropout=0.0)
    train(base, data, tmp_path / "one", recipe)
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one) == list(two) == [1, 2, 3, 4, 5, 6]
    assert max(abs(one[step] - two[step]) for step in one) <= 1e-4
    assert max(one.values()) - min(one.values()) > 0.1


def test_killed_before_the_result_was_written(base, data, tmp_path):
    out = tmp_path / "out"
    report = train(base, data, out)
    wanted = AutoCompressor.from_pretrained(out).fingerprint
    for name in ("compressor.json", "adapter_model.safetensors", "adapter_config.json"):
        (out / name).unlink()
    again = train(base, data, out)
    assert (again.steps, again.tokens, again.last_loss) == (6, 0, report.last_loss)
    assert AutoCompressor.from_pretrained(out).fingerprint == wanted


def test_killed_while_the_result_of_more_steps_was_written(base, data, tmp_path, monkeypatch):
    out, more = tmp_path / "out", replace(SCHEDULE, steps=8)
    train(base, data, out)
    before = AutoCompressor.from_pretrained(out).fingerprint
    real = TextObjective.save

    def killed(objective, folder, *rest):
        if folder == out:
            raise KeyboardInterrupt
        real(objective, folder, *rest)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(TextObjective, "save", killed)
        train(base, data, out, schedule=more)
    again = train(base, data, out, schedule=more)
    assert (again.steps, again.tokens) == (8, 0) and AutoCompressor.from_pretrained(out).fingerprint != before


@pytest.mark.parametrize("at, good", [(4, 2), (5, 2), (6, 4)])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(base, data, tmp_path, monkeypatch, at, good):
    """At step 5 the weights of checkpoint-4 gave it: that one is not good."""
    from longreach.compressors.autocompressor import objective as compressor

    out, real, calls = tmp_path / "out", compressor.chunked_cross_entropy, []

    def spoiled(*args, **options):
        calls.append(1)
        loss = real(*args, **options)
        return loss * float("nan") if len(calls) > 4 * at - 2 else loss  # 2 batches of 2 substeps a step

    monkeypatch.setattr(compressor, "chunked_cross_entropy", spoiled)
    with pytest.raises(
        TrainingError, match=rf"loss of step {at} is not a finite .*last checkpoint is good.* lower --learning-rate"
    ):
        train(base, data, out)
    monkeypatch.undo()
    assert (
        max(map(step_of, (out / CHECKPOINTS).glob("checkpoint-*"))) == good and not (out / "compressor.json").exists()
    )
    assert train(base, data, out).resumed_at == good


def test_gradients_that_are_no_numbers_spoil_no_weights(base, data, tmp_path, monkeypatch):
    from longreach.compressors.autocompressor import objective as compressor

    out, real = tmp_path / "out", compressor.TextObjective.forward

    def spoiled(self, **given):
        found = real(self, **given)
        self.embed_summary.register_hook(lambda gradient: gradient / 0)
        return found

    monkeypatch.setattr(compressor.TextObjective, "forward", spoiled)
    with pytest.raises(TrainingError, match="gradient of step 1 is not a finite number: training stopped before"):
        train(base, data, out)
    assert not list((out / CHECKPOINTS).glob("checkpoint-*"))


SMALL = replace(SCHEDULE, batch_size=1)


@pytest.mark.parametrize(
    "recipe, schedule, lower",
    [
        (RECIPE, SCHEDULE, r"--batch-size \(it is 2\)"),
        (RECIPE, SMALL, "memory by giving --checkpointing"),
        (RECIPE, replace(SMALL, checkpointing=True), r"--segment-tokens \(it is 20\) or --segments \(it is 2\)"),
    ],
)
def test_out_of_memory_says_what_to_lower_and_keeps_the_checkpoint(
    base, data, tmp_path, monkeypatch, recipe, schedule, lower
):
    from longreach.compressors.autocompressor import objective as compressor

    out, real = tmp_path / "out", compressor.chunked_cross_entropy

    def fail(*args, **options):
        if whole_checkpoints(out):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return real(*args, **options)

    monkeypatch.setattr(compressor, "chunked_cross_entropy", fail)
    with pytest.raises(TrainingError, match=f"^Out of memory: lower {lower}; the last checkpoint stays.$"):
        train(base, data, out, recipe, schedule)
    monkeypatch.undo()
    assert train(base, data, out, recipe, schedule).resumed_at == 2


@pytest.mark.parametrize(
    "where, error",
    [
        ("compressors.adapters.save_file", SafetensorError("I/O error: No space left on device (os error 28)")),
        ("compressors.autocompressor.objective.write_peft", OSError(28, "No space left on device")),
    ],
)
def test_a_full_disk_says_so_and_the_run_goes_on(base, data, tmp_path, monkeypatch, where, error):
    out = tmp_path / "out"
    train(base, data, out, schedule=replace(SCHEDULE, steps=2))

    def full(*args, **options):
        raise error

    monkeypatch.setattr(f"longreach.{where}", full)
    with pytest.raises(TrainingError, match="does not fit on the disk: free some space"):
        train(base, data, out, schedule=replace(SCHEDULE, steps=4))
    monkeypatch.undo()
    (out / "compressor.json").unlink()  # of two steps
    resumed_at = train(base, data, out, schedule=replace(SCHEDULE, steps=4)).resumed_at
    assert resumed_at == 2


def test_documents_are_learned_like_files(base, data, whole, tmp_path):
    texts = [Document(path.name, path.read_text()) for path in sorted(data.iterdir())]
    notes = []
    pretrain(
        base, [*texts, Document("e", " ")], tmp_path / "out", RECIPE, SCHEDULE,
        device="cpu", cache=tmp_path / "cache", say=notes.append,
    )  # fmt: skip
    assert losses(tmp_path / "out") == losses(whole[0])
    assert any("Omitted: e is empty" in line for line in notes)


def test_texts_are_tokenized_once(base, data, tmp_path):
    notes = []
    schedule = replace(SCHEDULE, steps=2)
    for steps in (2, 4):
        train(
            base,
            data,
            tmp_path / "out",
            schedule=replace(schedule, steps=steps),
            cache=tmp_path / "c",
            say=notes.append,
        )
    assert len([line for line in notes if "tokenizing" in line]) == 1


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"steps": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"accumulate": 0}, "at least 1"),
        ({"save_every": 0}, "at least 1"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"learning_rate": float("nan")}, "above 0"),
        ({"warmup": 1.0}, "warmup"),
    ],
)
def test_refuses_schedules_out_of_range(changes, word):
    with pytest.raises(UsageError, match=word):
        replace(SCHEDULE, **changes)


def test_refuses_what_cannot_be_trained_on(base, tmp_path):
    with pytest.raises(DocumentError, match="There is no file or folder"):
        train(base, tmp_path / "none.txt", tmp_path / "out")
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(UsageError, match="holds 10 tokens and one sequence takes 80"):
        train(base, tmp_path / "short.txt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="device"):
        pretrain(base, [tmp_path], tmp_path / "out", RECIPE, device="nonsense")
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES"):
        pretrain(base, [tmp_path], tmp_path / "out", RECIPE, device="cpu:0")
    with pytest.raises(UsageError, match="no data"):
        pretrain(base, [], tmp_path / "out", RECIPE, device="cpu")
    with pytest.raises(UsageError, match="no tracker 'nowhere'"):
        pretrain(base, [tmp_path], tmp_path / "out", RECIPE, schedule=replace(SCHEDULE, report_to=("nowhere",)))


def test_refuses_folders_of_something_else(base, data, tmp_path, whole):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("Dear")
    with pytest.raises(UsageError, match="exists already"):
        train(base, data, tmp_path / "taken")
    words = r"another run: learning_rate is 0.01 there and 0.001 here, summary_tokens is 5"
    with pytest.raises(UsageError, match=words):
        train(base, data, whole[0], replace(RECIPE, summary_tokens=4), replace(SCHEDULE, learning_rate=1e-3))
    with pytest.raises(UsageError, match="another run: data is"):
        train(base, data / "1.txt", whole[0])
    make_model(seed=2).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match="base_fingerprint"):
        train(tmp_path / "other", data, whole[0])


def test_a_damaged_checkpoint_is_named(base, data, tmp_path):
    out = tmp_path / "out"
    train(base, data, out, schedule=replace(SCHEDULE, steps=2))
    for name in ("optimizer.pt", "adapter_model.safetensors"):
        (out / CHECKPOINTS / "checkpoint-2" / name).write_bytes(b"damaged")
        with pytest.raises(ModelError, match=r"checkpoint-2' cannot be read .* delete it"):
            train(base, data, out)
