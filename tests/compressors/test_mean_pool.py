import pytest
import torch

from longreach import MeanPool
from longreach.errors import UsageError
from tests.compressors.test_autocompressor import plain_llama, random_ids
from tests.conftest import FAMILIES, make_model


def test_vectors_equal_a_plain_computation(model, tokenizer):
    ids = random_ids(53)
    (got,) = MeanPool(model, tokenizer, 7, segment_tokens=20).compress([ids])
    with torch.no_grad():
        wanted = []
        for start in (0, 20, 40):
            states = plain_llama(model, model.get_input_embeddings().weight[ids[start : start + 20]])
            wanted += [states[i : i + 7].mean(0) for i in range(0, len(states), 7)]
    assert got.shape == (3 + 3 + 2, 32)
    assert (got - torch.stack(wanted)).abs().max() <= 1e-5


@pytest.mark.parametrize("layer", [-1, 0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_batched_equals_single(family, layer, tokenizer):
    compressor = MeanPool(make_model(family), tokenizer, 4, segment_tokens=10, layer=layer)
    documents = [random_ids(count) for count in (33, 1, 0, 10, 55)]
    for ids, got in zip(documents, compressor.compress(documents, batch_size=5), strict=True):
        torch.testing.assert_close(got, compressor.compress([ids], batch_size=1)[0], atol=1e-5, rtol=1e-4)
        assert len(got) == sum(compressor.vectors_in(len(span)) for span in compressor.segments(len(ids)))


def test_layer_0_is_the_mean_of_input_embeddings(model, tokenizer):
    ids = random_ids(8)
    (got,) = MeanPool(model, tokenizer, 4, layer=0).compress([ids])
    embedded = model.get_input_embeddings().weight[ids]
    torch.testing.assert_close(got, torch.stack([embedded[:4].mean(0), embedded[4:].mean(0)]))


@pytest.mark.parametrize("settings", [{"ratio": 0}, {"layer": 3}, {"layer": -2}, {"segment_tokens": 5000}])
def test_refuses_settings_out_of_range(model, tokenizer, settings):
    with pytest.raises(UsageError, match=r"must|lower"):
        MeanPool(model, tokenizer, **settings)
