"""A study is taken back: the adapter and the policy from before it, whole, whatever is killed meanwhile."""

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from longreach.corpus.artefacts import ADAPTER, Artefacts, seal
from longreach.errors import CorpusDamaged, UsageError
from longreach.reading.policy import Policy
from longreach.reading.scorecard import Scorecard, ScorecardRow
from longreach.training.study.folder import publish, working
from longreach.training.study.undo import keep_state, last_kept, undo
from tests.conftest import make_model
from tests.training.studied import make_corpus


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two adapters, as training leaves them."""
    folder = tmp_path_factory.mktemp("made")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(make_model(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder / "one")
    shutil.copytree(folder / "one", folder / "two")
    weights = load_file(folder / "two" / "adapter_model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, folder / "two" / "adapter_model.safetensors")
    return folder


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path)


def card(corpus, chosen):
    rows = tuple(
        ScorecardRow(name, Policy(k=1 + at), 30, 1.0, None, None, 1.0, 1.0, 9.0) for at, name in enumerate("ab")
    )
    settings = corpus.settings
    return Scorecard(
        rows, chosen, "So it is.", 30, 900, None, settings.fingerprint, settings.model_fingerprint, "state", "today"
    )


def learn(corpus, folder, chosen):
    """A study: an adapter, then a scorecard."""
    with working(corpus):
        publish(corpus, folder)
    card(corpus, chosen).save(corpus)


def weights(corpus):
    return next(iter(load_file(corpus.path / ADAPTER / "adapter_model.safetensors").values()))


def test_adapter_and_policy_of_before_come_back_study_by_study(corpus, made):
    with pytest.raises(UsageError, match="no study that could be undone"):
        undo(corpus)
    learn(corpus, made / "one", "a")
    first = weights(corpus)
    learn(corpus, made / "two", "b")
    assert not torch.equal(weights(corpus), first) and last_kept(corpus) == 2
    found = undo(corpus)
    assert found == (corpus.path / ADAPTER, True) and torch.equal(weights(corpus), first)
    assert Scorecard.load(corpus.artefacts).chosen == "a" and corpus.verify().ok
    assert undo(corpus) == (None, False) and not (corpus.path / ADAPTER).exists()
    assert Scorecard.load(corpus.artefacts) is None and corpus.verify().ok
    with pytest.raises(UsageError, match="no study"):
        undo(corpus)


def test_measuring_alone_is_taken_back_too(corpus, made):
    learn(corpus, made / "one", "a")
    with corpus.changing("study") as artefacts:
        keep_state(artefacts)
    card(corpus, "b").save(corpus)
    assert undo(corpus) == (corpus.path / ADAPTER, True)
    assert Scorecard.load(corpus.artefacts).chosen == "a" and corpus.verify().ok


def test_a_study_killed_before_its_scorecard_is_one_study(corpus, made):
    learn(corpus, made / "one", "a")
    first = weights(corpus)
    with working(corpus):
        publish(corpus, made / "two")  # killed here; the same command goes on:
        publish(corpus, made / "two")
    with corpus.changing("study") as artefacts:
        keep_state(artefacts)
    card(corpus, "b").save(corpus)
    undo(corpus)
    assert torch.equal(weights(corpus), first) and Scorecard.load(corpus.artefacts).chosen == "a"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["put the adapter", "remove the adapter", "put the scorecard"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_anywhere_it_is_done_by_the_next_call(corpus, made, monkeypatch, step, when):
    learn(corpus, made / "one", "a")
    first = weights(corpus)
    if step != "remove the adapter":
        learn(corpus, made / "two", "b")
    method, _, what = step.split()
    real = getattr(Artefacts, method)

    def killed(self, name, *arguments):
        if when == "after" or what not in name:
            real(self, name, *arguments)
        if what in name:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Artefacts, method, killed)
        with pytest.raises(Killed):
            undo(corpus)
    undo(corpus)
    assert corpus.verify().ok
    if step == "remove the adapter":
        assert corpus.adapter_path is None
    else:
        assert torch.equal(weights(corpus), first) and Scorecard.load(corpus.artefacts).chosen == "a"


def test_what_was_kept_and_spoiled_is_refused(corpus, made):
    learn(corpus, made / "one", "a")
    learn(corpus, made / "two", "b")
    kept = corpus.work_path / "before" / "2" / ADAPTER / "adapter_model.safetensors"
    spoiled = bytearray(kept.read_bytes())
    spoiled[-1] ^= 1
    kept.write_bytes(spoiled)
    now = weights(corpus)
    with pytest.raises(CorpusDamaged, match="is damaged: delete that folder"):
        undo(corpus)
    assert torch.equal(weights(corpus), now) and corpus.verify().ok


def test_only_the_last_states_are_kept(corpus, made):
    for turn in range(7):
        learn(corpus, made / ("one", "two")[turn % 2], "a")
    folders = sorted(int(path.name) for path in (corpus.work_path / "before").iterdir())
    assert folders == [3, 4, 5, 6, 7]


def test_who_reads_while_an_adapter_is_replaced_finds_one(corpus, made, monkeypatch):
    """The old one is no longer in its place at the first look, and gone at the second."""
    learn(corpus, made / "one", "a")
    old = corpus.work_path / "old-adapter"
    (corpus.path / ADAPTER).rename(old)
    real = Path.is_dir

    def is_dir(path):
        if path == old and old.exists():
            shutil.copytree(made / "two", corpus.path / ADAPTER)
            seal(corpus.path / ADAPTER)
            shutil.rmtree(old)
        return real(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    assert corpus.artefacts.get(ADAPTER) == corpus.path / ADAPTER
