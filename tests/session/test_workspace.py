import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from longreach import AutoCompressor, Corpus, Document, Policy, Reader, Sampling
from longreach.errors import FingerprintMismatch, UsageError
from longreach.models.loading.load import load as load_model
from longreach.session import open_or_create, open_workspace
from tests.compressors.test_ratio import train
from tests.conftest import make_model, make_tokenizer

TEXT = Document("a", "The rabbit had a watch. " * 20)


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_corpus_is_opened_again_with_what_it_was_made_with(tmp_path, base):
    first = open_or_create(tmp_path / "s", "c", model_ref=base, ratio=5, segment_tokens=50)
    first.corpus.add(TEXT)
    again = open_workspace(tmp_path / "s", "c")
    assert again.corpus.compressor.describe() == first.corpus.compressor.describe()
    assert again.corpus.add(TEXT).unchanged == ["a"]
    assert open_or_create(tmp_path / "s", "c", ratio=5).corpus.add(TEXT).unchanged == ["a"]
    with pytest.raises(UsageError, match="ratio 5"):
        open_or_create(tmp_path / "s", "c", ratio=6)


@pytest.mark.parametrize("include_model", [True, False])
def test_a_trained_compressor_brings_its_own_model(tmp_path, base, include_model):
    model, tokenizer = make_model(seed=9), make_tokenizer()
    if not include_model:
        model.save_pretrained(base)
    trained = AutoCompressor(model, tokenizer, 4, 50, embed_summary=torch.randn(4, 32))
    trained.save(tmp_path / "trained", model_ref=base, include_model=include_model)
    made = open_or_create(tmp_path / "s", "c", compressor_ref=str(tmp_path / "trained"))
    made.corpus.add(TEXT)
    assert made.corpus.settings.fingerprint == trained.fingerprint
    again = open_workspace(tmp_path / "s", "c", compressing=False)
    assert torch.equal(again.model.lm_head.weight, model.lm_head.weight)
    reader = Reader(again.corpus, again.model, again.tokenizer, policy=Policy(budget=900))
    assert reader.ask("rabbit?", sampling=Sampling(4)).usage.positions
    assert open_workspace(tmp_path / "s", "c").corpus.add(TEXT).unchanged == ["a"]


def make_loader(base, loaded):
    """Gives every corpus the same model, as a server does."""

    def give(ref, *, device=None, dtype=None):
        if not loaded:
            loaded.append(load_model(base))
        return loaded[0]

    return give


def test_corpora_of_trained_compressors_share_one_model(tmp_path, base):
    loaded = []
    loader = make_loader(base, loaded)
    for seed, name in enumerate(("one", "two")):
        train(tmp_path / name, seed)
        made = open_or_create(tmp_path / "s", name, model_ref=base, compressor_ref=str(tmp_path / name), loader=loader)
        assert made.model is loaded[0][0]
        made.corpus.add(TEXT)
    plain = open_or_create(tmp_path / "s", "plain", model_ref=base, compressor_ref="mean-pool", loader=loader)
    assert plain.model is loaded[0][0]
    plain.corpus.add(TEXT)
    for name in ("one", "two", "plain"):
        shared = open_workspace(tmp_path / "s", name, compressing=False, loader=loader)
        alone = open_workspace(tmp_path / "s", name, compressing=False)
        assert shared.model is loaded[0][0] and alone.model is not shared.model
        answers = []
        for one in (shared, alone):
            reader = Reader(one.corpus, one.model, one.tokenizer, policy=Policy(raw=0, compressed="document"))
            answers.append(reader.ask("rabbit?", sampling=Sampling(6)).text)
        assert answers[0] == answers[1]
        assert open_workspace(tmp_path / "s", name, loader=loader).corpus.add(TEXT).unchanged == ["a"]


