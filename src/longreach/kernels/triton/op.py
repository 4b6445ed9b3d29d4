"""The Triton implementation: torch ops around the kernels, and what they can take.

Shapes: B rows, Hq query heads, Hkv KV heads, Tq queries, Tk keys, D head dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from longreach.errors import MissingDependency
from longreach.kernels.backend import AttentionRequest, Retained
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


def make_rows_dense(x: Tensor) -> Tensor:
    """Returns the tensor with its last dimension contiguous; a copy only where it is not."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    numbers: Sequence[int],
    scale: float,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    view = HeadView.unpack(numbers)
    q = make_rows_dense(q)
    kept = Retained.whole(make_rows_dense(k), make_rows_dense(v))
    # Few queries leave most of a GPU idle unless their keys are split.
    if q.shape[1] // k.shape[1] * q.shape[2] <= triton_decode.MAX_ROWS:
        return triton_decode.decode(q, kept, view, scale, starts=starts)
    q_first = k.shape[2] - q.shape[2]
    return triton_prefill.forward(q, kept, view, scale, q_first=q_first, starts=starts)


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    numbers: Sequence[int],
    scale: float,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return triton_backward.backward(
        make_rows_dense(grad),
        make_rows_dense(q),
        make_rows_dense(k),
        make_rows_dense(v),
        make_rows_dense(out),
        lse,
        HeadView.unpack(numbers),
        scale,
        starts,
    )


attention = define_attention_op("triton", _forward, _backward)


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
    kept = Retained(far_k, far_v, near_k, near_v).map(make_rows_dense)
    return triton_prefill.forward(
        make_rows_dense(q),
        kept,
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
    view: Sequence[int],
    scale: float,
    lengths: Tensor,
) -> Tensor:
    q = make_rows_dense(q)
    kept = Retained(far_k, far_v, near_k, near_v).map(make_rows_dense)
    return triton_decode.decode(q, kept, HeadView.unpack(view), scale, lengths=lengths)[0]


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
    view: Sequence[int],
    lengths: Tensor,
) -> None:
    # As they are: made dense, they might be copies, and the token would be lost with them.
    kept = Retained(far_k, far_v, near_k, near_v)
    triton_store.store(make_rows_dense(k), make_rows_dense(v), kept, HeadView.unpack(view), lengths)


@_store.register_fake
def _(*_: object) -> None:
    return None


@_chunk.register_fake
@_decode.register_fake
def _(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape)


class TritonBackend:
    """Triton kernels: on an NVIDIA GPU, or slowly under Triton's interpreter."""

    name = "triton"

    def explain_refusal(self, request: AttentionRequest) -> str | None:
        """Returns why the kernels cannot take such tensors, or so many queries."""
        if request.device.type != "cuda" and not triton_launch.INTERPRETED:
            return (
                f"impl='triton' got tensors on {request.device}; move them to a CUDA device, set"
                " TRITON_INTERPRET=1 before the first import of triton to run the kernels slowly"
                " on a CPU, or use impl='cpu'."
            )
        if request.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return (
                f"impl='triton' got {request.dtype}; give float32, bfloat16 or float16, or use"
                " impl='reference'."
            )
        if request.head_dim > MAX_HEAD_DIM:
            return (
                f"impl='triton' got head dim {request.head_dim}; give at most {MAX_HEAD_DIM}, or"
                " use impl='cpu'."
            )
        if request.work == "decode" and request.rows_per_kv_head > triton_decode.MAX_ROWS:
            return (
                f"The queries times the query heads of a KV head are {request.rows_per_kv_head};"
                f" decode at most {triton_decode.MAX_ROWS}, and use chunk_attention for more."
            )
        return None

    def prefill(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        view: HeadView,
        scale: float,
        starts: Tensor | None,
    ) -> Tensor:
        """Returns the attention of the last Tq of Tk positions: [B, Hq, Tq, D]."""
        return attention(q, k, v, view.pack(), scale, starts)[0]

    def chunk(self, q: Tensor, kept: Retained, view: HeadView, scale: float, length: int) -> Tensor:
        """Returns the attention of a prompt's newest Tq of `length` tokens: [B, Hq, Tq, D]."""
        return _chunk(q, *kept, view.pack(), scale, length)

    def decode(
        self, q: Tensor, kept: Retained, view: HeadView, scale: float, lengths: Tensor
    ) -> Tensor:
        """Returns the attention of each row's last Tq tokens: [B, Hq, Tq, D]."""
        return _decode(q, *kept, view.pack(), scale, lengths)

    def store(self, k: Tensor, v: Tensor, kept: Retained, view: HeadView, lengths: Tensor) -> None:
        """Writes the newest token of each row into `kept`."""
        _store(k, v, *kept, view.pack(), lengths)
