"""Implementations register by name, say what they cannot do, and are never taken in place of another."""

import subprocess
import sys
from typing import get_args

import pytest
import torch

from longreach.errors import UsageError
from longreach.kernels import registry
from longreach.kernels.api import Retained, chunk_attention, decode_attention, sparse_attention, store_token
from longreach.kernels.backend import AttentionRequest, PrefillOnly, Work
from longreach.kernels.registry import backend_names, choose_name, load_backend, register_backend
from longreach.pattern import AttentionPattern
from tests.kernels.cases import HAS_TRITON

PATTERN = AttentionPattern(8, 1, 2, 0)


class Doubling(PrefillOnly):
    """An implementation of somebody else's."""

    name = "doubling"

    def prefill(self, q, k, v, view, scale, starts):
        return q * 2


@pytest.fixture
def doubling(monkeypatch):
    monkeypatch.setattr(registry, "_LOADERS", dict(registry._LOADERS))
    register_backend("doubling", Doubling)


def request_of(work, **changes):
    values = {"device": torch.device("cpu"), "dtype": torch.float32, "head_dim": 16, "rows_per_kv_head": 2}
    return AttentionRequest(work=work, gradients=False, **values | changes)


def test_another_implementation_is_registered_and_used(doubling):
    q = torch.randn(1, 2, 8, 16)
    assert backend_names()[-1] == "doubling"
    assert torch.equal(sparse_attention(q, q, q, PATTERN, impl="doubling"), q * 2)
    with pytest.raises(UsageError, match="another name"):
        register_backend("doubling", Doubling)
    with pytest.raises(UsageError, match="another name"):
        register_backend("auto", Doubling)


def test_what_it_cannot_do_is_refused_and_nothing_takes_its_place(doubling):
    q = torch.randn(1, 2, 1, 16)
    near = torch.randn(1, 2, 24, 16)
    kept = Retained(near[:, :, :8], near[:, :, :8], near, near)
    lengths = torch.tensor([24])
    for impl in ("doubling", "reference", "flex"):
        for call in (
            lambda impl=impl: decode_attention(q, kept, PATTERN, lengths, impl=impl),
            lambda impl=impl: chunk_attention(q, kept, PATTERN, 24, impl=impl),
            lambda impl=impl: store_token(q, q, kept, PATTERN, lengths, impl=impl),
        ):
            with pytest.raises(UsageError, match=f"impl is '{impl}'.*compact cache"):
                call()


def test_refusals_are_sentences_and_the_cpu_refuses_nothing_here():
    cpu = load_backend("cpu")
    assert [cpu.explain_refusal(request_of(work)) for work in get_args(Work)] == [None] * 4
    assert "move them to the CPU" in cpu.explain_refusal(request_of("prefill", device=torch.device("meta")))
    reference = load_backend("reference")
    assert reference.explain_refusal(request_of("prefill")) is None
    assert "compact cache" in reference.explain_refusal(request_of("decode"))
    flex = load_backend("flex")
    assert "no backward" in flex.explain_refusal(request_of("prefill")._replace(gradients=True))


@pytest.mark.skipif(not HAS_TRITON, reason="needs triton")
def test_triton_says_what_it_cannot_take():
    triton = load_backend("triton")
    for changes, word in (
        ({"dtype": torch.float64}, "float64"),
        ({"head_dim": 512}, "head dim 512"),
        ({"rows_per_kv_head": 65}, "decode at most 64"),
    ):
        assert word in triton.explain_refusal(request_of("decode", **changes))
        if "rows_per_kv_head" in changes:
            assert triton.explain_refusal(request_of("prefill", **changes)) is None


def test_auto_fits_the_device():
    assert choose_name("auto", "cuda") == "triton"
    assert choose_name("auto", "cpu") == "cpu"
    assert choose_name("auto", "mps") == "reference"
    assert choose_name("flex", "cuda") == "flex"
    with pytest.raises(UsageError, match="choose one of auto, reference, cpu, flex, triton"):
        choose_name("cuda", "cuda")


def test_names_cost_no_torch():
    code = "import sys, longreach.kernels.registry as r; assert r.backend_names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
