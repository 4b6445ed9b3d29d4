"""Hybrid models: the stock model where the pattern hides nothing; the same answer however a text is read."""

import copy
import dataclasses
import json

import peft
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache

import longreach
from longreach.caches.retained import RetainedCache
from longreach.errors import UsageError
from longreach.models.cached import CACHE, cache_in
from longreach.models.hybrid.convert import lengthen
from longreach.models.hybrid.families import FAMILIES
from longreach.models.hybrid.rope import longer_rope
from longreach.models.hybrid.sparse import plan_of
from longreach.models.loss import checkpointing
from tests.conftest import make_model, make_tokenizer

PATTERN = longreach.AttentionPattern(4, 1, 2, 3)
DENSE = longreach.AttentionPattern(64, 0, 8)
LENGTHS = (61, 23, 44)
# What the trainer calls it: the new name came during transformers 5, the old one goes in 6.
_NAMES = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
CHECKPOINTING = "activation_checkpointing" if "activation_checkpointing" in _NAMES else "gradient_checkpointing"


def make_hybrid(family="llama", pattern=PATTERN, full=(1,), **shape):
    return longreach.convert(make_model(family, **shape), pattern, list(full), max_length=2048).eval()


def ids_of(length, rows=1, seed=1):
    return torch.randint(0, 250, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def hybrid():
    return make_hybrid()


@pytest.fixture(autouse=True)
def _no_grad(request):
    with torch.set_grad_enabled("train" in request.node.name):
        yield


def greedy(model, ids, tokens=40, **options):
    return model.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0, **options)


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)


