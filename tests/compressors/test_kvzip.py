"""KVZip keeps what an untiled eager implementation of it keeps; it stores, refuses and resumes."""

import math
import threading

import pytest
import torch
from transformers import DynamicCache, MambaConfig, MambaForCausalLM

import longreach as lr
from longreach.compressors.jobs import Job
from longreach.compressors.kvzip import compressor as kvzip
from longreach.compressors.memory import KeysValues, read_memory
from longreach.errors import ModelError, UsageError
from longreach.models.cached import CACHE
from tests.conftest import make_model, make_tokenizer

TEXT = "The Knave of Hearts, he stole those tarts, and took them quite away. " * 3
FULL = {"llama": [0, 1, 2], "qwen2": [0, 1, 2], "qwen3": [0, 1, 2], "gemma": [0, 1, 2]}
# One layer out of three or four sees all, the others a window.
MIXED = {"gemma2": [1], "gemma3": [5]}
WINDOW = 16


def reference(model, head, ids, repeat, chunk, ratio, sink=8):
    """Places that each layer keeps, out of whole attention matrices in float32."""
    config = model.config
    usual = config._attn_implementation
    config._attn_implementation = "eager"
    total = len(head) + len(ids)
    count = min(total, max(sink, math.ceil(total / ratio)))
    best = None
    with torch.no_grad():
        for start in range(0, len(ids), chunk):
            read = [*head, *ids, *repeat, *ids[start : start + chunk]]
            # Without a cache: every position attends to all before it, the chunk after the segment.
            out = model(torch.tensor([read]), use_cache=False, output_attentions=True)
            found = []
            for weights in out.attentions:
                mine = weights[0, :, total:, :total]
                heads = config.num_key_value_heads
                found.append(mine.reshape(heads, -1, total).amax(1))
            now = torch.stack(found)
            best = now if best is None else torch.maximum(best, now)
    config._attn_implementation = usual
    best[:, :, :sink] = 2
    return best, best.topk(count, dim=-1).indices.sort(-1).values


def make(family, **options):
    shape = {"num_hidden_layers": 6} if family == "gemma3" else {}
    model = make_model(family, **shape)
    return lr.KVZip(model, make_tokenizer(), segment_tokens=300, **options)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("family, full", [*FULL.items(), *MIXED.items()])
def test_it_keeps_what_an_untiled_eager_implementation_keeps(family, full, eager, monkeypatch):
    monkeypatch.setattr(kvzip, "_CHUNK_TOKENS", 64)
    monkeypatch.setattr("longreach.models.scoring._ROWS", {"cpu": 20, "cuda": 20})
    compressor = make(family, ratio=4, store="float32")
    model = compressor.model
    usual = model.config._attn_implementation
    if eager:
        model.config._attn_implementation = "eager"
    ids = compressor.tokenizer(TEXT)["input_ids"]
    memory = compressor.read(ids)
    head = compressor.tokenizer("<|user|>")["input_ids"]
    repeat = compressor.tokenizer("\n\nRepeat the previous context:\n\n")["input_ids"]
    scores, places = reference(model, head, ids, repeat, 64, 4)
    assert memory.length == len(head) + len(ids) and memory.head == len(head)
    cache = DynamicCache()
    with torch.no_grad():
        model(torch.tensor([[*head, *ids]]), use_cache=True, **{CACHE: cache})
    for number, layer in memory.layers.items():
        if number not in full:
            assert layer.places[0].tolist() == list(range(memory.length - WINDOW + 1, memory.length))
            continue
        mine = scores[number].gather(1, layer.places.long())
        assert torch.allclose(mine, scores[number].gather(1, places[number]), atol=1e-5)
        assert (layer.places == places[number]).float().mean() > 0.98  # the rest are ties
        held = cache.layers[number].keys[0]
        chosen = layer.places.long()[..., None].expand(-1, -1, held.shape[-1])
        assert torch.allclose(layer.keys, held.gather(1, chosen), atol=1e-5)
    assert model.config._attn_implementation == ("eager" if eager else usual)


