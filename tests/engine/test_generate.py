import pytest
import torch

from longreach.engine.engine import engine_of
from longreach.engine.request import Request, stop_tokens
from longreach.engine.rows import read_prefix
from longreach.engine.sampling import Sampling
from longreach.errors import UsageError
from tests.conftest import FAMILIES, make_model

NOWHERE = frozenset()


def prompt(model, length, seed=0):
    ids = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed))
    return ids, model.get_input_embeddings()(ids).detach()


def written(model, prompts, tokens=12, stops=NOWHERE, cache=None, **settings):
    sampling, engine = Sampling(tokens, **settings), engine_of(model)
    handles = [engine.submit(Request(one, sampling, stops, after=cache)) for one in prompts]
    return [handle.result().tokens for handle in handles]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_generate(family):
    model = make_model(family)
    ids, embeds = prompt(model, 30)
    wanted = model.generate(ids[None], max_new_tokens=12, do_sample=False, eos_token_id=None)[0, 30:].tolist()
    assert written(model, [embeds]) == [wanted]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_unequal_prompts_equals_single_ones(family):
    model = make_model(family)
    prompts = [prompt(model, length, seed=length)[1] for length in (40, 1, 17, 33)]
    together = written(model, prompts)
    assert together == [written(model, [one])[0] for one in prompts]


@pytest.mark.parametrize("family", FAMILIES)
def test_after_a_prefix_in_pieces_equals_at_once(family):
    model = make_model(family)
    embeds = prompt(model, 50)[1]
    cache = read_prefix(model, embeds[20:35], read_prefix(model, embeds[:20]))
    assert cache.get_seq_length() == 35
    assert written(model, [embeds[35:]], cache=cache) == written(model, [embeds])


def test_stop_tokens_end_a_row_and_are_not_written():
    model = make_model()
    prompts = [prompt(model, length, seed=length)[1] for length in (9, 20)]
    free = written(model, prompts)
    stop = next(token for token in free[0] if token not in free[1])
    stopped = written(model, prompts, stops=frozenset([stop]))
    end = free[0].index(stop)
    assert stopped[0] == free[0][:end] and stopped[1] == free[1]
    assert written(model, prompts[:1], stops=frozenset([stop])) == [free[0][:end]]


def test_sampling_is_repeatable_and_the_same_in_a_batch():
    model = make_model()
    prompts = [prompt(model, length, seed=length)[1] for length in (9, 20)]
    settings = {"temperature": 1.5, "top_k": 50, "top_p": 0.95}
    first = written(model, prompts, seed=3, **settings)
    assert first == written(model, prompts, seed=3, **settings)
    assert first[1:] == written(model, prompts[1:], seed=3, **settings)
    assert first != written(model, prompts, seed=4, **settings)
    assert written(model, prompts, temperature=1.0, top_k=1) == written(model, prompts)
    assert written(model, prompts, temperature=1.0, top_p=1e-6) == written(model, prompts)


def test_stop_tokens_come_from_model_and_tokenizer(tokenizer):
    model = make_model()
    model.generation_config.eos_token_id = [7, 8]
    assert stop_tokens(model, tokenizer) == {7, 8, tokenizer.eos_token_id}
    model.generation_config.eos_token_id = None
    assert stop_tokens(model, tokenizer) == {tokenizer.eos_token_id}


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_k": -1},
        {"seed": 2**70},
    ],
)
def test_refuses_settings_out_of_range(settings):
    with pytest.raises(UsageError, match="must"):
        Sampling(**settings)