# -- what is computed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pattern_that_hides_nothing_is_the_stock_model(family):
    shape = {"sliding_window": None} if family == "mistral" else {}
    stock, ids = make_model(family, **shape), ids_of(100)
    model = longreach.convert(stock, DENSE, 1, max_length=2048)
    close(model(ids).logits, stock(ids).logits)
    assert torch.equal(greedy(model, ids), greedy(stock, ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_sparse_layers_differ_and_they_follow_the_mask(family):
    model, ids = make_hybrid(family), ids_of(61)
    wrapped, kinds = type(model).__mro__[2], [type(layer.self_attn).__name__ for layer in model.model.layers]
    assert [kind.startswith("Hybrid") for kind in kinds] == [True, False, True] and "Hybrid" not in wrapped.__name__
    close(model(ids, use_cache=False).logits, model(ids, use_cache=False, impl="reference").logits)
    everything = longreach.convert(model, DENSE, 1, max_length=2048)
    assert (everything(ids).logits - model(ids).logits).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_is_uncached(family):
    model, ids = make_hybrid(family), ids_of(37)
    assert torch.equal(greedy(model, ids), greedy(model, ids, use_cache=False))


def test_two_hundred_greedy_tokens_cached_and_not(hybrid):
    assert torch.equal(greedy(hybrid, ids_of(5), 200), greedy(hybrid, ids_of(5), 200, use_cache=False))


def test_chunks_and_turns_are_the_whole(hybrid):
    ids, cache, logits = ids_of(61), None, []
    whole = hybrid(ids).logits
    for part in ids.split([1, 7, 13, 1, 1, 18, 20], 1):
        output = hybrid(part, **{CACHE: cache})
        cache = cache_in(output)
        logits.append(output.logits)
    close(torch.cat(logits, 1), whole)
    assert cache.get_seq_length() == 61
    assert torch.equal(greedy(hybrid, ids, prefill_chunk_size=16), greedy(hybrid, ids))
    cache = hybrid.new_cache()
    first = greedy(hybrid, ids, 10, **{CACHE: cache})
    more = torch.cat([first, ids_of(9, seed=2)], 1)
    assert torch.equal(greedy(hybrid, more, 10, **{CACHE: cache}), greedy(hybrid, more, 10))


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("cached", [True, False])
def test_padded_rows_are_the_single_ones(hybrid, side, cached):
    width = max(LENGTHS) + (2 if side == "both" else 0)
    begins = [{"left": width - n, "right": 0, "both": 1}[side] for n in LENGTHS]
    rows = [ids_of(n, seed=n) for n in LENGTHS]
    ids, mask = torch.full((3, width), 7), torch.zeros(3, width, dtype=torch.long)
    for b, (row, begin) in enumerate(zip(rows, begins, strict=True)):
        ids[b, begin : begin + row.shape[1]], mask[b, begin : begin + row.shape[1]] = row, 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = hybrid(ids, attention_mask=mask, position_ids=positions, use_cache=cached)
    singles = [hybrid(row).logits for row in rows]
    for b, (single, begin) in enumerate(zip(singles, begins, strict=True)):
        close(output.logits[b, begin : begin + single.shape[1]], single[0])
    if not cached:
        return
    # Twelve more tokens one by one, then five at once, after the padding.
    cache, more = cache_in(output), ids_of(17, rows=3, seed=9)
    want = [hybrid(torch.cat([row, more[b : b + 1]], 1)).logits[0, -17:] for b, row in enumerate(rows)]
    got = []
    for part in more.split([1] * 12 + [5], 1):
        mask = torch.cat([mask, torch.ones_like(part)], 1)
        positions = (mask.cumsum(1) - 1)[:, -part.shape[1] :]
        got.append(hybrid(part, attention_mask=mask, position_ids=positions, **{CACHE: cache}).logits)
    for b in range(3):
        close(torch.cat(got, 1)[b], want[b])


def test_batched_generation_is_the_single_one(hybrid):
    rows = [ids_of(n, seed=n) for n in LENGTHS]
    width = max(LENGTHS)
    ids = torch.cat([torch.nn.functional.pad(row, (width - row.shape[1], 0)) for row in rows])
    mask = torch.cat([torch.nn.functional.pad(torch.ones_like(row), (width - row.shape[1], 0)) for row in rows])
    batched = greedy(hybrid, ids, attention_mask=mask)
    for b, row in enumerate(rows):
        assert torch.equal(batched[b, width:], greedy(hybrid, row)[0, row.shape[1] :])


@pytest.mark.slow
def test_beams_samples_and_drafts(hybrid):
    ids, plain = ids_of(37), greedy(hybrid, ids_of(37))
    beams = greedy(hybrid, ids, num_beams=3, num_return_sequences=2)
    assert torch.equal(beams, greedy(hybrid, ids, num_beams=3, num_return_sequences=2, use_cache=False))
    torch.manual_seed(3)
    sampled = hybrid.generate(ids, max_new_tokens=20, do_sample=True, eos_token_id=None, num_return_sequences=2)
    torch.manual_seed(3)
    again = hybrid.generate(
        ids, max_new_tokens=20, do_sample=True, eos_token_id=None, num_return_sequences=2, use_cache=False
    )
    assert torch.equal(sampled, again)
    looping = ids_of(6).repeat(1, 6)
    looked_up = greedy(hybrid, looping, prompt_lookup_num_tokens=4)
    assert torch.equal(looked_up, greedy(hybrid, looping))
    for assistant in (make_hybrid(seed=0), make_hybrid(num_hidden_layers=2), make_model()):
        assert torch.equal(greedy(hybrid, ids, assistant_model=assistant), plain)


def test_a_static_cache_gives_the_same(hybrid):
    for ids in (ids_of(37), ids_of(3), ids_of(8), ids_of(30, rows=2)):
        assert torch.equal(greedy(hybrid, ids, cache_implementation="static"), greedy(hybrid, ids))
    ids = ids_of(37)
    assert torch.equal(
        greedy(hybrid, ids, 20, cache_implementation="static", num_beams=3), greedy(hybrid, ids, 20, num_beams=3)
    )
    # Padding on the left, then steps, a chunk, and steps again; no tensor ever moves.
    ids, mask = ids_of(90, rows=2), torch.ones(2, 90, dtype=torch.long)
    mask[0, :13] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    want, cache, got = (
        hybrid(ids, attention_mask=mask, position_ids=positions).logits,
        hybrid.new_cache(max_length=90),
        [],
    )
    at, places = 0, set()
    for size in [30, *[1] * 15, 11, 5, *[1] * 29]:
        part = slice(at, at + size)
        at += size
        got.append(
            hybrid(ids[:, part], attention_mask=mask[:, :at], position_ids=positions[:, part], **{CACHE: cache}).logits
        )
        layer = cache.layers[0]
        places.add((layer.keys.data_ptr(), layer.far_keys.data_ptr(), layer.lengths.data_ptr()))
    close(torch.cat(got, 1)[0, 13:], want[0, 13:])
    close(torch.cat(got, 1)[1], want[1])
    assert len(places) == 1


def test_a_cache_after_drafting_goes_on(hybrid):
    cache, ids = hybrid.new_cache(), ids_of(6).repeat(1, 6)
    first = greedy(hybrid, ids, 20, prompt_lookup_num_tokens=4, **{CACHE: cache})
    assert torch.equal(greedy(hybrid, first, 20, **{CACHE: cache}), greedy(hybrid, first, 20))
    assert cache.layers[0].keys.shape[2] == PATTERN.window_tokens  # nothing is recorded any more


def test_in_bfloat16_a_cache_changes_no_more_than_rounding_does():
    ids, exact = ids_of(61), make_hybrid()(ids_of(61)).logits
    model = make_hybrid().to(torch.bfloat16)
    rounded, cache = model(ids, use_cache=False).logits, None
    parts = []
    for part in ids.split([40, *[1] * 21], 1):
        output = model(part, **{CACHE: cache})
        cache = cache_in(output)
        parts.append(output.logits)
    assert (torch.cat(parts, 1) - exact).abs().max() <= 1.5 * (rounded - exact).abs().max() + 0.02


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_bytes_are_the_patterns_arithmetic():
    pattern = longreach.AttentionPattern(4, 1, 2)
    model = make_hybrid(pattern=pattern)
    cache = cache_in(model(ids_of(99)))
    assert isinstance(cache, RetainedCache)
    plan, heads, dim = plan_of(model.config), 2, 8
    exact = plan.kv_bytes(pattern, 99, heads, dim, 4)
    for layer, retained in zip(cache.layers, exact, strict=True):
        tensors = [value for value in vars(layer).values() if isinstance(value, torch.Tensor)]
        held = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
        # 99 tokens end one short of a block: that slot is the only one more than the retained tokens.
        assert held == retained + (0 if type(layer).__name__ == "DynamicLayer" else 2 * heads * dim * 4)


def test_freed_tokens_cannot_matter(hybrid):
    # A text whose sparse layers see the same retained tokens: with no full layer, the rest changes nothing.
    pattern = longreach.AttentionPattern(4, 0, 2)
    model = make_hybrid(pattern=pattern, full=(), num_hidden_layers=1)
    ids = ids_of(60)
    other = ids.clone()
    other[:, :48] = ids_of(48, seed=5)
    assert torch.equal(model(ids).logits[:, -1], model(other).logits[:, -1])


def test_what_was_read_in_inference_mode_goes_on_outside(hybrid):
    ids = ids_of(50)
    with torch.inference_mode():
        cache = cache_in(hybrid(ids[:, :40]))
    close(hybrid(ids[:, 40:], **{CACHE: cache}).logits, hybrid(ids).logits[:, 40:])


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_can_be_asked_for(family, tmp_path):
    model, ids = make_hybrid(family), ids_of(20)
    model.save_pretrained(tmp_path)
    for one in (model, AutoModelForCausalLM.from_pretrained(tmp_path)):
        states = one(ids, output_hidden_states=True).hidden_states
        assert len(states) == 4
        close(one.lm_head(states[-1]), model(ids).logits)


def test_a_plain_dynamic_cache_gives_the_same(hybrid):
    ids = ids_of(50)
    cache = cache_in(hybrid(ids[:, :40], **{CACHE: DynamicCache()}))
    close(hybrid(ids[:, 40:], **{CACHE: cache}).logits, hybrid(ids).logits[:, 40:])
    with pytest.raises(UsageError, match="padding from text"):
        hybrid(ids, attention_mask=torch.ones_like(ids).index_fill(1, torch.tensor([0]), 0), **{CACHE: cache})


def test_the_reader_answers_alike_from_a_hot_context(tmp_path):
    tokenizer = make_tokenizer()
    model = make_hybrid(pattern=longreach.AttentionPattern(16, 1, 2, 3))
    corpus = longreach.Corpus.create(tmp_path, "c", longreach.MeanPool(model, tokenizer, 10, segment_tokens=100))
    corpus.add([longreach.Document("a.txt", " ".join(f"Chapter {i}. The rabbit said {i}." for i in range(20)))])
    reader = longreach.Reader(corpus, model, tokenizer, policy=longreach.Policy(budget=900))
    sampling = longreach.Sampling(max_new_tokens=8)
    first = reader.ask("What did the rabbit say?", sampling=sampling)
    again = reader.ask("What did the rabbit say?", sampling=sampling)
    assert first.text == again.text
    fresh = longreach.Reader(corpus, model, tokenizer, policy=longreach.Policy(budget=900))
    assert fresh.ask("What did the rabbit say?", sampling=sampling).text == first.text


# -- what is made of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded(family, tmp_path):
    model, ids = make_hybrid(family, tie_word_embeddings=family == "qwen3"), ids_of(50)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    loaded, _ = longreach.load(tmp_path, device="cpu")
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert type(loaded) is FAMILIES[family][1] is type(AutoModelForCausalLM.from_pretrained(tmp_path))
    assert type(AutoModel.from_pretrained(tmp_path)) is type(model.model)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.model_type == f"longreach_{family}" and config.full_layers == [1]
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["sparse_attention"] == {"block_size": 4, "sink_blocks": 1, "local_blocks": 2, "stride": 3}
    half, _ = longreach.load(tmp_path, device="cpu", dtype="bfloat16")
    assert torch.equal(greedy(half, ids, 8), greedy(half, ids, 8))


def test_stock_weights_load_as_they_are(tmp_path):
    stock = make_model()
    stock.save_pretrained(tmp_path)
    config = make_hybrid().config
    loaded = FAMILIES["llama"][1].from_pretrained(tmp_path, config=config)
    assert torch.equal(loaded(ids_of(50)).logits, make_hybrid()(ids_of(50)).logits)
    fresh = AutoModelForCausalLM.from_config(FAMILIES["llama"][0](**stock.config.to_dict() | {"model_type": None}))
    assert plan_of(fresh.config).full == (1,) and fresh(ids_of(20)).logits.isfinite().all()


def test_conversion_shares_weights_and_leaves_the_model_alone():
    stock, ids = make_model(), ids_of(50)
    before = stock(ids).logits
    model = longreach.convert(stock, PATTERN, max_length=2048)
    shared = {name: tensor.data_ptr() for name, tensor in stock.named_parameters()}
    assert {name: tensor.data_ptr() for name, tensor in model.named_parameters()} == shared
    assert torch.equal(stock(ids).logits, before) and stock.config.model_type == "llama"
    assert type(stock.model.layers[0].self_attn).__name__ == "LlamaAttention"
    again = longreach.convert(model, DENSE, 3, max_length=2048)
    close(again(ids).logits, before)
    assert type(again.model.layers[0].self_attn).__name__ == "LlamaAttention"


def test_training_with_checkpointing_gives_the_reference_gradients():
    ids, gradients = ids_of(61, rows=2), []
    mask = torch.ones_like(ids)
    mask[0, :20] = 0
    labels = ids.masked_fill(mask == 0, -100)
    for impl, again in (("reference", False), ("auto", True)):
        model = make_hybrid().train()
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        torch.manual_seed(0)
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                parameter.data.normal_(0, 0.1)
        if again:
            checkpointing(model, on=True)
            model.enable_input_require_grads()
        model(ids, attention_mask=mask, labels=labels, impl=impl).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-3)


def test_the_trainer_trains_a_hybrid_model(tmp_path):
    model = make_hybrid().train()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=8,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        **{CHECKPOINTING: True},
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = [{"input_ids": ids_of(40)[0], "labels": ids_of(40)[0]}] * 16
    trainer = transformers.Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.5
    trainer.save_model(str(tmp_path / "trained"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    with torch.no_grad():
        close(loaded(ids_of(40)).logits, model.eval()(ids_of(40)).logits)


def test_no_training_through_a_cache():
    model = make_hybrid().train()
    cache = cache_in(model(ids_of(20), use_cache=True))
    with pytest.raises(UsageError, match="No gradients"):
        model(ids_of(5), **{CACHE: cache})


def test_a_model_placed_by_accelerate_is_converted():
    from accelerate import dispatch_model

    ids, want = ids_of(50), make_hybrid()(ids_of(50)).logits
    stock = dispatch_model(make_model(), {"": "cpu"}, force_hooks=True)
    assert torch.equal(longreach.convert(stock, PATTERN, [1], max_length=2048)(ids).logits, want)


# -- the longer window -----------------------------------------------------------------------------------------------


def test_the_rotary_embedding_reaches_as_far_as_asked():
    plain = {"rope_type": "default", "rope_theta": 1e4}
    assert longer_rope(plain, 4096, 4096) == plain == longer_rope(plain, 4096, 100)
    assert 4e6 < longer_rope(plain, 4096, 131072)["rope_theta"] < 6e6
    assert longer_rope(plain, 4096, 131072, 7e6)["rope_theta"] == 7e6
    assert longer_rope(plain, 4096, 16384, "linear") == plain | {"rope_type": "linear", "factor": 4}
    for rope in ("theta", "yarn", "linear", 1e6):
        model = longreach.convert(make_model(), PATTERN, max_length=8192, rope=rope)
        assert model.config.max_position_embeddings == 8192
        assert model(ids_of(30)).logits.isfinite().all()
        twin = type(model)(copy.deepcopy(model.config))
        assert torch.equal(twin.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
        stock = make_model().model.rotary_emb.inv_freq
        assert not torch.equal(stock, model.model.rotary_emb.inv_freq)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, word",
    [
        ({"full_layers": 4}, "0 to 3"),
        ({"full_layers": [0, 3]}, "0 to 2"),
        ({"full_layers": "top"}, "middle-third"),
        ({"max_length": 7}, "at least 8"),
        ({"max_length": 8.5}, "8.5"),
        ({"rope": "ntk"}, "theta, yarn, linear"),
        ({"rope": 0.5}, "0.5"),
        ({"rope": float("nan")}, "nan"),
        ({"rope": float("inf")}, "inf"),
        ({"pattern": "window"}, "sink-window, strided"),
        ({"attn_implementation": "flash_attention_2"}, "GPU"),
    ],
)
def test_bad_values_are_refused(options, word):
    with pytest.raises(UsageError, match=word) as caught:
        longreach.convert(make_model(), **({"pattern": PATTERN, "max_length": 4096} | options))
    assert isinstance(caught.value, ValueError)


def test_a_hybrid_model_keeps_what_is_not_changed():
    first = longreach.convert(make_model(), PATTERN, [0, 2], max_length=4096)
    longer = longreach.convert(first, max_length=8192).config
    assert (longer.sparse_attention, longer.full_layers) == (first.config.sparse_attention, [0, 2])
    assert longer.max_position_embeddings == 8192
    assert longreach.convert(first, "strided", 1, max_length=4096).config.full_layers == [1]
    kept = longreach.convert(first, "strided").config
    assert (kept.max_position_embeddings, kept.rope_parameters) == (4096, first.config.rope_parameters)
    assert longreach.convert(make_model(), PATTERN).config.max_position_embeddings == 131072


def test_models_that_cannot_be_converted_are_refused():
    for model in (make_model("gemma"), make_model().model, torch.nn.Linear(2, 2)):
        with pytest.raises(UsageError, match="llama, mistral, qwen2, qwen3"):
            longreach.convert(model, PATTERN)
    with pytest.raises(UsageError, match="merge_and_unload"):
        longreach.convert(peft.get_peft_model(make_model(), peft.LoraConfig(target_modules="all-linear")), PATTERN)
    with pytest.raises(UsageError, match="attention_dropout"):
        longreach.convert(make_model(attention_dropout=0.1), PATTERN)
    scaled = longreach.convert(make_model(), PATTERN, max_length=4096, rope="yarn")
    with pytest.raises(UsageError, match="already scaled"):
        longreach.convert(scaled, PATTERN, max_length=8192)


def test_calls_that_would_be_wrong_are_refused(hybrid):
    ids = ids_of(10)
    with pytest.raises(UsageError, match="never from a mask"):
        hybrid(ids, attention_mask=torch.ones(1, 1, 10, 10))
    with pytest.raises(UsageError, match="start again"):
        hybrid(ids, position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]]))
    with pytest.raises(UsageError, match="'static'"):
        greedy(hybrid, ids, cache_implementation="quantized")
    with pytest.raises(UsageError, match="static cache of 9"):
        hybrid(ids, **{CACHE: hybrid.new_cache(max_length=9)})
    other = make_hybrid(pattern=longreach.AttentionPattern(4, 1, 3)).new_cache()
    with pytest.raises(UsageError, match="The cache was made for"):
        hybrid(ids, **{CACHE: other})
    with pytest.raises(UsageError, match="hybrid model"):
        make_model()(ids, **{CACHE: hybrid.new_cache()})


