"""Random models of a shape: every weight is set, and they compute what a stock model with these weights does."""

import pytest
import torch
import transformers

from longreach.models.untrained import random_llama
from longreach.planning.plan import Shape


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_and_frequency_is_set(tied):
    sizes = Shape(2, 32, 4, 2, 8, 48, 60, tied)
    torch.manual_seed(0)
    model = random_llama(sizes, 128, dtype=torch.float32, device="cpu")
    assert Shape.of(model.config) == sizes and not model.training
    assert sum(parameter.numel() for parameter in model.parameters()) == sizes.parameters
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    for name, parameter in model.state_dict().items():
        if "norm" in name:
            assert bool((parameter == 1).all())
        else:
            assert 0.01 < float(parameter.std()) < 0.03 and abs(float(parameter.mean())) < 0.01
    stock = transformers.LlamaForCausalLM(model.config).eval()
    stock.load_state_dict(model.state_dict())
    ids = torch.randint(60, (1, 20))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, stock(ids).logits)


def test_the_dtype_is_that_of_all_weights():
    model = random_llama(Shape(1, 16, 2, 1, 8, 24, 30), 16, dtype=torch.bfloat16, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
