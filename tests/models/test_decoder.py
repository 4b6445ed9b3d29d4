import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model

from longreach.errors import ModelError
from longreach.models.decoder import adapters_off, add_adapter, only_adapter
from longreach.models.fingerprint import base_fingerprint
from tests.conftest import make_model

IDS = torch.arange(40)[None]


def saved_adapter(folder, model=None, size=0.5, **config):
    config = {"r": 2, "target_modules": ["q_proj", "down_proj"]} | config
    donor = get_peft_model(model or make_model(), LoraConfig(**config))
    with torch.no_grad():
        for name, parameter in donor.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, size)
    donor.save_pretrained(folder)
    return folder


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_an_adapter_is_laid_over_switched_off_and_once(model, tokenizer, tmp_path):
    bare, fingerprint = logits(model), base_fingerprint(model, tokenizer)
    name = add_adapter(model, saved_adapter(tmp_path / "a"))
    assert torch.equal(logits(model), bare)
    with only_adapter(model, name):
        adapted = logits(model)
        with adapters_off(model):
            assert torch.equal(logits(model), bare)
        assert torch.equal(logits(model), adapted)
    assert not torch.allclose(adapted, bare) and torch.equal(logits(model), bare)
    assert add_adapter(model, tmp_path / "a") == name and len(model.peft_config) == 1
    other = add_adapter(model, saved_adapter(tmp_path / "b", size=0.3))
    with only_adapter(model, other):
        assert not torch.allclose(logits(model), adapted)
    with only_adapter(model, name):
        assert torch.equal(logits(model), adapted)
    assert base_fingerprint(model, tokenizer) == fingerprint


def test_the_users_own_adapter_stays_on(model, tmp_path):
    # As the model's own `add_adapter`, which on a new release may ask for a PEFT that is not out yet.
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False), model, "mine")
    model._hf_peft_config_loaded = True
    mine = logits(model)
    name = add_adapter(model, saved_adapter(tmp_path / "a"))
    assert torch.equal(logits(model), mine)
    with only_adapter(model, name):
        assert not torch.equal(logits(model), mine)
    assert torch.equal(logits(model), mine)


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ({"hidden_size": 64}, {}),
        ({"num_hidden_layers": 6}, {}),
        ({"num_hidden_layers": 1}, {}),
        ({}, {"modules_to_save": ["lm_head"]}),
    ],
)
def test_an_adapter_that_does_not_fit_leaves_no_trace(model, tmp_path, shape, config):
    bare = logits(model)
    folder = saved_adapter(tmp_path / "a", make_model(**shape), **config)
    with pytest.raises(ModelError, match="holds no PEFT adapter that fits"):
        add_adapter(model, folder)
    assert torch.equal(logits(model), bare)
    good = add_adapter(model, saved_adapter(tmp_path / "good"))
    with only_adapter(model, good):
        assert not torch.equal(logits(model), bare)


def test_a_folder_without_an_adapter_is_refused(model, tmp_path):
    with pytest.raises(ModelError, match="missing or damaged"):
        add_adapter(model, tmp_path)
