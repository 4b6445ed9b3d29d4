"""The baseline: the same attention whatever backend computes it, the fastest one first, and notes on the others."""

import pytest
import torch

from longreach.bench import dense
from longreach.bench.timing import Times
from longreach.errors import UsageError
from longreach.kernels.api import sparse_attention
from longreach.pattern import AttentionPattern


@pytest.mark.parametrize("queries", [33, 1])
@pytest.mark.parametrize("name", ["default", "flash"])
def test_it_is_full_causal_attention(queries, name):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, queries, 8), torch.randn(2, 2, 33, 8), torch.randn(2, 2, 33, 8)
    wanted = sparse_attention(q, k, v, AttentionPattern(local_blocks=33), impl="reference")
    with dense.backend(name, others=name != "default"):
        torch.testing.assert_close(dense.attend(q, k, v), wanted)


def test_a_preferred_backend_leaves_the_others_open_and_a_chosen_one_does_not():
    q = torch.randn(1, 1, 4, 8)
    within = torch.nn.attention._cur_sdpa_kernel_backends
    names = dense.within("efficient", within)(), dense.within("efficient", within, others=True)()
    assert [kind.name for kind in names[0]] == ["EFFICIENT_ATTENTION"] and len(names[1]) == 4
    torch.testing.assert_close(
        dense.within("cudnn", lambda: dense.attend(q, q, q), others=True)(), dense.attend(q, q, q)
    )


def test_the_fastest_backend_comes_first_and_others_are_noted(monkeypatch):
    seconds = {"flash": 0.3, "efficient": 0.2}
    monkeypatch.setattr(dense, "measure", lambda calls, *rest: {name: Times([seconds[name]]) for name in calls})
    notes: list[str] = []
    found = dense.fastest(lambda: None, torch.device("cuda"), notes, lambda text: None)
    assert list(found.items()) == [("efficient", 0.2), ("flash", 0.3)]
    assert notes == ["cudnn attention did not run here (KeyError: 'cudnn')"]
    seconds.clear()
    with pytest.raises(UsageError, match="None of torch's"):
        dense.fastest(lambda: None, torch.device("cuda"), notes, lambda text: None)


def test_on_a_cpu_torch_chooses():
    assert list(dense.fastest(lambda: 1 / 0, torch.device("cpu"), [], lambda text: None)) == [dense.DEFAULT]


def test_what_does_not_work_is_noted_and_the_call_stays():
    notes: list[str] = []
    assert dense.attempt(lambda: 5, "five", notes) == 5 and notes == []

    def call() -> int:
        raise UsageError("It cannot be done.")

    assert dense.attempt(call, "it", notes) is None and notes == ["it did not run here (It cannot be done.)"]
    if not torch.cuda.is_available():
        assert (
            dense.recorded(call, torch.device("cpu"), "a step", notes) is call and "a step as a CUDA graph" in notes[-1]
        )
