"""The plan against published sizes, the limits of research/longgen.md, and caches really allocated."""

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from longreach.errors import UsageError
from longreach.models.cached import cache_in
from longreach.pattern import AttentionPattern, LayerPlan
from longreach.planning.plan import Shape, hardware, plan, shape


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("smollm2", 134_515_008),
        ("llama2-7b", 6_738_415_616),
        ("llama2-13b", 13_015_864_320),
        ("llama2-70b", 68_976_648_192),
        ("llama3-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
        ("mistral-7b", 7_241_732_096),
    ],
)
def test_parameters_are_the_published_ones(name, parameters):
    assert shape(name).parameters == parameters


@pytest.mark.parametrize(
    ("full", "kv", "prefill", "training", "decode", "decode4"),
    [(10, 0.677, 1.94, 2.01, 2.31, 2.82), (11, 0.646, 1.86, 1.93, 2.18, 2.61), (12, 0.615, 1.79, 1.84, 2.07, 2.42)],
)
def test_limits_of_llama2_7b_at_128k(full, kv, prefill, training, decode, decode4):
    model, cards = shape("llama2-7b"), hardware("h100")
    found = plan(model, 131072, cards, layers=LayerPlan.make(32, full))
    batch = plan(model, 131072, cards, layers=LayerPlan.make(32, full), rows=4)
    assert found.kv_reduction == pytest.approx(kv, abs=1e-3)
    assert found.prefill_speedup == pytest.approx(prefill, abs=0.01)
    assert found.training_speedup == pytest.approx(training, abs=0.02)
    assert found.decode_speedup == pytest.approx(decode, abs=0.01)
    assert batch.decode_speedup == pytest.approx(decode4, abs=0.01)
    assert found.full.kv_bytes == 68_719_476_736


def test_kv_bytes_and_weights_are_those_really_allocated():
    model = shape("smollm2")
    small = transformers.LlamaConfig(
        vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=False,
    )  # fmt: skip
    network = transformers.LlamaForCausalLM(small).float()
    model = type(model)(3, 48, 6, 2, 8, 64, 64)
    cache = cache_in(network(torch.zeros(2, 37, dtype=torch.long), use_cache=True))
    found = plan(model, 37, hardware("h100"), rows=2, itemsize=4).full
    assert found.kv_bytes == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert found.weights_bytes == sum(x.nbytes for x in network.parameters())


