"""`bench model` on tiny models: bytes, work and ideals against arithmetic and against real reading; no speed."""

import pytest
import torch

from longreach.bench.cases import ModelCase
from longreach.bench.decode import filled_cache
from longreach.bench.model import run
from longreach.bench.subject import make_subject
from longreach.caches.prefix import cache_bytes
from longreach.caches.retained import RetainedLayer
from longreach.errors import UsageError
from longreach.kernels import flex, reference
from longreach.models.cached import CACHE, cache_in
from longreach.models.hybrid.convert import convert
from longreach.pattern import AttentionPattern, LayerPlan
from longreach.planning.plan import hardware, plan, shape
from tests.conftest import make_model, make_tokenizer

CPU = torch.device("cpu")
PATTERN = AttentionPattern(4, 1, 2, 3)
LENGTH = 45
NAMES = ("full", "hybrid")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    make_model(num_hidden_layers=6).save_pretrained(out)
    make_tokenizer().save_pretrained(out)
    return str(out)


@pytest.fixture(scope="module")
def both(folder):
    return make_subject(model=folder, pattern=PATTERN, length=LENGTH + 8, device=CPU)


@pytest.fixture(scope="module")
def report(both):
    return run(ModelCase(LENGTH, ("train", "prefill", "decode"), rows=2, repeats=2, new_tokens=3), both)


def test_prefill_holds_exactly_what_the_arithmetic_says(report):
    found = report["prefill"]["variants"]
    full = 2 * 2 * 6 * LENGTH * 2 * 8 * 4  # rows, keys and values, layers, tokens, KV heads, head dim, bytes
    assert {found["full"][name] for name in ("kv_bytes", "kv_block_bytes", "kv_allocated_bytes")} == {full}
    hybrid, layers = found["hybrid"], LayerPlan.make(6)
    assert hybrid["kv_bytes"] == 2 * sum(layers.kv_bytes(PATTERN, LENGTH, 2, 8, 4))
    assert hybrid["kv_bytes"] < hybrid["kv_block_bytes"] == hybrid["kv_allocated_bytes"] < full
    assert report["prefill"]["kv_reduction"] == pytest.approx(layers.kv_reduction(PATTERN, LENGTH, 2))
    assert report["prefill"]["kv_allocated_reduction"] == pytest.approx(1 - hybrid["kv_allocated_bytes"] / full)


@pytest.mark.parametrize("length", [1, 3, 8, 9, 31, 40])
@pytest.mark.parametrize("stride", [0, 3])
def test_block_bytes_are_allocated_at_any_length(folder, length, stride):
    one = make_subject(model=folder, pattern=AttentionPattern(4, 1, 2, stride), length=length, device=CPU)
    ids = torch.zeros(1, length, dtype=torch.long)
    with torch.no_grad():
        caches = {name: cache_in(getattr(one, name)(ids, use_cache=True)) for name in ("full", "hybrid")}
    for name, cache in caches.items():
        assert cache_bytes(cache) == one.kv_bytes(name, length, 1, blocks=True) >= one.kv_bytes(name, length, 1)


def test_work_and_ideals_are_those_of_the_plan(report, both):
    found = plan(both.shape, LENGTH, hardware("h200"), PATTERN, LayerPlan.make(6), rows=2, itemsize=4)
    prefill, train, (decode,) = report["prefill"], report["train"], report["decode"]
    assert prefill["ideal_speedup_flops"] == pytest.approx(found.prefill_speedup)
    assert train["ideal_speedup"] == pytest.approx(found.training_speedup)
    assert decode["ideal_speedup"] == pytest.approx(found.decode_speedup)
    for name in ("full", "hybrid"):
        numbers = getattr(found, name)
        assert prefill["variants"][name]["flops"] == numbers.prefill_flops
        assert train["variants"][name]["flops"] == numbers.training_flops
        assert decode["variants"][name]["bytes"] == numbers.weights_bytes + numbers.kv_bytes
    assert report["weights_bytes"] == found.full.weights_bytes
    # What checkpointing computes again: all of the forward pass, with the logits of every position.
    again = {name: train["variants"][name]["executed_flops"] - train["variants"][name]["flops"] for name in NAMES}
    head = 2 * both.shape.vocab * both.shape.hidden * 2 * (LENGTH - 1)
    assert again == {name: getattr(found, name).prefill_flops + head for name in NAMES}


