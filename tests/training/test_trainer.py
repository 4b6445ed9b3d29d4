"""Tests by position, and training that stops before a bad step."""

import math

import numpy as np
import pytest
import torch
from transformers import TrainerState

from longreach.errors import TrainingError
from longreach.models.perplexity import buckets
from longreach.training.common import run
from longreach.training.common.checkpoints import last_checkpoint
from longreach.training.common.progress import Progress
from longreach.training.extend.extend import extend
from longreach.training.extend.settings import ExtendSettings
from longreach.training.extend.trainer import LongTrainer
from tests.conftest import make_tokenizer
from tests.training.conftest import make_hybrid


def test_buckets_double():
    assert buckets(100) == [(0, 100)]
    assert buckets(5000) == [(0, 1024), (1024, 2048), (2048, 4096), (4096, 5000)]


def test_perplexity_is_that_of_each_position(texts, tmp_path, monkeypatch):
    monkeypatch.setattr("longreach.models.perplexity._FIRST_BUCKET", 32)
    lines = []
    settings = ExtendSettings(length=256, steps=1, held_out=2, learning_rate=1e-9)
    extend(make_hybrid(), make_tokenizer(), [texts], tmp_path / "out", settings, cache=tmp_path / "c", say=lines.append)
    (line, *_) = [line for line in lines if line.startswith("step 0")]
    report = run.report_of(tmp_path / "out")
    lengths, sums = {}, {}
    model = make_hybrid().eval()
    from longreach.training.extend.data import Data

    data = Data.make([texts], make_tokenizer(), settings.mix, held_out=2, cache=tmp_path / "c")
    for row in data.held_out:
        ids = torch.from_numpy(row)[None]
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        for position, value in enumerate(loss.tolist(), 1):
            span = next(f"{a}-{b}" for a, b in buckets(256) if a <= position < b)
            sums[span] = sums.get(span, 0) + value
            lengths[span] = lengths.get(span, 0) + 1
    wanted = {span: math.exp(sums[span] / lengths[span]) for span in sums}
    wanted["all"] = math.exp(sum(sums.values()) / sum(lengths.values()))
    assert report["perplexity"]["before"] == pytest.approx(wanted, rel=1e-4)
    assert len(wanted) > 3 and all(f"{span}: " in line for span in wanted if span != "all")


class Poisoned:
    """Makes a loss, or a gradient behind a good loss, infinite from the given call on."""

    def __init__(self, monkeypatch, where, call):
        self.calls, self.where, self.call = 0, where, call
        inner = LongTrainer.compute_loss
        monkeypatch.setattr(LongTrainer, "compute_loss", lambda *a, **k: self.poison(inner(*a, **k)))

    def poison(self, loss):
        self.calls += 1
        if self.calls < self.call:
            return loss
        if self.where == "loss":
            return loss * float("nan")
        loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_it_stops_before_a_bad_step_and_keeps_the_last_good_checkpoint(texts, tmp_path, monkeypatch, where):
    settings = ExtendSettings(length=128, steps=6, batch_tokens=256, held_out=0, save_every=2, learning_rate=1e-3)
    Poisoned(monkeypatch, where, call=8)  # in the fourth step: two batches a step
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match=rf"The {where} of step 4 is not a finite number.*checkpoint is good"):
        extend(make_hybrid(), make_tokenizer(), [texts], out, settings, cache=tmp_path / "c", say=print)
    assert last_checkpoint(out).name == "checkpoint-2" and run.report_of(out) is None
    from safetensors.torch import load_file

    weights = load_file(last_checkpoint(out) / "model.safetensors")
    assert all(np.isfinite(weight.numpy()).all() for weight in weights.values())


def test_a_checkpoint_that_gave_a_bad_loss_is_not_kept(texts, tmp_path, monkeypatch):
    settings = ExtendSettings(length=128, steps=6, batch_tokens=256, held_out=0, save_every=2, learning_rate=1e-3)
    Poisoned(monkeypatch, "loss", call=9)  # in the fifth step: the weights of checkpoint-4 gave it
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match="loss of step 5 is not a finite"):
        extend(make_hybrid(), make_tokenizer(), [texts], out, settings, cache=tmp_path / "c", say=print)
    assert last_checkpoint(out).name == "checkpoint-2"


def steps_of(progress, count=3):
    """What a run of so many steps tells its display."""
    state = TrainerState(max_steps=count, is_world_process_zero=True)
    progress.on_train_begin(None, state, None)
    for step in range(1, count + 1):
        state.global_step = step
        progress.on_step_end(None, state, None)
        progress.on_log(None, state, None, {"loss": 1.5, "learning_rate": 1e-3})
    progress.on_evaluate(None, state, None, {"eval_perplexity": 4.0, "eval_perplexity_0-64": 4.0})
    progress.close()


def test_progress_speaks_now_and_then_and_at_the_end():
    lines = []
    progress = Progress(lines.append, lambda step: 10 * step, every_seconds=1e9)
    steps_of(progress)
    first, last, test = lines
    assert first.startswith("step 1/3  loss 1.5000  ") and last.endswith(" tokens/s  lr 1.00e-03  0:00:00 left")
    assert test == "step 3  perplexity 4.00  (0-64: 4.00)" and progress.tokens == 60


def test_progress_is_a_bar_on_a_terminal_only(capsys, monkeypatch):
    steps_of(Progress(None, lambda step: 10))
    assert "step 3/3  loss 1.5" in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    steps_of(Progress(None, lambda step: 10))
    err = capsys.readouterr().err
    assert "3/3 [" in err and "loss 1.5000" in err and "step 3/3" not in err and "perplexity 4.00" in err
    steps_of(Progress(print, lambda step: 10))
    said = capsys.readouterr()
    assert "step 3/3" in said.out and not said.err
