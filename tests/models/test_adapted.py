"""A hybrid that is kept as an adapter over another model: `recipes/ship.py` writes it, `longreach.load` reads it."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

import longreach
from longreach.errors import ModelError
from longreach.models.fingerprint import base_fingerprint, weights_digest
from longreach.models.hybrid import adapted as folders
from longreach.training.extend import adapter
from longreach.training.extend.settings import ExtendSettings
from tests.conftest import make_model, make_tokenizer

SHIP = Path(__file__).resolve().parents[2] / "recipes" / "ship.py"
PATTERN = longreach.AttentionPattern(block_size=16, sink_blocks=1, local_blocks=2, stride=0)


@pytest.fixture(params=[("theta", False), ("yarn", False), ("theta", True)], ids=["plain", "yarn", "tied embeddings"])
def shipped(request, tmp_path, monkeypatch):
    """What `longreach extend --lora-rank --train-norms` writes, and the folder that ships of it."""
    rope, tied = request.param
    stock, tokenizer = make_model(max_position_embeddings=128, tie_word_embeddings=tied), make_tokenizer()
    stock.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = longreach.convert(stock, PATTERN, max_length=512, rope=rope)
    settings = ExtendSettings(length=512, lora_rank=4, train_norms=True, train_embeddings=tied)
    trained = adapter.attach(model, settings, torch.float32)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    merged = adapter.merge(trained, tmp_path / "made" / "adapter")
    merged.save_pretrained(tmp_path / "made")
    out, base = tmp_path / "shipped" / "tiny-32k", str(tmp_path / "base")
    monkeypatch.setattr(sys, "argv", ["ship.py", str(tmp_path / "made"), str(out), "--base", base])
    runpy.run_path(str(SHIP), run_name="__main__")
    monkeypatch.setattr(folders, "SHIPPED", tmp_path / "shipped")
    return out, merged


@pytest.mark.parametrize("by_name", [True, False])
def test_what_ships_is_the_hybrid_that_was_trained(shipped, by_name):
    folder, merged = shipped
    model, tokenizer = longreach.load(folder.name if by_name else folder)
    ids = torch.arange(300)[None] % 200
    with torch.no_grad():
        here, there = model(ids).logits, merged(ids).logits
        bare = longreach.load(json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"])[0]
        untrained = longreach.convert(bare, PATTERN, max_length=512)(ids).logits
    assert (here - there).abs().max() < 0.02 * (untrained - there).abs().max()  # the adapter was rounded to bfloat16
    plain = dict.fromkeys(("dtype", "_name_or_path"))
    assert model.config.to_dict() | plain == merged.config.to_dict() | plain
    assert tokenizer("abc")["input_ids"] == make_tokenizer()("abc")["input_ids"] and not model.training
    halved, _ = longreach.load(folder, dtype="bfloat16")
    assert halved.dtype == torch.bfloat16 and base_fingerprint(halved, tokenizer) == base_fingerprint(model, tokenizer)
    assert weights_digest(halved) != weights_digest(model)


def test_an_adapter_that_does_not_fit_is_refused_in_one_sentence(shipped, tmp_path):
    folder, _ = shipped
    settings = folder / "adapter_config.json"
    there = settings.read_text()
    for text, said in (("{", "is not valid JSON"), ("{}", "names no base_model_name_or_path")):
        settings.write_text(text)
        with pytest.raises(ModelError, match=said):
            longreach.load(folder)
    settings.write_text(there)
    make_model(hidden_size=48, max_position_embeddings=128).save_pretrained(tmp_path / "base")
    with pytest.raises(ModelError, match="tiny-32k' do not fit"):
        longreach.load(folder)


@pytest.mark.slow
@pytest.mark.real
def test_the_hybrid_that_ships_reads_better_than_the_one_that_is_only_converted(smollm2):
    folder = folders.SHIPPED / "smollm2-longgen-32k"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 25_000_000
    card = (folder / "README.md").read_text()
    assert all(f"## {part}" in card for part in ("Data", "Training", "Results", "License"))
    model, tokenizer = longreach.load(folder.name, device="cpu")
    assert (model.config.max_position_embeddings, model.config.full_layers) == (32_768, list(range(10, 20)))
    text = (Path(__file__).resolve().parents[2] / "examples" / "alice.txt").read_text(encoding="utf-8")
    ids = torch.tensor([tokenizer(text[20_000:24_000], add_special_tokens=False)["input_ids"]])
    untrained = longreach.convert(smollm2[0], full_layers="middle-third", max_length=32_768)
    with torch.no_grad():
        ours, theirs = (float(one(ids, labels=ids).loss) for one in (model, untrained))
    assert ours < theirs - 0.1
