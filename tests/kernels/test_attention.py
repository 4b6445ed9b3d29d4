"""Every implementation against the reference, forward and gradients, and against itself."""

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional

from longreach.errors import MissingDependency, UsageError
from longreach.kernels.api import sparse_attention
from longreach.pattern import AttentionPattern
from tests.kernels.cases import HAS_TRITON, OWN, Case, cases, device_of, needs_triton, worst


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_cpu_is_the_reference(case):
    tensors = case.tensors(torch.float64)
    assert max(worst(case.run("cpu", tensors), case.run("reference", tensors))) < 1e-12


@needs_triton
@settings(max_examples=6, deadline=None)
@given(case=cases(sizes=(1, 16, 64), longest=130, most=2))
def test_triton_is_the_reference(case):
    got = case.run("triton", case.tensors(device=device_of("triton")))
    assert max(worst(got, case.run("reference", case.tensors(torch.float64)))) < 1e-5


SHAPES = {
    "one token": Case(AttentionPattern(), 2, 2, 2, 1, 1, 64),
    "63 tokens": Case(AttentionPattern(), 1, 1, 3, 63, 63, 80),
    "multi-head": Case(AttentionPattern(32, 1, 2), 1, 2, 1, 252, 252, 96),
    "head dim 256": Case(AttentionPattern(64, 0, 1, 2), 1, 1, 2, 200, 200, 256),
    "1000 tokens": Case(AttentionPattern(64, 1, 3, 4), 1, 1, 2, 1000, 1000, 64, layer=1),
    "chunk of 100": Case(AttentionPattern(64, 1, 2, 3), 1, 2, 1, 100, 507, 128, layer=2),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("impl", OWN)
def test_awkward_shapes(impl, name):
    case = SHAPES[name]
    got = case.run(impl, case.tensors(device=device_of(impl)))
    assert max(worst(got, case.run("reference", case.tensors(torch.float64)))) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("impl", OWN)
def test_error_is_within_that_of_naive_low_precision(impl, dtype):
    case = Case(AttentionPattern(32, 1, 2, 3), 1, 2, 2, 200, 200, 64)
    tensors = case.tensors(dtype)
    truth = case.run("reference", [x.detach().double().requires_grad_() for x in tensors])
    q, k, v = tensors
    mask = case.p.mask(200, 200, 2).repeat_interleave(2, 0)
    scores = (q @ k.repeat_interleave(2, 1).transpose(-1, -2) / 8).masked_fill(~mask, float("-inf"))
    out = scores.softmax(-1) @ v.repeat_interleave(2, 1)
    seed = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view_as(out).to(out)
    naive = worst([out.detach(), *torch.autograd.grad(out, tensors, seed)], truth)
    device = device_of(impl)
    got = worst(case.run(impl, [x.detach().to(device).requires_grad_() for x in tensors]), truth)
    # Triton's interpreter cuts bfloat16 off instead of rounding it: a whole unit in the last place, not half.
    cut = dtype == torch.bfloat16 and impl == "triton" and device == "cpu"
    tolerance = torch.finfo(dtype).eps * (1 if cut else 0.5) + 1e-6
    assert all(error <= budget + tolerance for error, budget in zip(got, naive, strict=True)), (got, naive)


@pytest.mark.parametrize("impl", ["reference", *OWN])
def test_density_one_is_full_attention(impl):
    for p in (AttentionPattern(16, 0, 20), AttentionPattern(16, 20, 1), AttentionPattern(16, 0, 1, 1)):
        assert p.density(150) == 1
        case = Case(p, 1, 1, 2, 150, 150, 32)
        got = case.run(impl, case.tensors(device=device_of(impl)))
        q, k, v = tensors = case.tensors()
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        seed = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view_as(out).to(out)
        assert max(worst(got, [out.detach(), *torch.autograd.grad(out, tensors, seed)])) < 2e-6


@pytest.mark.parametrize("impl", OWN)
def test_chunks_are_the_whole(impl):
    case = Case(AttentionPattern(16, 1, 2, 3), 1, 2, 2, 150, 150, 16, layer=1)
    q, k, v = (x.detach() for x in case.tensors(device=device_of(impl)))
    whole = sparse_attention(q, k, v, case.p, 1, impl=impl)
    ends = [1, 7, 64, 65, 130, 150]
    pieces = [
        sparse_attention(q[:, :, a:b], k[:, :, :b], v[:, :, :b], case.p, 1, impl=impl)
        for a, b in zip([0, *ends], ends, strict=False)
    ]
    assert max(worst([torch.cat(pieces, 2)], [whole])) < 2e-6


@pytest.mark.parametrize("impl", OWN)
def test_padded_batches_are_single_rows(impl):
    case = Case(AttentionPattern(16, 1, 2, 3), 3, 1, 2, 100, 100, 16, layer=1, starts=[0, 37, 96])
    tensors = case.tensors(device=device_of(impl))
    batch = case.run(impl, tensors)
    q, k, v = (x.detach() for x in tensors)
    for row, start in enumerate(case.starts):
        alone = sparse_attention(*(x[row : row + 1, :, start:] for x in (q, k, v)), case.p, 1, impl=impl)
        assert max(worst([batch[0][row : row + 1, :, start:]], [alone])) < 2e-6
        assert all((x[row, :, :start] == 0).all() for x in batch)
    # Padding on the right: no real query sees it.
    assert torch.equal(
        sparse_attention(q, k, v, case.p, impl=impl)[:, :, :60],
        sparse_attention(q, torch.cat([k[:, :, :60], k[:, :, 60:] + 1], 2), v, case.p, impl=impl)[:, :, :60],
    )


@pytest.mark.parametrize("impl", OWN)
def test_heads_on_two_ranks_are_the_heads_of_one(impl):
    p = AttentionPattern(16, 0, 1, 4)
    q, k, v = (x.detach() for x in Case(p, 1, 4, 2, 150, 150, 16).tensors(device=device_of(impl)))
    whole = sparse_attention(q, k, v, p, 3, impl=impl)
    ranks = [
        sparse_attention(q[:, 4 * r : 4 * r + 4], k[:, 2 * r : 2 * r + 2], v[:, 2 * r : 2 * r + 2], p, 3, impl=impl,
                         heads=(2 * r, 4))
        for r in (0, 1)
    ]  # fmt: skip
    assert max(worst([torch.cat(ranks, 1)], [whole])) < 2e-6


@pytest.mark.parametrize("impl", OWN)
def test_any_strides_will_do(impl):
    case = Case(AttentionPattern(16, 1, 2, 3), 1, 2, 1, 50, 50, 16)
    plain = case.tensors(device=device_of(impl))
    turned = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in plain]
    crossed = [x.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_() for x in plain]
    want = case.run(impl, plain)
    assert max(worst(case.run(impl, turned), want) + worst(case.run(impl, crossed), want)) < 1e-6
    q, k, v = turned
    sparse_attention(q, k, v, case.p, impl=impl).sum().backward()  # an expanded gradient
    assert q.grad.isfinite().all()


