"""The Triton implementation as an op: checks, the choice between prefill and split-K decode, gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from longreach.errors import MissingDependency, UsageError
from longreach.kernels.ops import define_attention_op
from longreach.kernels.view import HeadView

try:
    from longreach.kernels import triton_backward, triton_decode, triton_launch, triton_prefill
except ImportError as error:
    if error.name is None or error.name.partition(".")[0] != "triton":
        raise
    raise MissingDependency("impl='triton' needs Triton; install it with `pip install triton` (Linux).") from error

MAX_HEAD_DIM = 256


def check(q: Tensor) -> None:
    """Raises UsageError where the kernels cannot take this tensor."""
    if q.device.type != "cuda" and not triton_launch.INTERPRETED:
        raise UsageError(
            f"impl='triton' got tensors on {q.device}; move them to a CUDA device, set TRITON_INTERPRET=1 before "
            "the first import of triton to run the kernels slowly on a CPU, or use impl='cpu'."
        )
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise UsageError(f"impl='triton' got {q.dtype}; give float32, bfloat16 or float16, or use impl='reference'.")
    if q.shape[-1] > MAX_HEAD_DIM:
        raise UsageError(f"impl='triton' got head dim {q.shape[-1]}; give at most {MAX_HEAD_DIM}, or use impl='cpu'.")


def dense_rows(x: Tensor) -> Tensor:
    """The tensor with its last dimension contiguous, as the kernels want it; a copy only where it is not."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _forward(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None, numbers: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    view = HeadView.unpack(numbers)
    q, k, v = (dense_rows(x) for x in (q, k, v))
    if q.shape[1] // k.shape[1] * q.shape[2] <= triton_decode.MAX_ROWS:
        return triton_decode.decode(q, (k, v), (k, v), view, scale, starts=starts)
    q_first = k.shape[2] - q.shape[2]
    return triton_prefill.forward(q, (k, v), (k, v), view, scale, q_first=q_first, starts=starts)


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    starts: Tensor | None,
    numbers: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grad, q, k, v, out = (dense_rows(x) for x in (grad, q, k, v, out))
    return triton_backward.backward(grad, q, k, v, out, lse, starts, HeadView.unpack(numbers), scale)


attention = define_attention_op("triton", _forward, _backward)


def attend(q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None, view: HeadView, scale: float) -> Tensor:
    """Attention over all keys: the arguments and result of `attention.sparse_attention`."""
    check(q)
    return attention(q, k, v, starts, view.pack(), scale)[0]
