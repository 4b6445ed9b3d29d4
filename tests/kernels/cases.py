"""Random attention problems and what the reference says about them."""

import importlib.util
from typing import NamedTuple

import numpy
import pytest
import torch
from hypothesis import strategies as st

from longreach.kernels.api import Retained, sparse_attention
from longreach.pattern import AttentionPattern


def _interpreter_works():
    """Triton before 3.8 cannot loop to a computed bound under the scalar rules of NumPy 2.4."""
    if importlib.util.find_spec("triton") is None:
        return False
    import triton

    triton_release, numpy_release = (tuple(map(int, m.__version__.split(".")[:2])) for m in (triton, numpy))
    return torch.cuda.is_available() or triton_release >= (3, 8) or numpy_release < (2, 4)


HAS_TRITON = _interpreter_works()
needs_triton = pytest.mark.skipif(
    not HAS_TRITON, reason="needs triton (its interpreter: 3.8 or later, or NumPy before 2.4)"
)
TRITON_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OWN = ["cpu", pytest.param("triton", marks=needs_triton)]


def device_of(impl):
    return TRITON_DEVICE if impl == "triton" else "cpu"


class Case(NamedTuple):
    p: AttentionPattern
    rows: int
    kv_heads: int
    groups: int
    q_len: int
    kv_len: int
    dim: int
    layer: int = 0
    heads: tuple[int, int] | None = None
    starts: list[int] | None = None

    def tensors(self, dtype=torch.float32, seed=0, device="cpu"):
        generator = torch.Generator().manual_seed(seed)
        shapes = ((self.kv_heads * self.groups, self.q_len), (self.kv_heads, self.kv_len), (self.kv_heads, self.kv_len))
        made = [torch.randn(self.rows, h, t, self.dim, generator=generator).to(dtype).to(device) for h, t in shapes]
        return [x.requires_grad_() for x in made]

    def run(self, impl, tensors, **kwargs):
        """The output and the gradients of a fixed function of it."""
        q, k, v = tensors
        starts = None if self.starts is None else torch.tensor(self.starts, device=q.device)
        out = sparse_attention(q, k, v, self.p, self.layer, impl=impl, starts=starts, heads=self.heads, **kwargs)
        seed = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view_as(out).to(out)
        return [out.detach(), *torch.autograd.grad(out, tensors, seed)]


@st.composite
def cases(draw, sizes=(1, 4, 16), longest=150, most=3):
    p = AttentionPattern(
        draw(st.sampled_from(sizes)), draw(st.integers(0, 3)), draw(st.integers(1, 5)), draw(st.integers(0, 7))
    )
    kv_len = draw(st.integers(1, longest))
    rows, kv_heads = draw(st.integers(1, 2)), draw(st.integers(1, most))
    return Case(
        p,
        rows,
        kv_heads,
        groups=draw(st.integers(1, most)),
        q_len=draw(st.sampled_from([1, kv_len]) | st.integers(1, kv_len)),
        kv_len=kv_len,
        dim=draw(st.sampled_from([8, 20])),
        layer=draw(st.integers(0, 5)),
        heads=draw(st.sampled_from([None, (1, kv_heads + 2)])),
        starts=draw(st.none() | st.lists(st.integers(0, kv_len), min_size=rows, max_size=rows)),
    )


def worst(got, want):
    """Largest error of each tensor, as a share of its largest value."""
    return [
        ((a.double().cpu() - b.double().cpu()).abs().max() / b.double().abs().max().clamp_min(0.1).cpu()).item()
        for a, b in zip(got, want, strict=True)
    ]


def keep(k, v, case, lengths, ring, chunk=1):
    """What a cache holds after `lengths` tokens of each row: NaN wherever nothing may be read."""
    p, heads = case.p, case.kv_heads
    first, total = case.heads or (0, heads)
    size = p.block_size
    far = max(1, (max(lengths) // size + 1) * size)
    kept = [x.new_full((*x.shape[:2], n, x.shape[3]), float("nan")) for n in (far, ring) for x in (k, v)]
    for b, length in enumerate(lengths):
        for g in range(heads):
            blocks = p.far_blocks((length - 1) // size, first + g, total, case.layer)
            old = [j * size + x for j in blocks for x in range(size)]
            window = p.local_start(max(0, length - chunk) // size) * size
            slots = [position % ring for position in range(window, length)]
            for i, x in enumerate((k, v)):
                kept[i][b, g, : len(old)] = x[b, g, old]
                kept[2 + i][b, g, slots] = x[b, g, window:length]
    return Retained(*kept)
