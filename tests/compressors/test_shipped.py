"""Compressors that come with the package: found by name, and taken for the model they were made for."""

import json

import pytest

from longreach import AutoCompressor, Corpus
from longreach.compressors import shipped
from longreach.workspace import default_compressor, make_compressor, open_or_create, open_workspace
from tests.conftest import make_model, make_tokenizer


@pytest.fixture
def ours(tmp_path, monkeypatch):
    """A shipped compressor for the model in the folder `base`."""
    model, tokenizer = make_model(), make_tokenizer()
    base = tmp_path / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    compressor = AutoCompressor(model, tokenizer, 4, 16, "independent", scale=0.5)
    for name, chosen in (("a-weaker-one", {}), ("tiny-autocompressor", {"default": True})):
        compressor.save(tmp_path / "shipped" / name, model_ref=str(base))
        path = tmp_path / "shipped" / name / "compressor.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | chosen))
    (tmp_path / "shipped" / "README.md").write_text("Not a compressor.")
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path / "shipped")
    return base


def test_it_is_the_default_of_its_model_only(ours):
    assert default_compressor(str(ours)) == "tiny-autocompressor"
    assert default_compressor("another") == "mean-pool"


def test_a_corpus_keeps_its_name_and_not_where_it_lies(ours, tmp_path):
    store = tmp_path / "store"
    open_or_create(store, "c", model_ref=str(ours), ratio=8).corpus.add("The Queen of Hearts, she made some tarts.")
    settings = json.loads((store / "c" / "corpus.json").read_text())
    assert settings["compressor_ref"] == "tiny-autocompressor" and str(tmp_path / "shipped") not in str(settings)
    assert Corpus.open(store, "c").settings.scale == 0.5
    opened = open_workspace(store, "c")
    assert opened.corpus.compressor.summary_tokens == 2
    assert opened.corpus.add("The Knave of Hearts, he stole those tarts.").added


def test_by_name_with_settings(ours):
    compressor = make_compressor("tiny-autocompressor", make_model(), make_tokenizer(), summary_tokens=1)
    assert (compressor.summary_tokens, compressor.scale) == (1, 0.5)
