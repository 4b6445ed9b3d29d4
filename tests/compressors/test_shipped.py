"""Compressors that come with the package: found by name, and taken for the model they were made for."""

import json

import pytest
import torch

from longreach import AutoCompressor, Corpus
from longreach.compressors import shipped
from longreach.compressors.registry import default_compressor, make_compressor
from longreach.engine.prompt import PromptBuilder
from longreach.models.decoder import add_adapter, only_adapter
from longreach.session import open_or_create, open_workspace
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
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "shipped")
    return base


def test_it_is_the_default_of_its_model_only(ours):
    assert default_compressor(str(ours)) == "tiny-autocompressor"
    assert default_compressor("another") == "mean-pool"


def test_a_corpus_keeps_its_name_and_not_where_it_lies(ours, tmp_path):
    store = tmp_path / "store"
    open_or_create(store, "c", model_ref=str(ours), ratio=8).corpus.add("The Queen of Hearts, she made some tarts.")
    settings = json.loads((store / "c" / "corpus.json").read_text())
    assert settings["compressor_ref"] == "tiny-autocompressor" and str(tmp_path / "shipped") not in str(settings)
    (document,) = Corpus.open(store, "c").documents()
    assert {memory.scale for memory in Corpus.open(store, "c").memories(document.revision)} == {0.5}
    opened = open_workspace(store, "c")
    assert opened.corpus.compressor.summary_tokens == 2
    assert opened.corpus.add("The Knave of Hearts, he stole those tarts.").added


def test_by_name_with_settings(ours):
    compressor = make_compressor("tiny-autocompressor", make_model(), make_tokenizer(), summary_tokens=1)
    assert (compressor.summary_tokens, compressor.scale) == (1, 0.5)


TEXT = (
    "Once upon a time a miller lived by the river with his only daughter. One morning she went into the forest to "
    "gather wood, and under an old oak she found a golden key. She hid it in her apron and told only the grey cat."
)
OTHER = (
    "The king had three sons, and the youngest was thought a fool. When the war came, the two elder brothers rode away "
    "on white horses, and he was left behind to feed the geese and to mend the fence of the castle garden."
)
ASKED = {"What did the daughter find under the oak?": "a golden key", "Whom did she tell?": "the grey cat"}


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("name", shipped.shipped())
def test_what_ships_says_what_it_is_and_carries_what_it_read(name, smollm2):
    folder = shipped.shipped()[name]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 25_000_000
    card = (folder / "README.md").read_text()
    assert all(f"## {part}" in card for part in ("Data", "Training", "Results", "License"))
    model, tokenizer = smollm2
    compressor = make_compressor(name, model, tokenizer, ratio=4)
    prompts = PromptBuilder(compressor.model, tokenizer)
    adapter = add_adapter(compressor.model, compressor.reader) if compressor.reader else None

    def loss(text):
        (vectors,) = compressor.compress([prompts.plain(text)])
        losses = []
        for question, answer in ASKED.items():
            ids = torch.tensor(prompts.answer(answer))
            embeds = torch.cat([prompts.build([vectors], [], question).embeds, compressor.embed(ids[:-1].tolist())])
            with torch.no_grad(), only_adapter(compressor.model, adapter):
                logits = compressor.model(inputs_embeds=embeds[None], logits_to_keep=len(ids)).logits[0]
            losses.append(float(torch.nn.functional.cross_entropy(logits.float(), ids)))
        return sum(losses) / len(losses)

    assert loss(TEXT) < loss(OTHER) - 0.5