def test_what_a_segment_becomes_follows_the_ratio():
    ids = make_tokenizer()(TEXT)["input_ids"]
    for ratio, kept in [(1, 208), (3, 70), (30, 8)]:
        memory = make("llama", ratio=ratio).read(ids)
        assert memory.length == len(ids) + 1 == 208
        assert memory.positions == kept
        for layer in memory.layers.values():
            assert layer.places[:, :8].tolist() == [list(range(8))] * 2
            assert layer.keys.dtype == layer.values.dtype == torch.bfloat16 and layer.places.dtype == torch.int16


def test_int8_loses_less_than_a_step_of_its_scale_and_halves_the_bytes():
    ids = make_tokenizer()(TEXT)["input_ids"]
    exact = make("llama", ratio=2, store="float32").read(ids)
    half = make("llama", ratio=2).read(ids)
    small = make("llama", ratio=2, store="int8").read(ids)
    assert len(small.to_bytes()) < 0.7 * len(half.to_bytes())
    small = read_memory(small.kind, small.to_bytes())
    for number, layer in exact.layers.items():
        other = small.layers[number]
        assert torch.equal(layer.places, other.places)
        for read, scale in (("keys", other.key_scale), ("values", other.value_scale)):
            was = getattr(layer, f"read_{read}")("cpu", torch.float32)
            now = getattr(other, f"read_{read}")("cpu", torch.float32)
            assert ((was - now).abs() <= scale / 2 + 1e-6).all()


def test_long_documents_become_several_segments_and_those_that_are_done_are_not_read_again():
    compressor = lr.KVZip(make_model(), make_tokenizer(), 2, segment_tokens=100, passage_tokens=40)
    ids = list(range(10, 250))
    assert compressor.segments(240) == [range(0, 100), range(100, 200), range(200, 240)]
    assert compressor.passages(range(100, 200)) == [range(100, 140), range(140, 180), range(180, 200)]
    made = list(compressor.stream([Job("a", ids)]))
    assert [(key, segment, memory.length) for key, segment, memory in made] == [
        ("a", 0, 101),
        ("a", 1, 101),
        ("a", 2, 41),
    ]
    (rest,) = compressor.stream([Job("a", ids, [memory for *_, memory in made[:2]])])
    assert rest.segment == 2 and rest.memory.to_bytes() == made[2].memory.to_bytes()
    assert isinstance(rest.memory, KeysValues)


def test_by_default_a_segment_takes_half_the_window_and_4096_tokens_at_most():
    model, tokenizer = make_model(), make_tokenizer()
    assert lr.KVZip(model, tokenizer).segment_tokens == 1024 - 1
    model.config.max_position_embeddings = 100_000
    assert lr.KVZip(model, tokenizer).segment_tokens == 4096


@pytest.mark.parametrize(
    "options, words",
    [
        ({"ratio": 0.5}, "ratio is 0.5; it must be at least 1"),
        ({"ratio": 31}, "ratio is 31; it must be at most 30"),
        ({"store": "int4"}, "store is 'int4'"),
        ({"passage_tokens": 0}, "passage_tokens is 0"),
        ({"segment_tokens": 0}, "segment_tokens is 0"),
        ({"segment_tokens": 1700}, "takes 2245 positions, and the model's window has 2048: lower segment_tokens"),
    ],
)
def test_settings_out_of_range_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        lr.KVZip(make_model(), make_tokenizer(), **options)


def test_models_without_keys_and_values_of_their_whole_input_are_refused():
    mamba = MambaForCausalLM(MambaConfig(vocab_size=260, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(ModelError, match="use a decoder with attention"):
        lr.KVZip(mamba, make_tokenizer())
    with pytest.raises(ModelError, match="No layer of MistralForCausalLM keeps keys and values of its whole input"):
        lr.KVZip(make_model("mistral"), make_tokenizer())


def test_another_thread_may_use_the_model_meanwhile():
    compressor = make("llama", ratio=4)
    ids = compressor.tokenizer(TEXT)["input_ids"]
    alone = compressor.read(ids).to_bytes()
    found = []
    threads = [threading.Thread(target=lambda: found.append(compressor.read(ids).to_bytes())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 3
