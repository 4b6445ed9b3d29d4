"""Hybrid models in the tools around them: quantized weights, offloading, placement, torch.compile; bad input."""

import contextlib
import json
import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import AutoModelForCausalLM

import longreach
from longreach.errors import UsageError
from longreach.models.cached import CACHE, cache_in
from longreach.models.hybrid.families import HybridLlamaConfig
from tests.conftest import make_model
from tests.models.test_hybrid import PATTERN, close, greedy, ids_of, make_hybrid


@pytest.fixture(autouse=True)
def _no_grad():
    torch.compiler.reset()
    with torch.no_grad():
        yield


# -- quantized weights (where the libraries are installed) -----------------------------------------------------------


def check_quantized(stock, path, kind):
    """What is quantized is converted, saved and loaded as it is; a cache changes nothing, nor does the hybrid twin."""
    ids, dense = ids_of(50), longreach.AttentionPattern(64, 0, 8)
    close(longreach.convert(stock, dense, [1], max_length=2048)(ids).logits, stock(ids).logits)
    model = longreach.convert(stock, PATTERN, [1], max_length=2048)
    assert kind in repr(model.model.layers[0].self_attn.q_proj)
    assert (model(ids).logits - make_hybrid(**WIDE)(ids).logits).abs().max() > 1e-3
    assert torch.equal(greedy(model, ids), greedy(model, ids, use_cache=False))
    model.save_pretrained(path)
    loaded = AutoModelForCausalLM.from_pretrained(path)
    assert kind in repr(loaded.model.layers[0].self_attn.q_proj)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


WIDE = {"hidden_size": 64, "head_dim": 16}  # what kernels of four bits ask for


def test_torchao_int8_weights(tmp_path):
    torchao = pytest.importorskip("torchao.quantization", reason="only where torchao is installed")
    from transformers import TorchAoConfig

    make_model(**WIDE).save_pretrained(tmp_path / "stock")
    config = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "stock", quantization_config=config)
    check_quantized(stock, tmp_path / "hybrid", "Int8Tensor")
    by_hand = make_model(**WIDE)
    torchao.quantize_(by_hand, torchao.Int8WeightOnlyConfig())
    hybrid = longreach.convert(by_hand, PATTERN, [1], max_length=2048)
    assert torch.equal(greedy(hybrid, ids_of(50)), greedy(hybrid, ids_of(50), use_cache=False))


@pytest.mark.parametrize("bits, kind", [(8, "Linear8bitLt"), (4, "Linear4bit")])
def test_bitsandbytes_weights(tmp_path, bits, kind):
    pytest.importorskip("bitsandbytes", reason="only where bitsandbytes is installed")
    from transformers import BitsAndBytesConfig

    make_model(**WIDE).save_pretrained(tmp_path / "stock")
    config = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "stock", quantization_config=config, device_map="cpu")
    check_quantized(stock, tmp_path / "hybrid", kind)


# -- where weights and caches lie ------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said without a GPU")
def test_offloading_a_cache_without_a_gpu_says_so():
    model = make_hybrid()
    for call in (
        lambda: model.new_cache(offloading=True),
        lambda: greedy(model, ids_of(20), cache_implementation="offloaded"),
    ):
        with pytest.raises(UsageError, match="there is no GPU here; omit it"):
            call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_offloaded_cache_gives_the_same_on_a_gpu():
    model, ids = make_hybrid(num_hidden_layers=6, full=(1, 2, 4)).cuda(), ids_of(37).cuda()
    assert torch.equal(greedy(model, ids, cache_implementation="offloaded"), greedy(model, ids))


def test_only_full_layers_are_offloaded_and_each_is_fetched_before_its_turn(monkeypatch):
    """The order of moves, with a stream that does nothing in place of a GPU's."""

    class Stream(contextlib.nullcontext):
        def wait_stream(self, other):
            pass

    model, ids, moves = make_hybrid(num_hidden_layers=6, full=(1, 2, 4)), ids_of(37), []
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch, "Stream", Stream)
        cache = model.new_cache(offloading=True)
    for index, layer in enumerate(cache.layers):
        for name in ("offload", "prefetch"):
            monkeypatch.setattr(layer, name, lambda index=index, name=name: moves.append((name, index)))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: Stream())
    want = greedy(model, ids)
    assert torch.equal(greedy(model, ids, **{CACHE: cache}), want)
    step = [("prefetch", 2), ("offload", 1), ("prefetch", 4), ("offload", 2), ("prefetch", 1), ("offload", 4)]
    assert moves == step * 40


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_a_hybrid_is_placed_when_it_is_loaded(tmp_path, device_map):
    model, ids = make_hybrid(), ids_of(50)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=device_map)
    close(loaded(ids.to(loaded.device)).logits.cpu(), model(ids).logits)
    assert type(loaded) is type(model)


def test_sparse_and_full_layers_may_wait_on_the_disk(tmp_path):
    model, ids = make_hybrid(), ids_of(50)
    model.save_pretrained(tmp_path)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {"model.layers.0": "disk", "model.layers.1": "disk", "model.layers.2": "cpu"}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "disk")
    assert loaded.model.layers[0].self_attn.q_proj.weight.device.type == "meta"
    assert torch.equal(greedy(loaded, ids), greedy(model, ids))
    dense = longreach.AttentionPattern(64, 0, 8)
    converted = longreach.convert(loaded, dense, [1], max_length=2048)
    close(converted(ids).logits, make_hybrid(pattern=dense)(ids).logits)


