"""Hybrid models under `generate`: drafts by the first layers, caches of every kind, learned prompts of PEFT."""

import peft
import pytest
import torch
import transformers
from transformers import CompileConfig, DynamicCache, GenerationConfig, StaticCache

import longreach
from longreach.errors import UsageError
from longreach.models.cached import CACHE, CacheAliases, cache_in
from longreach.models.loss import checkpointing
from tests.conftest import make_model
from tests.models.test_hybrid import DENSE, close, greedy, ids_of, make_hybrid

LAYERS = 6


@pytest.fixture(autouse=True)
def _no_grad(request):
    with torch.set_grad_enabled("train" in request.node.name):
        yield


@pytest.fixture(scope="module")
def hybrid():
    return make_hybrid(num_hidden_layers=LAYERS, full=(2, 3))


@pytest.fixture(scope="module")
def want(hybrid):
    with torch.no_grad():
        return greedy(hybrid, ids_of(37), 20)


def whole(model):
    """Everything by which a call could leave a model smaller than it was."""
    return model.config.num_hidden_layers, len(model.model.layers), model.model.config is model.config


# -- drafts by the first layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 6])
def test_drafts_of_the_first_layers_change_no_token(hybrid, want, count):
    assert torch.equal(greedy(hybrid, ids_of(37), 20, assistant_early_exit=count), want)
    assert whole(hybrid) == (LAYERS, LAYERS, True)


@pytest.mark.parametrize("plan", [(5,), ()])
def test_drafts_where_the_full_layers_lie_elsewhere(plan):
    model = make_hybrid(num_hidden_layers=LAYERS, full=plan)
    want = greedy(model, ids_of(37), 12)
    for count in (1, 4):
        assert torch.equal(greedy(model, ids_of(37), 12, assistant_early_exit=count), want)


def test_drafts_go_with_chunks_and_with_caches_of_ones_own(hybrid, want):
    ids = ids_of(37)
    assert torch.equal(greedy(hybrid, ids, 20, assistant_early_exit=3, prefill_chunk_size=8), want)
    for cache in (hybrid.new_cache(), DynamicCache()):
        assert torch.equal(greedy(hybrid, ids, 20, assistant_early_exit=3, **{CACHE: cache}), want)


@pytest.mark.parametrize("count", [0, -1, 7, 99, True, "2", 2.0])
def test_a_number_of_layers_that_cannot_be_is_refused(hybrid, want, count):
    with pytest.raises(UsageError, match=r"assistant_early_exit is .*1 to 6"):
        greedy(hybrid, ids_of(37), 20, assistant_early_exit=count)
    assert whole(hybrid) == (LAYERS, LAYERS, True)


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_an_error_while_drafting_leaves_the_model_whole(hybrid, want, error, monkeypatch):
    calls, forward = [], type(hybrid.model).forward

    def fail(self, *args, **kwargs):
        calls.append(self.config.num_hidden_layers)
        if len(calls) == 3:
            raise error
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(hybrid.model), "forward", fail)
    with pytest.raises(error):
        greedy(hybrid, ids_of(37), 20, assistant_early_exit=2)
    assert 2 in calls  # it was drafting
    monkeypatch.undo()
    assert whole(hybrid) == (LAYERS, LAYERS, True)
    assert torch.equal(greedy(hybrid, ids_of(37), 20), want)


@pytest.mark.parametrize(
    "options, word",
    [
        ({"cache_implementation": "static"}, "static cache"),
        ({"use_cache": False}, "use_cache=False"),
        ({"prompt_lookup_num_tokens": 3}, "both draft"),
    ],
)
def test_what_does_not_go_with_drafts_is_refused(hybrid, options, word):
    with pytest.raises(UsageError, match=word):
        greedy(hybrid, ids_of(37), 20, assistant_early_exit=3, **options)
    assert whole(hybrid) == (LAYERS, LAYERS, True)


def test_a_static_cache_takes_no_drafts_of_any_kind(hybrid):
    for options in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": make_model()}):
        for cache in ({"cache_implementation": "static"}, {CACHE: hybrid.new_cache(max_length=99)}):
            with pytest.raises(UsageError, match="static cache"):
                greedy(hybrid, ids_of(37), 20, **options, **cache)


# -- caches of every kind --------------------------------------------------------------------------------------------

