"""The LoRA of an AutoCompressor is an adapter: on while it compresses and while its vectors are read, else off."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from longreach import AutoCompressor, Corpus, Document, Policy, Reader, Sampling
from longreach.datasets.questions import Question
from longreach.errors import UsageError
from longreach.models.fingerprint import base_fingerprint
from longreach.training.study.settings import StudySettings
from longreach.training.study.study import study
from tests.compressors.test_ratio import train
from tests.conftest import make_model, make_tokenizer

MODES = ("accumulate", "independent", "replace")
IDS = [list(range(60)), list(range(100, 117)), [7]]
TEXT = Document("a", "The rabbit had a watch. " * 12)
VECTORS = Policy(raw=0, compressed="document", budget=900)


@pytest.fixture
def folders(tmp_path):
    for seed, name in enumerate(("one", "two")):
        train(tmp_path / name, seed)
    return tmp_path


def load(folder, model=None, **settings):
    return AutoCompressor.from_pretrained(folder, model or make_model(), make_tokenizer(), **settings)


@pytest.mark.parametrize("mode", MODES)
def test_vectors_are_those_of_merged_weights(folders, mode):
    found = load(folders / "one", mode=mode).compress(IDS)
    wanted = load(folders / "one", mode=mode, merged=True).compress(IDS)
    plain = AutoCompressor(make_model(), make_tokenizer(), 6, 24, mode).compress(IDS)
    for mine, merged, bare in zip(found, wanted, plain, strict=True):
        torch.testing.assert_close(mine, merged, rtol=1e-5, atol=1e-5)
        assert (mine - bare).abs().max() > 1e-2


def test_in_bfloat16_they_are_as_near_to_the_exact_ones_as_merged_ones(folders):
    half = {"model": make_model().to(torch.bfloat16)}
    exact = torch.cat(load(folders / "one").compress(IDS))
    mine = torch.cat(load(folders / "one", **half).compress(IDS)).float()
    merged = torch.cat(load(folders / "one", make_model().to(torch.bfloat16), merged=True).compress(IDS)).float()
    assert (mine - exact).norm() <= 1.5 * (merged - exact).norm()


def test_the_model_is_the_bare_one_before_and_after(folders):
    model, tokenizer = make_model(), make_tokenizer()
    ids = torch.tensor([IDS[0]])
    with torch.no_grad():
        before = model(ids).logits
    name = base_fingerprint(model, tokenizer)
    compressor = load(folders / "one", model)
    compressor.compress(IDS)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)
    assert compressor.model is model and compressor.model_fingerprint == name == base_fingerprint(model, tokenizer)


def test_fingerprints_tell_adapters_apart(folders):
    one, two = load(folders / "one"), load(folders / "two")
    bare = AutoCompressor(make_model(), make_tokenizer(), 6, 24, embed_summary=one.embed_summary.weight.detach())
    assert len({one.fingerprint, two.fingerprint, bare.fingerprint}) == 3
    assert one.fingerprint == load(folders / "one").fingerprint
    path = folders / "one" / "adapter_config.json"
    moved = json.loads(path.read_text()) | {"base_model_name_or_path": "elsewhere", "peft_version": "0.1"}
    path.write_text(json.dumps(moved))
    assert load(folders / "one").fingerprint == one.fingerprint
    path.write_text(json.dumps(moved | {"lora_alpha": 3}))
    assert load(folders / "one").fingerprint != one.fingerprint


def test_corpora_of_different_compressors_share_one_model(folders):
    model, tokenizer = make_model(), make_tokenizer()
    corpora, answers = [], []
    for name in ("one", "two"):
        corpus = Corpus.create(folders, f"c-{name}", load(folders / name, model))
        corpus.add(TEXT)
        corpora.append(corpus)
        alone = load(folders / name, merged=True)
        merged = Corpus.create(folders, f"m-{name}", alone)
        merged.add(TEXT)
        reader = Reader(merged, alone.model, tokenizer, policy=VECTORS)
        answers.append(reader.ask("What had the rabbit?", sampling=Sampling(8)).text)
    readers = [Reader(corpus, model, tokenizer, policy=VECTORS) for corpus in corpora]
    assert len(model.peft_config) == 2, "the compressor and its reader have one adapter"
    for _ in range(2):
        for reader, wanted in zip(readers, answers, strict=True):
            assert reader.ask("What had the rabbit?", sampling=Sampling(8)).text == wanted
    assert answers[0] != answers[1]
    for corpus in corpora:
        names = {path.name for path in corpus.adapter_path.iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors"} <= names and "compressor.json" not in names
        weights = load_file(corpus.adapter_path / "adapter_model.safetensors")
        assert weights and not any("embed_summary" in key for key in weights)
        assert corpus.verify().ok


def test_saved_equals_loaded(folders):
    compressor = load(folders / "one", ratio=8)
    compressor.save(folders / "saved", model_ref="base")
    again = load(folders / "saved")
    assert again.describe() == compressor.describe() and again.fingerprint == compressor.fingerprint
    assert torch.equal(again.compress(IDS)[0], compressor.compress(IDS)[0])
    with pytest.raises(UsageError, match="merged=True"):
        compressor.save(folders / "whole", include_model=True)
    load(folders / "one", merged=True).save(folders / "whole", include_model=True)
    whole = AutoCompressor.from_pretrained(folders / "whole", tokenizer=make_tokenizer(), ratio=8)
    torch.testing.assert_close(whole.compress(IDS)[0], compressor.compress(IDS)[0], rtol=1e-5, atol=1e-5)


def test_modules_that_were_trained_whole_are_merged(folders):
    folder = folders / "one"
    config = json.loads((folder / "adapter_config.json").read_text())
    config["modules_to_save"].append("lm_head")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(folder / "adapter_model.safetensors")
    weights["base_model.model.lm_head.weight"] = torch.ones(260, 32)
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    compressor = load(folder)
    assert compressor.adapter is None and bool((compressor.model.lm_head.weight == 1).all())


@pytest.mark.slow
def test_a_study_begins_from_the_adapter(folders):
    model, tokenizer = make_model(), make_tokenizer()
    compressor = load(folders / "one", model)
    corpus = Corpus.create(folders, "c", compressor)
    corpus.add(TEXT)
    start = load_file(corpus.adapter_path / "adapter_model.safetensors")
    before = compressor.compress(IDS)[0]
    questions = [
        Question(None, "What had the rabbit?", ("a watch",)),
        Question(None, "Who had a watch?", ("the rabbit",)),
    ]
    settings = StudySettings(epochs=1, learning_rate=1e-6, budget=900)
    report = study(corpus, model, tokenizer, questions, settings, say=lambda text: None)
    learned = load_file(report.adapter / "adapter_model.safetensors")
    assert learned.keys() == start.keys()
    for name, tensor in start.items():
        torch.testing.assert_close(learned[name], tensor, rtol=0, atol=1e-4)
    assert torch.equal(compressor.compress(IDS)[0], before), "what compresses is not what learned"
    reader = Reader(corpus, model, tokenizer, policy=VECTORS)
    assert reader.ask("What had the rabbit?", sampling=Sampling(4)).usage.vectors
