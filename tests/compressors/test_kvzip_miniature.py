"""In miniature: facts are recalled from the entries that KVZip keeps, and not from as many at random."""

import sys
from pathlib import Path

import pytest
import torch

import longreach as lr
from longreach.compressors.memory import KeysValues, LayerEntries
from longreach.compressors.placing import place_all
from longreach.models.cached import CACHE

sys.path.append(str(Path(__file__).resolve().parents[2] / "recipes"))

TOKENS, FACTS, TEXTS = 64, 3, 64
STAGES = [(8, 3), (12, 4), (16, 5), (24, 6), (32, 8), (TOKENS, 8)]


def answer(model, facts, memories):
    """Logits of the questions behind a memory for each text."""
    found = []
    for memory, asked in zip(memories, facts.questions, strict=True):
        placed = place_all(model, [memory])
        positions = torch.arange(placed.position, placed.position + len(asked))[None]
        with torch.no_grad():
            out = model(asked[None], position_ids=positions, use_cache=True, **{CACHE: placed.cache})
        found.append(out.logits)
    return torch.cat(found)


def at_random(memory, seed):
    """As many entries of a memory that has all, the first ones always, at random places."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for number, layer in memory.layers.items():
        heads, count, size = layer.keys.shape
        order = 8 + torch.rand(heads, count - 8, generator=generator).argsort(1)[:, : count // 4 - 8]
        first = torch.arange(8).expand(heads, -1)
        places = torch.cat([first, order], 1).sort(1).values
        chosen = places[..., None].expand(-1, -1, size)
        layers[number] = LayerEntries(layer.keys.gather(1, chosen), layer.values.gather(1, chosen), places)
    return KeysValues(layers, memory.length, memory.head, memory.sink)


@pytest.mark.slow
def test_facts_are_recalled_from_a_quarter_of_the_entries():
    from facts import draw, make_model, make_tokenizer, train

    model = make_model(4, 256, 0)
    train(model, lambda batch: batch.loss(model(input_ids=batch.ids).logits), STAGES, 1, steps=400)
    model.eval().requires_grad_(False)
    facts = draw(TEXTS, TOKENS, FACTS, torch.Generator().manual_seed(3))
    recall = {"full": facts.right(model(input_ids=facts.ids).logits)}
    texts = facts.text.tolist()
    whole = lr.KVZip(model, make_tokenizer(), 1, segment_tokens=TOKENS, store="float32")
    quarter = lr.KVZip(model, make_tokenizer(), 4, segment_tokens=TOKENS)
    small = lr.KVZip(model, make_tokenizer(), 4, segment_tokens=TOKENS, store="int8")
    every = [whole.read(text) for text in texts]
    recall["all"] = facts.right(answer(model, facts, every))
    recall["kvzip"] = facts.right(answer(model, facts, [quarter.read(text) for text in texts]))
    recall["int8"] = facts.right(answer(model, facts, [small.read(text) for text in texts]))
    recall["random"] = facts.right(answer(model, facts, [at_random(memory, n) for n, memory in enumerate(every)]))
    shares = {name: hits.float().mean().item() for name, hits in recall.items()}
    assert shares["full"] > 0.9 and shares["all"] == shares["full"]
    assert shares["kvzip"] >= 0.95 * shares["full"] and shares["int8"] >= 0.95 * shares["full"]
    assert shares["random"] < 0.6 * shares["kvzip"]
