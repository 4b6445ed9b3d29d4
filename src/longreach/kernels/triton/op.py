"""The Triton implementation as an op: checks, the choice between prefill and split-K decode,
gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from longreach.errors import MissingDependency, UsageError
from longreach.kernels.ops import define_attention_op
from longreach.kernels.view import HeadView

try:
    from longreach.kernels.triton import backward as triton_backward
    from longreach.kernels.triton import decode as triton_decode
    from longreach.kernels.triton import launch as triton_launch
    from longreach.kernels.triton import prefill as triton_prefill
    from longreach.kernels.triton import store as triton_store
except ImportError as error:
    if error.name is None or error.name.partition(".")[0] != "triton":
        raise
    raise MissingDependency(
        "impl='triton' needs Triton; install it with `pip install triton` (Linux)."
    ) from error

MAX_HEAD_DIM = 256


def check(q: Tensor) -> None:
    """Raises UsageError where the kernels cannot take this tensor."""
    if q.device.type != "cuda" and not triton_launch.INTERPRETED:
        raise UsageError(
            f"impl='triton' got tensors on {q.device}; move them to a CUDA device, set"
            " TRITON_INTERPRET=1 before the first import of triton to run the kernels slowly on a"
            " CPU, or use impl='cpu'."
        )
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise UsageError(
            f"impl='triton' got {q.dtype}; give float32, bfloat16 or float16, or use"
            " impl='reference'."
        )
    if q.shape[-1] > MAX_HEAD_DIM:
        raise UsageError(
            f"impl='triton' got head dim {q.shape[-1]}; give at most {MAX_HEAD_DIM}, or use"
            " impl='cpu'."
        )


def dense_rows(x: Tensor) -> Tensor:
    """The tensor with its last dimension contiguous, as the kernels want it; a copy only where it
    is not."""
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
    return triton_backward.backward(
        grad, q, k, v, out, lse, starts, HeadView.unpack(numbers), scale
    )


attention = define_attention_op("triton", _forward, _backward)


def attend(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None, view: HeadView, scale: float
) -> Tensor:
    """Attention over all keys: the arguments and result of `attention.sparse_attention`."""
    check(q)
    return attention(q, k, v, starts, view.pack(), scale)[0]


@torch.library.custom_op("longreach::triton_chunk", mutates_args=())
def _chunk(
    q: Tensor,
    far_k: Tensor,
    far_v: Tensor,
    near_k: Tensor,
    near_v: Tensor,
    view: Sequence[int],
    scale: float,
    length: int,
) -> Tensor:
    q, far_k, far_v, near_k, near_v = (dense_rows(x) for x in (q, far_k, far_v, near_k, near_v))
    return triton_prefill.forward(
        q,
        (far_k, far_v),
        (near_k, near_v),
        HeadView.unpack(view),
        scale,
        q_first=length - q.shape[2],
        near_start=length - near_k.shape[2],
        compact=True,
    )[0]


@torch.library.custom_op("longreach::triton_decode", mutates_args=())
def _decode(
    q: Tensor,
    far_k: Tensor,
    far_v: Tensor,
    near_k: Tensor,
    near_v: Tensor,
    lengths: Tensor,
    view: Sequence[int],
    scale: float,
) -> Tensor:
    q, far_k, far_v, near_k, near_v = (dense_rows(x) for x in (q, far_k, far_v, near_k, near_v))
    kept = ((far_k, far_v), (near_k, near_v))
    return triton_decode.decode(q, *kept, HeadView.unpack(view), scale, lengths=lengths)[0]


@torch.library.custom_op(
    "longreach::triton_store", mutates_args=("far_k", "far_v", "near_k", "near_v")
)
def _store(
    k: Tensor,
    v: Tensor,
    far_k: Tensor,
    far_v: Tensor,
    near_k: Tensor,
    near_v: Tensor,
    lengths: Tensor,
    view: Sequence[int],
) -> None:
    kept = ((far_k, far_v), (near_k, near_v))
    triton_store.store(dense_rows(k), dense_rows(v), *kept, HeadView.unpack(view), lengths)


@_store.register_fake
def _(*_: object) -> None:
    return None


@_chunk.register_fake
@_decode.register_fake
def _(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape)


def chunk(
    q: Tensor,
    far: tuple[Tensor, Tensor],
    near: tuple[Tensor, Tensor],
    view: HeadView,
    scale: float,
    length: int,
) -> Tensor:
    """A chunk over a compact cache: `attention.chunk_attention`."""
    check(q)
    return _chunk(q, *far, *near, view.pack(), scale, length)


def decode(
    q: Tensor,
    far: tuple[Tensor, Tensor],
    near: tuple[Tensor, Tensor],
    view: HeadView,
    scale: float,
    lengths: Tensor,
) -> Tensor:
    """The last few positions over a compact cache: `attention.decode_attention`."""
    check(q)
    rows = q.shape[1] // near[0].shape[1] * q.shape[2]
    if rows > triton_decode.MAX_ROWS:
        raise UsageError(
            f"{q.shape[2]} queries times {q.shape[1] // near[0].shape[1]} heads for each KV head"
            f" are {rows} rows; decode at most {triton_decode.MAX_ROWS}, and use chunk_attention"
            " for more."
        )
    return _decode(q, *far, *near, lengths, view.pack(), scale)


def store(
    k: Tensor,
    v: Tensor,
    far: tuple[Tensor, Tensor],
    near: tuple[Tensor, Tensor],
    view: HeadView,
    lengths: Tensor,
) -> None:
    """One token a row into a cache whose tensors never move: `attention.store_token`."""
    check(k)
    _store(k, v, *far, *near, lengths, view.pack())