KINDS = [
    *("dynamic", "static", "offloaded", "quantized", "paged", "sliding_window", "hybrid", "hybrid_chunked", "mamba"),
    *("offloaded_static", "offloaded_hybrid", "offloaded_hybrid_chunked", "bogus"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_cache_gives_the_right_tokens_or_is_refused(hybrid, want, kind):
    def config():
        options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        return GenerationConfig(**options, cache_implementation=kind)

    calls = [
        lambda: greedy(hybrid, ids_of(37), 20, cache_implementation=kind),
        lambda: hybrid.generate(ids_of(37), generation_config=config()),
        lambda: hybrid.generate(ids_of(37), config()),
    ]
    for call in calls:
        if kind in ("dynamic", "static"):
            assert torch.equal(call(), want)
        else:
            with pytest.raises(ValueError) as caught:  # transformers refuses to make a config of kinds it has not
                call()
            assert isinstance(caught.value, UsageError) or "cache_implementation" in str(caught.value)


def test_paged_generation_is_refused_whatever_comes_with_it(hybrid):
    for options in ({}, {"num_beams": 2}, {"streamer": object()}, {"assistant_model": hybrid}):
        with pytest.raises(UsageError, match="'paged'"):
            greedy(hybrid, ids_of(9), 5, cache_implementation="paged", **options)


def test_continuous_batching_is_refused(hybrid):
    ids = ids_of(9)[0].tolist()
    with pytest.raises(UsageError, match="generate_batch keeps keys in pages"):
        hybrid.generate_batch([ids], generation_config=GenerationConfig(max_new_tokens=5))
    with pytest.raises(UsageError, match="init_continuous_batching"):
        hybrid.init_continuous_batching()
    with (
        pytest.raises(UsageError, match="continuous_batching_context_manager"),
        hybrid.continuous_batching_context_manager(),
    ):
        pass


@pytest.mark.parametrize("chunk", [1, 8, 100])
@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"num_beams": 3}])
def test_prompts_in_chunks_give_the_same(hybrid, chunk, options):
    short = greedy(hybrid, ids_of(37), 8, **options)
    assert torch.equal(greedy(hybrid, ids_of(37), 8, prefill_chunk_size=chunk, **options), short)


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}])
def test_a_compile_config_gives_the_same(hybrid, want, options):
    config = CompileConfig(backend="eager", fullgraph=False)
    config._compile_all_devices = True
    torch.compiler.reset()
    assert torch.equal(greedy(hybrid, ids_of(37), 20, compile_config=config, **options), want)
    assert torch.equal(greedy(hybrid, ids_of(37), 20, disable_compile=True, **options), want)


def test_a_cache_may_go_by_either_name(hybrid, want):
    for name in ("cache", "past_key_values"):
        assert torch.equal(greedy(hybrid, ids_of(37), 20, **{name: hybrid.new_cache()}), want)
        cache = hybrid.new_cache()
        states = [hybrid.model(part, **{name: cache}).last_hidden_state for part in ids_of(37).split([30, 7], 1)]
        close(torch.cat(states, 1), hybrid.model(ids_of(37)).last_hidden_state)


def test_caches_that_sparse_layers_cannot_read_are_refused(hybrid):
    with pytest.raises(UsageError, match=r"cannot use this StaticCache; give no cache, or .*new_cache"):
        greedy(hybrid, ids_of(9), 5, **{CACHE: StaticCache(config=hybrid.config, max_cache_len=30)})
    with pytest.raises(UsageError, match="give one of the two"):
        greedy(hybrid, ids_of(9), 5, cache_implementation="dynamic", **{CACHE: hybrid.new_cache()})


def test_embeddings_in_place_of_tokens(hybrid):
    ids = ids_of(37)
    embeds, mask = hybrid.get_input_embeddings()(ids), torch.ones_like(ids)
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    got = hybrid.generate(inputs_embeds=embeds, attention_mask=mask, **options)
    assert torch.equal(got, hybrid.generate(ids, attention_mask=mask, **options)[:, 37:])


def test_checkpointed_layers_do_not_forget_in_silence(want):
    model = make_hybrid(num_hidden_layers=LAYERS, full=(2, 3)).train()
    checkpointing(model, on=True)
    try:
        assert torch.equal(greedy(model, ids_of(37), 20), want)
    except UsageError as error:  # before transformers 5.24
        assert "call model.eval() before it writes" in str(error)
    assert torch.equal(greedy(model.eval(), ids_of(37), 20), want)


# -- learned prompts of PEFT -----------------------------------------------------------------------------------------

LEARNED = {
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6),
    "projected": lambda: peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=6, prefix_projection=True, encoder_hidden_size=16
    ),
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6),
    "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=6, encoder_hidden_size=16),
}


def learned(kind, model=None):
    """A hybrid model with a learned prompt that matters."""
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model or make_hybrid(), LEARNED[kind]()).eval()
    with torch.no_grad():
        for _, parameter in sorted(wrapped.named_parameters()):
            if parameter.requires_grad:
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    return wrapped


