"""What a model was loaded from is known later: by a corpus made with it, and where a hybrid is saved."""

import pytest
import torch

import longreach as lr
from longreach.compressors.mean_pool import MeanPool
from longreach.models.loading.origin import reference_of, tokenizer_of
from longreach.session import open_or_create, open_workspace
from tests.conftest import make_model, make_tokenizer


@pytest.fixture
def folder(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_relative_folder_is_known_from_anywhere(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model, tokenizer = lr.load("model", device="cpu")
    assert reference_of(model) == str(folder) and tokenizer_of(model) is tokenizer


def test_a_model_that_was_made_here_has_no_reference():
    assert reference_of(make_model()) == ""


def test_a_corpus_made_in_python_is_extended_by_the_commands(folder, tmp_path):
    for _ in range(2):  # a program may run twice
        model, tokenizer = lr.load(folder, device="cpu")
        compressor = MeanPool(model, tokenizer, 5, segment_tokens=50)
        corpus = lr.Corpus.create(tmp_path / "store", "library", compressor, exist_ok=True)
        corpus.add(lr.Document("a", "The rabbit had a watch. " * 20))
    opened = open_or_create(tmp_path / "store", "library", device="cpu")
    report = opened.corpus.add([lr.Document("a", "The rabbit had a watch. " * 20), lr.Document("b", "A hat. " * 9)])
    assert (report.unchanged, report.added) == (["a"], ["b"])


def test_another_compressor_does_not_open_what_is_there(folder, tmp_path):
    model, tokenizer = lr.load(folder, device="cpu")
    lr.Corpus.create(tmp_path, "library", MeanPool(model, tokenizer, 5))
    with pytest.raises(lr.errors.FingerprintMismatch):
        lr.Corpus.create(tmp_path, "library", MeanPool(model, tokenizer, 6), exist_ok=True)
    with pytest.raises(lr.errors.CorpusExists):
        lr.Corpus.create(tmp_path, "library", MeanPool(model, tokenizer, 5))


def test_a_trained_compressor_knows_its_own_name(folder, tmp_path, monkeypatch):
    model, tokenizer = lr.load(folder, device="cpu")
    lr.AutoCompressor(model, tokenizer, 4, 50).save(tmp_path / "trained", model_ref=str(folder))
    monkeypatch.chdir(tmp_path)
    compressor = lr.AutoCompressor.from_pretrained("trained", model, tokenizer)
    lr.Corpus.create(tmp_path / "store", "library", compressor)
    opened = open_workspace(tmp_path / "store", "library", device="cpu")
    assert opened.corpus.settings.compressor_ref == str(tmp_path / "trained")
    assert opened.corpus.compressor.fingerprint == compressor.fingerprint


def test_a_hybrid_is_saved_with_its_tokenizer(folder, tmp_path):
    model, tokenizer = lr.load(folder, device="cpu")
    hybrid = lr.convert(model, lr.AttentionPattern(16, 1, 2, 0), max_length=4096)
    assert reference_of(hybrid) == ""
    hybrid.save_pretrained(tmp_path / "hybrid")
    again, its_tokenizer = lr.load(tmp_path / "hybrid", device="cpu")
    assert reference_of(hybrid) == reference_of(again) == str(tmp_path / "hybrid")
    assert its_tokenizer.get_vocab() == tokenizer.get_vocab()
    assert its_tokenizer.chat_template == tokenizer.chat_template
    ids = torch.arange(40)[None]
    assert torch.equal(hybrid(ids).logits, again(ids).logits)


def test_a_tokenizer_that_is_there_is_not_written_over(folder, tmp_path):
    model, _ = lr.load(folder, device="cpu")
    hybrid = lr.convert(model, lr.AttentionPattern(16, 1, 2, 0), max_length=4096)
    make_tokenizer(chat=False).save_pretrained(tmp_path / "hybrid")
    hybrid.save_pretrained(tmp_path / "hybrid")
    assert lr.load(tmp_path / "hybrid", device="cpu")[1].chat_template is None