def test_sixteen_thousand_tokens_on_a_cpu():
    p = AttentionPattern(64, 1, 4, 64)
    q, k, v = (x.detach() for x in Case(p, 1, 1, 2, 16384, 16384, 64).tensors())
    got = sparse_attention(q, k, v, p, impl="cpu")
    for end in (100, 5000, 16384):
        last = sparse_attention(q[:, :, end - 100 : end], k[:, :, :end], v[:, :, :end], p, impl="reference")
        assert max(worst([got[:, :, end - 100 : end]], [last])) < 1e-5


@pytest.mark.parametrize("impl", OWN)
def test_ops_survive_torch_compile(impl):
    case = Case(AttentionPattern(16, 1, 2, 3), 1, 1, 2, 40, 40, 16)
    q, k, v = tensors = case.tensors(device=device_of(impl))
    want = case.run(impl, tensors)
    op = getattr(torch.ops.longreach, impl).default
    torch.library.opcheck(op, (q, k, v, [16, 1, 2, 3, 0, 0, 1], 0.25, None), atol=1e-5, rtol=1e-4)
    compiled = torch.compile(sparse_attention, fullgraph=True, backend="aot_eager")
    out = compiled(q, k, v, case.p, impl=impl)
    seed = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view_as(out).to(out)
    assert max(worst([out.detach(), *torch.autograd.grad(out, tensors, seed)], want)) < 1e-6


def good():
    return [torch.zeros(2, 4, 8, 16), torch.zeros(2, 2, 9, 16), torch.zeros(2, 2, 9, 16)]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda q, k, v: ((q[0], k, v), {}), "four dimensions"),
        (lambda q, k, v: ((q.long(), k, v), {}), "float32"),
        (lambda q, k, v: ((q, k.half(), v), {}), "alike"),
        (lambda q, k, v: ((q, k, v[:, :, 1:]), {}), "one shape"),
        (lambda q, k, v: ((q[:1], k, v), {}), "rows and head dim"),
        (lambda q, k, v: ((q[:, :3], k, v), {}), "multiple"),
        (lambda q, k, v: ((q, k[:, :, 2:], v[:, :, 2:]), {}), "last positions"),
        (lambda q, k, v: ((q, k, v), {"starts": torch.zeros(3, dtype=torch.long)}), "each of the 2 rows"),
        (lambda q, k, v: ((q, k, v), {"starts": torch.tensor([0, 10])}), "0 to 9"),
        (lambda q, k, v: ((q, k, v), {"starts": torch.tensor([-1, 0])}), "0 to 9"),
        (lambda q, k, v: ((q, k, v), {"impl": "cuda"}), "choose one"),
        (lambda q, k, v: ((q, k, v), {"heads": (1, 2)}), "first <= total"),
        (lambda q, k, v: ((q, k, v), {"layer": -1}), "layer"),
        (lambda q, k, v: ((q.requires_grad_(), k, v), {"impl": "flex"}), "no backward"),
    ],
)
def test_bad_input_is_refused(change, word):
    args, kwargs = change(*good())
    with pytest.raises(UsageError, match=word):
        sparse_attention(*args, AttentionPattern(), **kwargs)


def test_no_rows_and_no_queries_are_fine():
    q, k, v = good()
    assert sparse_attention(q[:0], k[:0], v[:0], AttentionPattern()).shape == (0, 4, 8, 16)
    assert sparse_attention(q[:, :, :0], k, v, AttentionPattern()).shape == (2, 4, 0, 16)


@pytest.mark.skipif(not HAS_TRITON or torch.cuda.is_available(), reason="needs triton and no GPU")
def test_triton_without_gpu_or_interpreter_says_what_to_do():
    import os
    import subprocess
    import sys

    code = (
        "import torch; from longreach.kernels.api import sparse_attention as f\n"
        "from longreach.pattern import AttentionPattern as P\n"
        "x = torch.zeros(1, 1, 4, 16)\n"
        "try: f(x, x, x, P(), impl='triton')\n"
        "except ValueError as error: print(error)"
    )
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert "TRITON_INTERPRET=1" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("triton") is not None, reason="triton is installed")
def test_triton_not_installed_says_how():
    q, k, v = good()
    with pytest.raises(MissingDependency, match="pip install triton"):
        sparse_attention(q, k, v, AttentionPattern(), impl="triton")