def test_a_model_that_a_compressor_changes_is_not_shared(tmp_path, base):
    train(tmp_path / "one", 0)
    path = tmp_path / "one" / "adapter_config.json"
    config = json.loads(path.read_text())
    config["modules_to_save"].append("lm_head")
    path.write_text(json.dumps(config))
    weights = load_file(tmp_path / "one" / "adapter_model.safetensors")
    weights["base_model.model.lm_head.weight"] = torch.ones(260, 32)
    save_file(weights, tmp_path / "one" / "adapter_model.safetensors", {"format": "pt"})
    loaded = []
    loader = make_loader(base, loaded)
    options = {"model_ref": base, "compressor_ref": str(tmp_path / "one"), "loader": loader}
    made = open_or_create(tmp_path / "s", "c", **options)
    made.corpus.add(TEXT)
    again = open_workspace(tmp_path / "s", "c", compressing=False, loader=loader)
    assert not loaded and again.changed and bool((again.model.lm_head.weight == 1).all())


def test_a_corpus_made_in_bfloat16_is_read_and_continued_in_float32(tmp_path, base, monkeypatch):
    import longreach.session.workspace as workspace

    real = workspace.load
    half = lambda ref, **options: real(ref, **(options | {"dtype": "bfloat16"}))  # noqa: E731 (as on a GPU)
    with monkeypatch.context() as patch:
        patch.setattr(workspace, "load", half)
        open_or_create(tmp_path / "s", "c", model_ref=base, segment_tokens=50).corpus.add(TEXT)
    asked = open_workspace(tmp_path / "s", "c", compressing=False)
    assert asked.model.dtype == torch.float32
    reader = Reader(asked.corpus, asked.model, asked.tokenizer, policy=Policy(budget=900))
    assert reader.ask("rabbit?", sampling=Sampling(4)).usage.vectors
    more = open_workspace(tmp_path / "s", "c")
    more.corpus.add(Document("b", "More about the queen. " * 10))
    assert {vectors.dtype for vectors in more.corpus.vectors(more.corpus.documents()[1].revision)} == {torch.bfloat16}
    assert more.corpus.verify().ok


@pytest.mark.parametrize("ratio", [5, 6])
def test_a_corpus_that_another_process_makes_meanwhile_is_opened(tmp_path, base, monkeypatch, ratio):
    import longreach.session.workspace as workspace

    real = workspace.make_compressor

    def make(*parts, **options):
        compressor = real(*parts, **options)
        Corpus.create(tmp_path / "s", "c", real(*parts, **(options | {"ratio": ratio}))).add(TEXT)
        return compressor

    monkeypatch.setattr(workspace, "make_compressor", make)
    options = {"model_ref": base, "ratio": 5, "segment_tokens": 50}
    if ratio == 5:
        assert open_or_create(tmp_path / "s", "c", **options).corpus.add(TEXT).unchanged == ["a"]
    else:
        with pytest.raises(FingerprintMismatch, match="other settings"):
            open_or_create(tmp_path / "s", "c", **options)


def test_another_model_is_refused(tmp_path, base):
    open_or_create(tmp_path / "s", "c", model_ref=base).corpus.add(TEXT)
    other = tmp_path / "other"
    make_model(seed=3).save_pretrained(other)
    make_tokenizer().save_pretrained(other)
    with pytest.raises(FingerprintMismatch, match=r"another model .* in float32"):
        open_workspace(tmp_path / "s", "c", model_ref=str(other))


def test_a_folder_of_another_model_is_refused_before_its_weights_are_read(tmp_path, base, monkeypatch):
    import json

    import longreach.session.workspace as workspace
    from longreach.errors import ModelError

    open_or_create(tmp_path / "s", "c", model_ref=base, segment_tokens=50).corpus.add(TEXT)
    make_model(hidden_size=64, head_dim=16).save_pretrained(base)
    for name in ("load", "load_named"):
        monkeypatch.setattr(workspace, name, lambda *args, **kwargs: pytest.fail("weights were read"))
    for given in (None, base):
        with pytest.raises(FingerprintMismatch, match=r"have 32 numbers, and the model in .* of 64"):
            open_workspace(tmp_path / "s", "c", model_ref=given)
    path = tmp_path / "base" / "config.json"
    code = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | code))
    with pytest.raises(ModelError, match="never run"):
        open_workspace(tmp_path / "s", "c")
