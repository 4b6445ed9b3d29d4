"""Sparse layers with another window or none for a while, and their own again afterwards."""

import pytest
import torch

import longreach
from longreach.errors import UsageError
from longreach.models.hybrid.sparse import pattern_of
from longreach.models.hybrid.switched import all_full, narrowed, with_window
from tests.conftest import FAMILIES, make_model

PATTERN = longreach.AttentionPattern(8, 1, 4, 0)
SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
IDS = torch.randint(0, 256, (2, 150), generator=torch.Generator().manual_seed(0))


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def make_stock(family):
    # Conversion takes Mistral's own window away.
    shape = {"sliding_window": None} if "sliding_window" in FAMILIES[family][1] else {}
    return make_model(family, **shape)


@pytest.mark.parametrize("family", SUPPORTED)
def test_all_layers_full_is_the_model_before_it_was_converted(family):
    stock = make_stock(family)
    hybrid = longreach.convert(stock, PATTERN, [1], max_length=64)
    own = logits(hybrid)
    with all_full(hybrid):
        assert torch.allclose(logits(hybrid), logits(stock), atol=1e-5)
    assert not torch.allclose(own, logits(stock), atol=1e-2)
    assert torch.equal(logits(hybrid), own)


def test_a_stock_model_stays_what_it_is():
    stock = make_model()
    own = logits(stock)
    with all_full(stock):
        assert torch.equal(logits(stock), own)


@pytest.mark.parametrize("window", [8, 16, 64])
def test_a_narrowed_model_is_one_that_was_converted_so(window):
    hybrid = longreach.convert(make_model(), PATTERN, [1], max_length=64)
    own = logits(hybrid)
    other = longreach.convert(make_model(), with_window(PATTERN, window), [1], max_length=64)
    with narrowed(hybrid, window):
        assert torch.equal(logits(hybrid), logits(other))
    assert pattern_of(hybrid.config) == PATTERN
    assert torch.equal(logits(hybrid), own)


def test_an_error_gives_the_pattern_back():
    hybrid = longreach.convert(make_model(), PATTERN, [1], max_length=64)
    for switch in (all_full(hybrid), narrowed(hybrid, 8)):
        own = logits(hybrid)
        with pytest.raises(ZeroDivisionError), switch:
            raise ZeroDivisionError
        assert torch.equal(logits(hybrid), own)


@pytest.mark.parametrize("tokens", [0, 12])
def test_a_window_is_whole_blocks(tokens):
    with pytest.raises(UsageError, match="give a multiple of 8"):
        with_window(PATTERN, tokens)