def test_context_parallel_is_refused(hybrid, tmp_path):
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.experimental import context_parallel

    init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        ids = ids_of(16)
        with (
            context_parallel(init_device_mesh("cpu", (1,)), buffers=[ids], buffer_seq_dims=[1]),
            pytest.raises(UsageError, match="context_parallel"),
        ):
            hybrid(ids)
    finally:
        destroy_process_group()
    hybrid(ids)


# -- a longer window, and autocast -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_model, make_hybrid])
def test_a_window_is_lengthened_in_place(make):
    model, ids = make().eval(), ids_of(50)
    theta, window = model.config.rope_parameters["rope_theta"], model.config.max_position_embeddings
    before = model(ids).logits
    lengthen(model, window)
    assert torch.equal(model(ids).logits, before)
    lengthen(model, 4 * window, rope="linear")
    assert model.config.max_position_embeddings == 4 * window and model.config.rope_parameters["factor"] == 4
    assert model.config.rope_parameters["rope_theta"] == theta
    again = type(model)(model.config).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(model(ids).logits, again(ids).logits) and not torch.equal(model(ids).logits, before)


def test_what_cannot_be_lengthened_says_so():
    with pytest.raises(UsageError, match="cannot be made to reach 9000"):
        lengthen(make_model("gemma3"), 9000)


def test_float32_weights_under_autocast(hybrid):
    ids = ids_of(61)
    with torch.autocast("cpu", torch.bfloat16):
        low = hybrid(ids).logits
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float().softmax(-1), hybrid(ids).logits.softmax(-1), atol=0.05, rtol=0.2)
