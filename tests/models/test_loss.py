"""The chunked loss against torch's own, values and gradients."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from longreach.errors import ModelError, UsageError
from longreach.models.loss import checkpointing, chunked_cross_entropy, chunked_divergence, likeliest, softcap_of
from tests.conftest import make_model


@pytest.mark.parametrize("chunk_tokens", [1, 7, 26, 1000])
@pytest.mark.parametrize("ignored", [0, 5])
def test_value_and_gradients_are_those_of_torch(chunk_tokens, ignored):
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 13, 6, requires_grad=True), torch.randn(17, 6, requires_grad=True)
    labels = torch.randint(0, 17, (2, 13))
    labels[0, :ignored] = -100
    wanted = cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten())
    found = chunked_cross_entropy(hidden, weight, labels, chunk_tokens)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(*(torch.autograd.grad(x, (hidden, weight)) for x in (found, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_low_precision_is_summed_in_float32():
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(1, 600, 6), torch.randn(17, 6), torch.randint(0, 17, (1, 600))
    low = chunked_cross_entropy(hidden.bfloat16(), weight.bfloat16(), labels, 16)
    logits = (hidden.bfloat16() @ weight.bfloat16().T).float()
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, cross_entropy(logits[0], labels[0]), rtol=1e-5, atol=1e-5)


def test_logits_of_all_positions_never_exist():
    hidden, weight = torch.randn(1, 64, 4, requires_grad=True), torch.randn(31, 4, requires_grad=True)
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes.append(result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    with Watch():
        chunked_cross_entropy(hidden, weight, torch.zeros(1, 64, dtype=torch.long), 8).backward()
    assert 8 * 31 in sizes and max(sizes) <= max(8 * 31, hidden.numel())


def test_what_does_not_fit_is_refused():
    hidden, weight = torch.zeros(1, 3, 4), torch.zeros(5, 4)
    for call in (
        lambda: chunked_cross_entropy(hidden, weight, torch.zeros(1, 3, dtype=torch.long), 0),
        lambda: chunked_cross_entropy(hidden, weight, torch.zeros(1, 2, dtype=torch.long)),
        lambda: chunked_cross_entropy(hidden, weight.T, torch.zeros(1, 3, dtype=torch.long)),
    ):
        with pytest.raises(UsageError):
            call()


def test_checkpointing_computes_layers_twice_and_changes_no_gradient(model):
    ids, calls = torch.arange(9)[None], []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *args: calls.append(1))

    def gradient():
        calls.clear()
        model.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        return model.model.layers[0].mlp.up_proj.weight.grad.clone()

    model.train()
    wanted = gradient()
    for on in (True, False):
        checkpointing(model, on)
        torch.testing.assert_close(gradient(), wanted)
        assert len(calls) == 1 + on


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_divergence_is_that_of_the_likeliest_tokens_and_the_rest(softcap):
    torch.manual_seed(0)
    hidden, other, weight = torch.randn(2, 13, 6, requires_grad=True), torch.randn(2, 13, 6), torch.randn(17, 6)
    capped = lambda x: x if softcap is None else softcap * torch.tanh(x / softcap)  # noqa: E731
    expected = capped(other @ weight.T).log_softmax(-1)
    teacher = likeliest(other, weight, 4, 5, softcap=softcap)
    torch.testing.assert_close(teacher.log_probs, expected.topk(4).values)
    assert torch.equal(teacher.ids, expected.topk(4).indices)

    def events(log_probs):
        named = log_probs.gather(-1, teacher.ids).exp()
        return torch.cat([named, 1 - named.sum(-1, keepdim=True)], dim=-1)

    p, q = events(expected), events(capped(hidden @ weight.T).log_softmax(-1))
    wanted = (p * (p / q).log()).sum(-1).mean()
    found = chunked_divergence(hidden, weight, teacher, 7, softcap=softcap)
    torch.testing.assert_close(found, wanted)
    ours, theirs = (torch.autograd.grad(x, hidden)[0] for x in (found, wanted))
    torch.testing.assert_close(ours, theirs)
    assert chunked_divergence(other, weight, teacher, 7, softcap=softcap).abs() <= 1e-6


def test_the_softcap_of_a_model_and_heads_that_are_not_known():
    assert softcap_of(make_model()) is None
    capped = make_model("gemma2", final_logit_softcapping=2.0)
    assert softcap_of(capped) == 2.0
    ids = torch.arange(40)[None]
    with torch.no_grad():
        output = capped(ids, labels=ids, output_hidden_states=True)
    labels = torch.cat([ids[:, 1:], torch.tensor([[-100]])], dim=1)
    found = chunked_cross_entropy(output.hidden_states[-1], capped.lm_head.weight, labels, 16, softcap=2.0)
    torch.testing.assert_close(found, output.loss, rtol=1e-4, atol=1e-5)
    scaled = make_model()
    scaled.lm_head.register_forward_hook(lambda module, args, output: output / 3)
    with pytest.raises(ModelError, match="more than one matrix"):
        softcap_of(scaled)
