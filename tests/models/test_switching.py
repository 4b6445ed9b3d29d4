"""Rotary embeddings that change with the length: an answer is that of a forward over everything before each token."""

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

import longreach as lr
from longreach.corpus.documents import Document
from longreach.engine.generate import write_all
from longreach.engine.sampling import Sampling
from longreach.models.cached import CACHE, cache_in
from longreach.models.decoder import hidden_states
from longreach.models.switching import groups_of, steps_for, switch_of
from tests.conftest import SHAPE, make_model, make_tokenizer

LENGTH = 64


def make_phi3(seed=0, length=LENGTH, window=512):
    """A Phi-3 whose rotation changes visibly beyond `length` positions."""
    torch.manual_seed(seed)
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.5, 4.0, 9.0, 30.0],
        "original_max_position_embeddings": length,
    }
    shape = {**SHAPE, "max_position_embeddings": window, "rope_parameters": rope}
    model = Phi3ForCausalLM(Phi3Config(original_max_position_embeddings=length, **shape)).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    return model


def make_dynamic():
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    return make_model(max_position_embeddings=LENGTH, rope_parameters=rope)


def fresh(model):
    """The same weights in a model that has read nothing yet."""
    twin = type(model)(model.config).float().eval()
    twin.load_state_dict(model.state_dict())
    return twin


@torch.no_grad()
def full_forward(model, embeds, count):
    """Greedy tokens, each of a forward over the whole row in a model that remembers nothing."""
    tokens = []
    for _ in range(count):
        tokens.append(int(fresh(model)(inputs_embeds=embeds[None]).logits[0, -1].argmax()))
        embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor(tokens[-1:]))])
    return tokens


def prompts(model, lengths):
    torch.manual_seed(1)
    return [model.get_input_embeddings()(torch.randint(0, 256, (length,))).detach() for length in lengths]


@pytest.mark.parametrize("make", [make_phi3, make_dynamic])
@pytest.mark.parametrize("chunk", [None, 30])
def test_answers_are_those_of_full_forwards_in_any_company(make, chunk):
    model, count = make(), 8
    rows = prompts(model, [40, LENGTH - 5, LENGTH, LENGTH + 1, 2 * LENGTH])
    right = [full_forward(model, row, count) for row in rows]
    sampling = Sampling(max_new_tokens=count)
    together = write_all(model, rows, frozenset(), sampling, chunk_tokens=chunk)
    assert [written.tokens for written in together] == right
    assert all(written.kv_bytes > 0 for written in together)
    for row, tokens in zip(rows, right, strict=True):
        (alone,) = write_all(model, [row], frozenset(), sampling)
        assert alone.tokens == tokens


@torch.no_grad()
@pytest.mark.parametrize("make", [make_phi3, make_dynamic])
def test_a_row_that_ends_right_where_the_rotation_changes_is_read_in_company_as_alone(make):
    model = make()
    short, long = prompts(model, [LENGTH - 1, 3 * LENGTH])
    token = torch.tensor([7])
    steps = steps_for(model, LENGTH)
    steps.read(inputs_embeds=short[None])
    steps_for(model, 4 * LENGTH).read(inputs_embeds=long[None])
    whole = torch.cat([short, model.get_input_embeddings()(token)])
    right = fresh(model)(inputs_embeds=whole[None]).logits[:, -1]
    assert torch.allclose(steps.step(token), right, atol=1e-4)


def test_the_rotation_matters_here():
    """Without reading again the answers would differ: the tests above can fail."""
    model = make_phi3()
    (row,) = prompts(model, [LENGTH - 5])
    with torch.no_grad():
        cache = cache_in(model(inputs_embeds=row[None, :40], use_cache=True))
        more = torch.cat([row[40:], row])
        positions = torch.arange(40, 40 + len(more))[None]
        mixed = model(inputs_embeds=more[None], position_ids=positions, **{CACHE: cache}).logits[0, -1]
        whole = model(inputs_embeds=torch.cat([row, row])[None]).logits[0, -1]
    assert (mixed - whole).abs().max() > 0.1


@pytest.mark.parametrize("make", [make_phi3, make_dynamic])
def test_hidden_states_do_not_depend_on_neighbors(make):
    model = make()
    rows = prompts(model, [20, 2 * LENGTH, LENGTH, LENGTH + 7, 30])
    together = hidden_states(model, rows)
    assert together.shape[:2] == (5, 2 * LENGTH)
    for row, states in zip(rows, together, strict=True):
        alone = hidden_states(fresh(model), [row])[0]
        assert torch.allclose(states[: len(row)], alone, atol=1e-5)


def test_ask_equals_ask_many_beyond_the_switch(tmp_path):
    model, tokenizer = make_phi3(length=120), make_tokenizer()
    corpus = lr.Corpus.create(tmp_path, "c", lr.MeanPool(model, tokenizer, ratio=5, segment_tokens=60))
    corpus.add([Document("a", "The queen of hearts made some tarts all on a summer's day. " * 3)])
    reader = lr.Reader(corpus, model, tokenizer)
    questions = ["Who made tarts?", "What did the queen of hearts make on a summer's day?", "Tarts?"]
    for policy in (lr.Policy(raw=1, compressed="none"), lr.Policy(raw=0), lr.Policy(raw=0, compressed="none")):
        sampling = Sampling(max_new_tokens=20)
        many = reader.ask_many(questions, policy=policy, sampling=sampling)
        for question, answer in zip(questions, many, strict=True):
            for _ in range(2):  # the second time with whatever was kept of the first
                assert reader.ask(question, policy=policy, sampling=sampling).text == answer.text


def test_models_that_never_switch_are_told_apart():
    assert switch_of(make_model()) is None
    assert groups_of(make_model(), [1, 10_000]) == [[0, 1]]
    switch = switch_of(make_phi3())
    assert (switch.length, switch.each) == (LENGTH, False)
    assert groups_of(make_phi3(), [1, 100, LENGTH, 200]) == [[0, 2], [1, 3]]
    assert groups_of(make_dynamic(), [1, 100, LENGTH, 200, 100]) == [[0, 2], [1, 4], [3]]