# -- torch.compile ---------------------------------------------------------------------------------------------------


NO_COMPILER = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")


@pytest.mark.slow
@pytest.mark.parametrize("backend, lengths", [("eager", (40, 61)), pytest.param("inductor", (40,), marks=NO_COMPILER)])
def test_the_whole_forward_is_compiled(backend, lengths):
    model = make_hybrid(num_hidden_layers=2)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for length in lengths:
        close(compiled(ids_of(length), use_cache=False).logits, model(ids_of(length), use_cache=False).logits)


@pytest.mark.slow
def test_a_compiled_model_reads_a_growing_cache_and_soon_has_all_its_programs():
    model, ids = make_hybrid(num_hidden_layers=2), ids_of(40)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    cache, parts, programs = None, [], []
    for part in ids.split([20, *[1] * 20], 1):
        output = compiled(part, **{CACHE: cache})
        cache = cache_in(output)
        parts.append(output.logits)
        programs.append(counter.frame_count)
    close(torch.cat(parts, 1), model(ids).logits)
    assert programs[4] == programs[-1] > 0  # five blocks later


@pytest.mark.slow
def test_a_compiled_model_generates_with_a_static_cache():
    model, ids = make_hybrid(num_hidden_layers=2), ids_of(37)
    want = greedy(model, ids, 4)
    model.forward = torch.compile(model.forward, backend="eager")
    assert torch.equal(greedy(model, ids, 4, cache_implementation="static"), want)


@pytest.mark.slow
def test_a_compiled_training_step_has_the_same_gradients():
    gradients = []
    for compiled in (False, True):
        model = make_hybrid().train()
        run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        with torch.enable_grad():
            run(ids_of(61), labels=ids_of(61), use_cache=False).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert len(gradients[0]) > 20
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


# -- what bad input gets: the value, what is allowed, what to do -----------------------------------------------------
# Elsewhere: values of a pattern alone in tests/test_pattern.py; impl="triton" with neither GPU nor interpreter in
# tests/kernels/test_attention.py; context_parallel in test_hybrid.py; other sequence parallelism in test_parallel.py.


def pattern(**values):
    return longreach.AttentionPattern(**({"block_size": 4, "sink_blocks": 1, "local_blocks": 2} | values))


@pytest.mark.parametrize(
    "options, words",
    [
        (lambda: {"pattern": pattern(block_size=48)}, ["block_size is 48", "power of two", "32 or 64"]),
        # The window is what the model is to read (max_length): a pattern whose own is larger would be full attention.
        (lambda: {"pattern": pattern(block_size=4096)}, ["max_length is 2048", "at least 8192", "2 blocks of 4096"]),
        (lambda: {"pattern": pattern(local_blocks=0)}, ["local_blocks is 0", "at least 1"]),
        (lambda: {"pattern": pattern(stride=-3)}, ["stride is -3", "at least 0"]),
        (lambda: {"full_layers": [0, 7]}, ["7", "0 to 2"]),
        (lambda: {"full_layers": -1}, ["-1", "0 to 3"]),
        (lambda: {"attn_implementation": "flash_attention_2"}, ["'flash_attention_2'", "needs a GPU", "use 'sdpa'"]),
    ],
)
def test_a_conversion_that_cannot_be_is_refused(options, words):
    with pytest.raises(UsageError) as caught:
        longreach.convert(make_model(), **({"pattern": PATTERN, "max_length": 2048} | options()))
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_family_without_support_is_named_with_those_that_have_it():
    with pytest.raises(UsageError, match=r"GemmaForCausalLM \(gemma\).*llama, mistral, qwen2, qwen3"):
        longreach.convert(make_model("gemma"), PATTERN)


@pytest.mark.parametrize(
    "edit, word",
    [
        ({"sparse_attention": {"block_size": 48}}, "power of two"),
        ({"sparse_attention": {"blocks": 3}}, "blocks"),
        ({"full_layers": [5]}, "0 to 2"),
    ],
)
def test_a_config_that_was_edited_badly_is_refused_when_it_is_loaded(tmp_path, edit, word):
    make_hybrid().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(UsageError, match=word):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert HybridLlamaConfig.from_pretrained(tmp_path).model_type == "longreach_llama"


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said without a GPU")
def test_flash_attention_chosen_after_conversion_is_refused_on_a_cpu():
    model = make_hybrid()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UsageError, match=r"'flash_attention_2', which needs a GPU.*use 'sdpa'"):
        model(ids_of(10))


def test_a_static_cache_shorter_than_what_it_is_to_hold_is_refused():
    model = make_hybrid()
    with pytest.raises(UsageError, match="30 tokens do not fit a static cache of 20; make one for at least the prompt"):
        model(ids_of(30), **{CACHE: model.new_cache(max_length=20)})
    cache = cache_in(model(ids_of(20), **{CACHE: model.new_cache(max_length=20)}))
    with pytest.raises(UsageError, match="1 token after 20 do not fit a static cache of 20"):
        model(ids_of(1), **{CACHE: cache})
    with pytest.raises(UsageError, match="at least 1"):
        model.new_cache(max_length=0)
