"""Keys and values in a KV cache are read as the text is: all entries, several segments, any window."""

import pytest
import torch

import longreach as lr
from longreach.compressors.memory import KeysValues
from longreach.compressors.placing import place_all
from longreach.errors import FingerprintMismatch
from longreach.models.cached import CACHE
from longreach.models.rotation import can_move, move_keys
from longreach.models.steps import Steps, empty_cache
from tests.conftest import make_model, make_tokenizer

TEXT = "The Knave of Hearts, he stole those tarts, and took them quite away."
QUESTION = "\n\nWho stole the tarts?"
FAMILIES = ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"]


def make(family, ratio=1, store="float32", **shape):
    if family == "gemma3":
        shape = {"num_hidden_layers": 6} | shape
    return lr.KVZip(make_model(family, **shape), make_tokenizer(), ratio, segment_tokens=200, store=store)


def encode(compressor, text):
    return compressor.tokenizer(text)["input_ids"]


def cache_at(model, ids, position):
    """The cache after ids that stand at `position` and on."""
    cache = empty_cache(model)
    places = torch.arange(position, position + len(ids))[None]
    with torch.no_grad():
        model(torch.tensor([ids]), position_ids=places, use_cache=True, **{CACHE: cache})
    return cache


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_entries_are_read_as_the_text_is(family, chunk):
    compressor = make(family)
    model = compressor.model
    head, ids, asked = encode(compressor, "<|user|>"), encode(compressor, TEXT), encode(compressor, QUESTION)
    placed = place_all(model, [compressor.read(ids)])
    assert placed.entries == placed.position == len(head) + len(ids)
    steps = Steps(model, 200, cache=placed.cache, offset=placed.position - placed.entries)
    for start in range(0, len(asked), chunk):
        logits = steps.read(torch.tensor([asked[start : start + chunk]]))
    with torch.no_grad():
        expected = model(torch.tensor([[*head, *ids, *asked]])).logits[0, -1]
    assert torch.allclose(logits[0], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_next_stands_behind_the_segment_and_sees_the_kept_entries_only(family):
    compressor = make(family, ratio=4)
    model = compressor.model
    head, ids, asked = encode(compressor, "<|user|>"), encode(compressor, TEXT), encode(compressor, QUESTION)
    memory = compressor.read(ids)
    placed = place_all(model, [memory])
    total = len(head) + len(ids)
    assert placed.position == total and placed.entries < total / 2
    steps = Steps(model, 200, cache=placed.cache, offset=total - placed.entries)
    logits = steps.read(torch.tensor([asked]))

    # The reference reads the whole text, and hides what was dropped, head by head, from what follows.
    config = model.config
    config._attn_implementation = "eager"
    repeat = config.num_attention_heads // config.num_key_value_heads
    full = [kind == "full_attention" for kind in getattr(config, "layer_types", None) or []]
    whole = cache_at(model, [*head, *ids], 0)
    for number, layer in enumerate(model.model.layers):
        if full and not full[number]:
            continue
        kept = torch.zeros(config.num_key_value_heads, total, dtype=torch.bool)
        kept.scatter_(1, memory.layers[number].places.long(), True)
        hide = torch.zeros(1, config.num_attention_heads, len(asked), total + len(asked))
        hide[0, :, :, :total].masked_fill_(~kept.repeat_interleave(repeat, 0)[:, None], -1e9)

        def hidden(module, args, kwargs, hide=hide):
            return args, kwargs | {"attention_mask": kwargs["attention_mask"] + hide}

        layer.self_attn.register_forward_pre_hook(hidden, with_kwargs=True)
    with torch.no_grad():
        expected = model(torch.tensor([asked]), use_cache=True, **{CACHE: whole}).logits[0, -1]
    assert torch.allclose(logits[0], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_are_moved_as_the_model_rotates_them(family):
    model = make(family).model
    ids = encode(make(family), TEXT)[:12]
    assert can_move(model)
    here, there = cache_at(model, ids, 5), cache_at(model, ids, 905)
    for number, (one, other) in enumerate(zip(here.layers, there.layers, strict=True)):
        assert torch.allclose(move_keys(model, number, one.keys[0], 900), other.keys[0], atol=1e-3)
        assert torch.allclose(move_keys(model, number, other.keys[0], -900), one.keys[0], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_segments_stand_one_after_the_other_with_one_sink(family):
    compressor = make(family)
    model = compressor.model
    head = encode(compressor, "<|user|>")
    parts = [encode(compressor, text) for text in (TEXT, "And he beat him full sore.", "The King called for them.")]
    placed = place_all(model, [compressor.read(ids) for ids in parts])
    total = len(head) + sum(map(len, parts))
    assert placed.position == total
    end = len(head) + len(parts[0])
    expected = [cache_at(model, [*head, *parts[0]], 0)]
    for ids in parts[1:]:
        expected.append(cache_at(model, [*head, *ids], end - len(head)))
        end += len(ids)
    for number, layer in enumerate(placed.cache.layers):
        sliding = layer.is_sliding
        for name in ("keys", "values"):
            whole = getattr(expected[0].layers[number], name)
            rest = [getattr(cache.layers[number], name) for cache in expected[1:]]
            skip = len(head) if sliding else 8
            found = getattr(layer, name)
            if sliding:  # the last 15 positions all lie in the last segment
                assert torch.allclose(found, rest[-1][:, :, -15:], atol=1e-3)
                continue
            joined = torch.cat([whole, *(part[:, :, skip:] for part in rest)], 2)
            assert torch.allclose(found, joined, atol=1e-3)


def test_memories_of_another_shape_are_refused():
    memory = make("llama").read([10, 11, 12])
    for shape in ({"num_key_value_heads": 1}, {"head_dim": 16}, {"num_hidden_layers": 4}):
        with pytest.raises(FingerprintMismatch, match=r"model of another shape than .* ingest the documents again"):
            place_all(make("llama", **shape).model, [memory])


def test_int8_and_bfloat16_are_read_nearly_as_they_were():
    ids = list(range(10, 90))
    exact = make("llama").read(ids)
    model = make("llama").model
    asked = torch.tensor([[5, 6, 7]])
    found = {}
    for store in ("float32", "bfloat16", "int8"):
        memory = KeysValues.from_bytes(make("llama", store=store).read(ids).to_bytes())
        placed = place_all(model, [memory])
        found[store] = Steps(model, 200, cache=placed.cache).read(asked).softmax(-1)
    assert exact.length == 81
    for store in ("bfloat16", "int8"):
        assert (found[store] - found["float32"]).abs().sum() < 0.1
