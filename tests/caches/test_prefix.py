import copy
import threading

import pytest
import torch
from transformers import DynamicCache

import longreach as lr
from longreach.caches.prefix import PrefixCache, cache_bytes
from longreach.engine.rows import read_prefix
from longreach.models.steps import Steps
from tests.conftest import make_model

PATTERN = lr.AttentionPattern(block_size=4, sink_blocks=1, local_blocks=3, stride=4)


def filled(value, tokens=4):
    cache = DynamicCache()
    for layer in range(2):
        cache.update(torch.full((1, 2, tokens, 8), float(value)), torch.full((1, 2, tokens, 8), float(value)), layer)
    return cache


SIZE = 2 * 2 * 2 * 4 * 8 * 4  # layers, keys and values, heads, tokens, head size, bytes of a float


def test_bytes_are_those_of_keys_and_values():
    assert cache_bytes(filled(1)) == SIZE


def test_what_comes_out_may_be_extended():
    prefixes = PrefixCache(10 * SIZE)
    mine = filled(1)
    prefixes.put("a", mine)
    for cache in (mine, prefixes.get("a")):
        cache.update(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8), 0)
        cache.crop(-5)
    kept = prefixes.get("a")
    assert kept.get_seq_length() == 4 and kept.layers[0].keys.eq(1).all()
    assert prefixes.get("a").layers[0].keys.data_ptr() == kept.layers[0].keys.data_ptr()  # shared, not copied


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
@pytest.mark.parametrize("hybrid", [False, True])
def test_what_a_row_reads_and_writes_changes_no_entry(family, hybrid):
    if hybrid and family == "gemma3":
        pytest.skip("there is no such hybrid")
    model = make_model(family, **({"num_hidden_layers": 6, "sliding_window": None} if hybrid else {}))
    model = lr.convert(model, PATTERN, max_length=2048) if hybrid else model
    embeds = model.get_input_embeddings()(torch.arange(90)).detach()
    prefixes, cache = PrefixCache(1 << 30), read_prefix(model, embeds[:40])
    prefixes.put("a", cache)
    wanted = copy.deepcopy(prefixes.get("a"))
    for taken in (cache, prefixes.get("a")):
        steps = Steps(model, 110, cache=read_prefix(model, embeds[40:70], taken))
        token = steps.read(inputs_embeds=embeds[None, 70:]).argmax(-1)
        for _ in range(20):
            token = steps.step(token).argmax(-1)
        for layer, other in zip(prefixes.get("a").layers, wanted.layers, strict=True):
            mine = vars(layer)
            for name, value in vars(other).items():
                same = torch.equal(mine[name], value) if torch.is_tensor(value) else mine[name] == value
                assert same, (type(layer).__name__, name)


def test_the_least_recently_used_goes_first():
    prefixes = PrefixCache(2 * SIZE)
    prefixes.put("a", filled(1))
    prefixes.put("b", filled(2))
    assert prefixes.get("a") is not None
    prefixes.put("c", filled(3))
    assert prefixes.get("b") is None and prefixes.get("a") is not None and prefixes.get("c") is not None
    assert prefixes.bytes == 2 * SIZE and len(prefixes) == 2


def test_replacing_an_entry_counts_it_once():
    prefixes = PrefixCache(2 * SIZE)
    for value in (1, 2, 3):
        prefixes.put("a", filled(value))
    assert prefixes.bytes == SIZE and prefixes.get("a").layers[0].keys.eq(3).all()


@pytest.mark.parametrize("most", [0, SIZE - 1])
def test_what_does_not_fit_is_not_kept(most):
    prefixes = PrefixCache(most)
    prefixes.put("a", filled(1))
    assert prefixes.get("a") is None and prefixes.bytes == 0


def test_threads_share_it():
    prefixes, failures = PrefixCache(3 * SIZE), []

    def work(name):
        for _ in range(50):
            prefixes.put(name, filled(name))
            cache = prefixes.get(name)
            if cache is not None and not cache.layers[0].keys.eq(name).all():
                failures.append(name)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and prefixes.bytes == SIZE * len(prefixes) <= 3 * SIZE


def test_a_view_counts_as_what_a_copy_of_it_holds():
    cache = filled(1)
    cache.layers[0].keys = torch.zeros(1, 2, 400, 8)[:, :, :4]
    assert cache_bytes(cache) == SIZE - 2 * 4 * 8 * 4 + 2 * 400 * 8 * 4