def test_every_figure_follows_from_the_rounds(report):
    decode = report["decode"][0]
    for part, work, ideals in (
        (report["prefill"], "flops", {"achieved_over_ideal_flops": report["prefill"]["ideal_speedup_flops"]}),
        (report["train"], "flops", {"achieved_over_ideal": report["train"]["ideal_speedup"]}),
        (decode, "bytes", {"achieved_over_ideal": decode["ideal_speedup"]}),
    ):
        rounds = part["rounds_seconds"]
        for name, figures in part["variants"].items():
            seconds = figures.get("seconds", figures.get("seconds_per_token"))
            assert sorted(rounds[name])[len(rounds[name]) // 2 - (len(rounds[name]) % 2 == 0)] <= seconds
            assert figures[f"{work}_per_second"] * seconds == pytest.approx(figures[work])
            tokens = 2 * (1 if part is decode else LENGTH)
            assert figures["tokens_per_second"] * seconds == pytest.approx(tokens)
            assert figures["peak_memory_bytes"] is None
        for name, ideal in ideals.items():
            assert part["variants"]["hybrid"][name] == pytest.approx(part["variants"]["hybrid"]["speedup"] / ideal)
    assert len(decode["rounds_seconds"]["full"]) == decode["new_tokens"] == 3 and decode["graphs"] is False


def test_the_ideal_at_equal_kernel_efficiency(report):
    prefill = report["prefill"]
    hidden = sum(1 - PATTERN.density(LENGTH, 2, layer) for layer in LayerPlan.make(6).sparse)
    full = prefill["variants"]["full"]["seconds"]
    rest = full - prefill["attention_of_one_layer_seconds"] * hidden
    assert prefill["ideal_speedup_equal_kernels"] == pytest.approx(full / rest)
    hybrid = prefill["variants"]["hybrid"]
    assert hybrid["achieved_over_ideal_equal_kernels"] == pytest.approx(hybrid["speedup"] * rest / full)


def test_training_is_that_of_the_whole_loss_and_leaves_nothing_behind(report, both):
    torch.manual_seed(0)
    ids = torch.randint(both.shape.vocab, (2, LENGTH))  # what `train`, the first of this run, drew
    for name in ("full", "hybrid"):
        model = getattr(both, name)
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        assert report["train"]["variants"][name]["loss"] == pytest.approx(float(loss), rel=1e-4)
        assert not model.training and all(parameter.grad is None for parameter in model.parameters())


def state(cache):
    for layer in cache.layers:
        if isinstance(layer, RetainedLayer):
            tensors = (layer.keys, layer.values, layer.far_keys, layer.far_values)
            yield layer.lengths, layer.held, layer.slots, layer.sure, [tensor.shape for tensor in tensors]
        else:
            yield layer.keys.shape, layer.values.shape


@pytest.mark.parametrize("length", [1, 7, 8, 23, 45])
def test_a_filled_cache_is_in_the_state_that_reading_leaves(both, length, monkeypatch):
    monkeypatch.setattr("longreach.bench.decode._FILL_TOKENS", 10)
    read = both.hybrid.new_cache()
    ids = torch.zeros(2, length, dtype=torch.long)
    with torch.no_grad():
        both.hybrid(ids, **{CACHE: read})
    filled = filled_cache(both.hybrid, length, rows=2)
    assert list(state(filled)) == list(state(read))
    with torch.no_grad():
        assert both.hybrid(ids[:, :1], **{CACHE: filled}).logits.isfinite().all()


def test_a_slice_keeps_the_ratio_and_is_named(folder):
    one = make_subject(model=folder, layers=3, pattern=PATTERN, length=LENGTH + 8, device=CPU)
    assert len(one.full.model.layers) == len(one.hybrid.model.layers) == 3 and one.layers.full == (1,)
    report = run(ModelCase(LENGTH, ("prefill",), repeats=1), one)
    assert (
        report["slice"] == {"layers": 3, "of": 6, "full_layers_of_all": 2} and "a slice: 3 of 6" in report["notes"][0]
    )
    big = make_subject(shape="smollm2", layers=2, full_layers=30, length=10, device=CPU)
    assert big.layers.full == (0, 1) and big.shape.vocab == shape("smollm2").vocab


def test_a_hybrid_model_keeps_its_own_pattern_and_layers(folder, tmp_path):
    from longreach.models.loading.load import load

    loaded, tokenizer = load(folder, device="cpu")
    hybrid = convert(loaded, PATTERN, [0, 5], 64)
    hybrid.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    one = make_subject(model=str(tmp_path), length=LENGTH, device=CPU)
    assert one.pattern == PATTERN and one.layers.full == (0, 5) and one.hybrid.config.full_layers == [0, 5]
    ids = torch.arange(LENGTH)[None]
    with torch.no_grad():
        torch.testing.assert_close(one.hybrid(ids).logits, hybrid(ids).logits)
        assert not torch.allclose(one.full(ids).logits, one.hybrid(ids).logits)
        everything = convert(loaded, PATTERN, 6, 64)
        torch.testing.assert_close(one.full(ids).logits, everything(ids).logits)


def test_flex_is_measured_where_it_runs_and_noted_where_not(both, monkeypatch):
    monkeypatch.setattr(flex, "attend", reference.attend)  # compiling it takes long, and is tested elsewhere
    report = run(ModelCase(LENGTH, repeats=1, new_tokens=1, flex=True), both)
    assert set(report["prefill"]["variants"]) == {"full", "hybrid", "hybrid-flex"}
    assert set(report["train"]["variants"]) == set(report["decode"][0]["variants"]) == {"full", "hybrid"}
    assert len([note for note in report["notes"] if "flex omitted" in note]) == 2


def test_the_window_holds_all_steps_of_decode(both):
    case = ModelCase(LENGTH, ["decode"], new_tokens=2)
    seen = set()

    def note(module, args, kwargs):
        seen.add(int(kwargs["position_ids"].max()))

    hook = both.full.register_forward_pre_hook(note, with_kwargs=True)
    try:
        run(case, both)
    finally:
        hook.remove()
    assert max(seen) + 1 == case.window


@pytest.mark.parametrize(
    "call",
    [
        lambda: ModelCase(0),
        lambda: ModelCase(5, new_tokens=0),
        lambda: ModelCase(5, ["prefil"]),
        lambda: ModelCase(5, []),
        lambda: make_subject(length=5, device=CPU),
        lambda: make_subject(shape="smollm2", model="smollm2", length=5, device=CPU),
        lambda: make_subject(shape="smollm2", layers=31, length=5, device=CPU),
        lambda: make_subject(shape="smollm2", layers=0, length=5, device=CPU),
    ],
)
def test_wrong_cases_are_refused(call):
    with pytest.raises(UsageError):
        call()


def test_what_this_device_or_length_cannot(both):
    with pytest.raises(UsageError, match="need a GPU"):
        run(ModelCase(5, ["decode"], graphs=True), both)
    with pytest.raises(UsageError, match="at least 2"):
        ModelCase(1, ["prefill", "train"])