def written(model, ids, mask=None, tokens=10, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    options |= {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(input_ids=ids, attention_mask=mask, **options)[:, ids.shape[1] :]


def read_anew(model, ids, tokens=10):
    """The same tokens by whole forwards, without a cache."""
    for _ in range(tokens):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    return ids[:, -tokens:]


PEFT_CALLS_IT_SO = pytest.mark.filterwarnings(
    "ignore:.past_key_values. is deprecated:FutureWarning:torch.nn.modules.module"
)


@PEFT_CALLS_IT_SO
@pytest.mark.parametrize("kind", LEARNED)
def test_learned_prompts_write_what_a_whole_forward_says(kind):
    model, ids = learned(kind), ids_of(30)
    want = read_anew(model, ids)
    assert torch.equal(written(model, ids), want)
    assert torch.equal(written(model, ids, cache_implementation="static"), want)
    assert not torch.equal(want, written(make_hybrid(), ids))


@PEFT_CALLS_IT_SO
@pytest.mark.parametrize("kind", LEARNED)
def test_learned_prompts_are_those_of_the_stock_model_where_nothing_is_hidden(kind):
    ids = ids_of(30)
    stock = learned(kind, make_model())
    close(learned(kind, make_hybrid(pattern=DENSE))(input_ids=ids).logits, stock(input_ids=ids).logits)


@PEFT_CALLS_IT_SO
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_rows_of_unlike_length_with_a_prefix_are_the_single_ones(options):
    model, rows = learned("prefix"), [ids_of(length, seed=length) for length in (30, 17, 23)]
    pads = [30 - row.shape[1] for row in rows]
    ids = torch.cat([torch.nn.functional.pad(row, (pad, 0)) for row, pad in zip(rows, pads, strict=True)])
    mask = torch.cat(
        [torch.nn.functional.pad(torch.ones_like(row), (pad, 0)) for row, pad in zip(rows, pads, strict=True)]
    )
    singles = torch.cat([written(model, row, **options) for row in rows])
    assert torch.equal(written(model, ids, mask, **options), singles)


@PEFT_CALLS_IT_SO
def test_a_prefix_is_trained_on_padded_rows():
    model, ids = learned("prefix").train(), ids_of(30, rows=2)
    mask = torch.ones_like(ids)
    mask[1, 18:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    batched = [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]
    model.zero_grad()
    weights = (29 / 46, 17 / 46)  # predicted tokens of each row
    for row, weight, length in zip(ids, weights, (30, 18), strict=True):
        one = row[None, :length]
        (weight * model(input_ids=one, attention_mask=torch.ones_like(one), labels=one).loss).backward()
    for parameter, want in zip((p for p in model.parameters() if p.requires_grad), batched, strict=True):
        assert want.abs().max() > 1e-4
        torch.testing.assert_close(parameter.grad, want, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    "kind, options, word",
    [
        ("prefix", {"use_cache": False}, "PREFIX_TUNING lies in the cache"),
        ("prefix", {"prefill_chunk_size": 8}, "omit prefill_chunk_size"),
        ("prompt", {"prefill_chunk_size": 8}, "omit prefill_chunk_size"),
        ("prefix", {"prompt_lookup_num_tokens": 3}, "drafted tokens"),
        ("p-tuning", {"assistant_early_exit": 1}, "drafted tokens"),
    ],
)
def test_where_virtual_tokens_would_be_misplaced_it_is_refused(kind, options, word):
    model = learned(kind)
    with pytest.raises(UsageError, match=word):
        written(model, ids_of(30), **options)
    assert written(model, ids_of(30)).shape == (1, 10)  # and goes on


def test_padding_that_a_dynamic_cache_cannot_tell_is_refused(tmp_path):
    model, ids = make_hybrid(), ids_of(20)
    cache = cache_in(model(ids, **{CACHE: DynamicCache()}))
    mask = torch.ones(1, 20, dtype=torch.long)
    mask[0, 0] = 0
    with pytest.raises(UsageError, match=r"cannot tell padding from text.*all 40 tokens"):
        model(ids, attention_mask=mask, **{CACHE: cache})


def test_arguments_hold_one_cache_under_all_its_names():
    arguments = CacheAliases({CACHE: 1, "input_ids": 2})
    assert arguments["cache"] == arguments["past_key_values"] == arguments.get("past_key_values") == 1
    arguments["past_key_values"] = 3
    assert dict(**arguments) == {CACHE: 3, "input_ids": 2} and "cache" in arguments
    assert arguments.pop("past_key_values") == 3 and arguments.get("cache") is None


def test_the_name_is_that_of_the_installed_release():
    newer = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (5, 24)
    assert ("cache" if newer else "past_key_values") == CACHE
    assert longreach.convert(make_model(), max_length=2048)(ids_of(5))[CACHE] is not None
