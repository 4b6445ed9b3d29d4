"""The self-check of hybrids: it passes here, fails for every way of losing a cache, and touches nothing else."""

import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicLayer

import longreach
from longreach.caches.reserved import ReservedLayer
from longreach.caches.retained import RetainedLayer
from longreach.caches.static import StaticRetainedLayer
from longreach.errors import ModelError
from longreach.models import attend, steps
from longreach.models.cached import take_cache
from longreach.models.hybrid.families import FAMILIES
from longreach.models.hybrid.names import FAMILY_NAMES, PREFIX
from longreach.models.hybrid.selfcheck import check_cached, check_class, make_twin
from longreach.models.hybrid.sparse import HybridDecoder, SparseAttention
from tests.conftest import make_model, make_tokenizer
from tests.models.test_hybrid import PATTERN, make_hybrid


def test_the_families_have_one_list_of_names():
    assert tuple(FAMILIES) == FAMILY_NAMES
    assert [config.model_type for config, _ in FAMILIES.values()] == [PREFIX + name for name in FAMILY_NAMES]


@pytest.mark.parametrize("family", FAMILIES)
def test_here_every_family_reads_its_cache(family):
    assert check_class(FAMILIES[family][1]) is None


# -- what it is for --------------------------------------------------------------------------------------------------


def without_cache(forward):
    """A release that calls the argument by a name that nobody knows."""

    def changed(self, *args, **kwargs):
        take_cache(kwargs)
        return forward(self, *args, **kwargs)

    return changed


def renamed_in_sparse_layers(patch):
    patch.setattr(SparseAttention, "forward", without_cache(SparseAttention.forward))


def renamed_in_full_layers(patch):
    patch.setattr(
        transformers.models.llama.modeling_llama.LlamaAttention,
        "forward",
        without_cache(transformers.models.llama.modeling_llama.LlamaAttention.forward),
    )


def renamed_in_the_decoder(patch):
    patch.setattr(HybridDecoder, "forward", without_cache(HybridDecoder.forward))


def full_layers_forget(patch):
    patch.setattr(DynamicLayer, "update", lambda self, k, v, *args, **kwargs: (k, v))


def sparse_layers_mix_up_their_tokens(patch):
    attend = RetainedLayer.attend

    def changed(self, q, k, v, *args, **kwargs):
        return attend(self, q, k.flip(2), v, *args, **kwargs)

    patch.setattr(RetainedLayer, "attend", changed)


def static_layers_forget(patch):
    attend = StaticRetainedLayer.attend

    def changed(self, q, k, v, *args, **kwargs):
        if k.shape[2] == 1 and self.is_initialized:
            self.reset()
        return attend(self, q, k, v, *args, **kwargs)

    patch.setattr(StaticRetainedLayer, "attend", changed)


def steps_do_not_learn_the_lengths(patch):
    usual = attend.attend_steps

    def changed(*args, lengths=None, **kwargs):
        return usual(*args, **kwargs)

    attend.AttentionInterface.register(attend.STEPS, changed)
    patch.setattr(attend, "attend_steps", changed)


def another_signature(patch):
    def forward(self, hidden_states, *, kv_store):
        raise AssertionError

    patch.setattr(SparseAttention, "forward", forward)


BREAKS = [
    renamed_in_sparse_layers,
    renamed_in_full_layers,
    renamed_in_the_decoder,
    full_layers_forget,
    sparse_layers_mix_up_their_tokens,
    static_layers_forget,
    steps_do_not_learn_the_lengths,
    another_signature,
]


@pytest.mark.parametrize("break_it", BREAKS)
def test_a_lost_cache_is_an_error_that_names_the_versions(break_it, monkeypatch, tmp_path):
    stock = make_model()
    make_hybrid().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    made = [
        lambda: longreach.convert(stock, PATTERN, max_length=2048),
        lambda: AutoModelForCausalLM.from_pretrained(tmp_path),
        lambda: longreach.load(tmp_path, device="cpu"),
        lambda: AutoModelForCausalLM.from_config(make_config()),
    ]
    try:
        break_it(monkeypatch)
        for make in made:
            with pytest.raises(ModelError) as caught:
                make()
            assert f"transformers {transformers.__version__}" in str(caught.value)
            assert f"torch {torch.__version__}" in str(caught.value)
    finally:
        attend.AttentionInterface.register(attend.STEPS, attend.attend_steps)
        monkeypatch.undo()
        attend.AttentionInterface.register(attend.STEPS, attend.attend_steps)
    for make in made:
        make()


def make_config():
    return FAMILIES["llama"][0](**make_model().config.to_dict() | {"model_type": None})


# -- what it leaves alone --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_model_or_the_process_changes(training, monkeypatch):
    model = make_model().train(training)
    model.model.layers[1].train(not training)  # modes may differ from module to module
    modes = [module.training for module in model.modules()]
    model(torch.arange(9)[None], labels=torch.arange(9)[None]).loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    random = torch.get_rng_state()
    hybrid = longreach.convert(model, PATTERN, max_length=2048)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    for parameter, before in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, before)
    assert torch.is_grad_enabled() and hybrid.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "setting",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
    ],
)
def test_what_the_caller_has_set_does_not_reach_it(setting):
    with setting():
        assert check_class(FAMILIES["llama"][1]) is None


def test_another_default_dtype_does_not_reach_it():
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert check_class(FAMILIES["qwen3"][1]) is None
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_model_without_weights_is_converted():
    with torch.device("meta"):
        stock = make_model()
    hybrid = longreach.convert(stock, PATTERN, max_length=2048)
    assert {parameter.device.type for parameter in hybrid.parameters()} == {"meta"}


def test_fake_tensors_are_a_reason_to_leave_it():
    with FakeTensorMode():
        assert "fake" in check_class(FAMILIES["llama"][1])


def test_sequences_over_ranks_are_a_reason_to_leave_it(monkeypatch):
    monkeypatch.setattr("longreach.models.hybrid.selfcheck.Ulysses.of", lambda *args, **kwargs: object())
    assert "over ranks" in check_class(FAMILIES["llama"][1])


def test_logits_that_are_no_numbers_are_an_error():
    def make():
        model = make_twin(FAMILIES["llama"][1])
        model.lm_head.weight.fill_(float("nan"))
        return model

    with pytest.raises(ModelError, match="nan"):
        check_cached(make)


# -- full models, which have no twin ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hybrid", [True, False])
def test_steps_notice_that_a_model_does_not_fill_the_cache(hybrid, monkeypatch):
    model = make_hybrid() if hybrid else make_model()
    reading = steps.Steps(model, 30)
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", without_cache(forward))
    with pytest.raises(ModelError, match="put 0 of 9 tokens into the cache") as caught:
        reading.read(torch.arange(9)[None])
    assert transformers.__version__ in str(caught.value)


def test_steps_notice_it_in_one_layer(monkeypatch):
    model = make_model()
    reading = steps.Steps(model, 30)
    reading.read(torch.arange(9)[None])
    kept, update = reading.cache.layers[2], ReservedLayer.update

    def changed(self, k, v, *args, **kwargs):
        return (k, v) if self is kept else update(self, k, v, *args, **kwargs)

    monkeypatch.setattr(ReservedLayer, "update", changed)
    with pytest.raises(ModelError, match="Layer 2 of the model has put 9 of 10 tokens"):
        reading.step(torch.tensor([5]))