SMALL = {
    "vocab_size": 64, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def counted(network, length, rows, train):
    """FLOPs of all products that really run, by torch's own counter; eager attention computes all T x T pairs."""
    ids = torch.zeros(rows, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        logits = network(ids, use_cache=False, logits_to_keep=0 if train else 1).logits
        if train:
            logits.sum().backward()
    rotary = counter.get_flop_counts().get("LlamaForCausalLM.model.rotary_emb", {})  # a product in some releases
    return counter.get_total_flops() - sum(rotary.values())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_flops_are_those_that_torch_counts(tied, train):
    rows, length = 2, 37
    config = transformers.LlamaConfig(**SMALL, tie_word_embeddings=tied)
    network = transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager").float()
    model = Shape.of(network.config)
    found = plan(model, length, hardware("h100"), rows=rows, itemsize=4).full
    assert found.weights_bytes == sum(x.nbytes for x in network.parameters())
    pairs = rows * model.layers * model.heads * 4 * model.head_dim
    causal, square = pairs * length * (length + 1) // 2, pairs * length**2
    if train:  # of attention's backward, 2 of 2.5 are products; the rest computes the scores again
        assert found.training_flops - round(3.5 * causal) == counted(network, length, rows, True) - 3 * square
    else:
        assert found.prefill_flops - causal == counted(network, length, rows, False) - square


@pytest.mark.parametrize("stride", [0, 3])
def test_kv_bytes_and_attention_flops_of_a_hybrid_are_those_of_its_mask(stride):
    p, layers, length = AttentionPattern(4, 1, 2, stride), LayerPlan.make(3, [1]), 50
    model = Shape.of(transformers.LlamaConfig(**SMALL))
    full, hybrid = (getattr(plan(model, length, hardware("h100"), p, layers), name) for name in ("full", "hybrid"))
    masks = [p.mask(length, length, model.kv_heads, layer) for layer in layers.sparse]
    hidden = sum(length * (length + 1) // 2 * model.kv_heads - int(mask.sum()) for mask in masks)
    groups = model.heads // model.kv_heads
    assert full.prefill_flops - hybrid.prefill_flops == 4 * model.head_dim * groups * hidden
    kept = sum(len(head) for layer in layers.sparse for head in p.retained(length, model.kv_heads, layer))
    assert hybrid.kv_bytes == 2 * 2 * model.head_dim * (kept + length * model.kv_heads)


def test_the_shape_of_a_config():
    for name in ("smollm2", "llama3-8b"):
        sizes = shape(name)
        config = transformers.LlamaConfig(
            vocab_size=sizes.vocab, hidden_size=sizes.hidden, intermediate_size=sizes.intermediate,
            num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads, num_key_value_heads=sizes.kv_heads,
            tie_word_embeddings=sizes.tied,
        )  # fmt: skip
        assert Shape.of(config) == sizes


def test_cards_are_shared_and_counted():
    model = shape("llama2-70b")
    one, eight = (plan(model, 131072, hardware(text), rows=4) for text in ("h100", "8xH100"))
    assert eight.full.prefill_seconds == pytest.approx(one.full.prefill_seconds / 8)
    assert (one.full.serving_cards, one.hybrid.serving_cards) == (5, 3)
    assert one.full.training_cards == eight.full.training_cards


def test_serving_of_strided_models_is_not_tensor_parallel():
    model, card = shape("llama3-70b"), hardware("h100")
    for pattern, recipe in ((None, "tensor parallelism"), (AttentionPattern.strided(), "layers spread over cards")):
        found = plan(model, 131072, card, pattern)
        assert (found.full.serving_recipe, found.hybrid.serving_recipe) == ("tensor parallelism", recipe)
    assert plan(shape("llama2-7b"), 131072, card).hybrid.serving_recipe == "one card"


@pytest.mark.parametrize("name", ["smollm2", "llama2-7b", "llama3-70b"])
@pytest.mark.parametrize("length", [4096, 131072, 1048576])
@pytest.mark.parametrize("rows", [1, 4])
def test_training_fits_the_cards_and_not_one_less(name, length, rows):
    model, card_bytes = shape(name), 0.9 * 80e9
    found = plan(model, length, hardware("h100"), rows=rows).hybrid
    row = found.activation_bytes // rows
    for cards, recipe, state in (
        (found.training_cards, found.training_recipe, 16 * model.parameters),
        (found.lora_cards, found.lora_recipe, found.weights_bytes),
    ):
        needs = {  # of each card
            "one card": lambda n, state=state: state + rows * row,
            "FSDP2, a row a card at a time": lambda n, state=state: state / n + row,
            "Ulysses x ZeRO-3, each row over all cards": lambda n, state=state: (state + row) / n,
            "Ulysses x ZeRO-3, each row over as many cards as heads": lambda n, state=state: (
                state / n + row / model.heads
            ),
        }
        assert needs[recipe](cards) <= card_bytes * 1.0001
        if cards > 2:
            assert needs[recipe](cards - 1) > card_bytes or cards == model.heads


def test_rows_that_fit_no_number_of_cards():
    found = plan(shape("smollm2"), 10**9, hardware("h100")).full
    assert (found.training_cards, found.training_recipe) == (0, "does not fit: shorten the rows")


@pytest.mark.parametrize("text", ["8x", "0xh100", "tpu", "h100x8", ""])
def test_unknown_hardware_is_refused(text):
    with pytest.raises(UsageError):
        hardware(text)


def test_unknown_shapes_and_numbers_out_of_range_are_refused():
    model, cards = shape("smollm2"), hardware("h100")
    for call in (
        lambda: shape("gpt-5"),
        lambda: plan(model, 0, cards),
        lambda: plan(model, 5, cards, rows=0),
        lambda: plan(model, 5, cards, AttentionPattern(), LayerPlan.make(4)),
    ):
        with pytest.raises(UsageError):
            call()
