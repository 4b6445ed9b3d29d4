"""Forward and backward functions as a torch custom op, so that torch.compile keeps them whole."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# (q, k, v, view, scale, starts) -> (out, logsumexp)
Forward = Callable[
    [Tensor, Tensor, Tensor, Sequence[int], float, Tensor | None], tuple[Tensor, Tensor]
]
# What `Forward` is called with.
Inputs = tuple[Tensor, Tensor, Tensor, Sequence[int], float, Tensor | None]
# (grad_out, q, k, v, out, logsumexp, view, scale, starts) -> (grad_q, grad_k, grad_v)
Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Sequence[int], float, Tensor | None],
    tuple[Tensor, Tensor, Tensor],
]


def define_attention_op(name: str, forward: Forward, backward: Backward) -> Forward:
    """Registers `longreach::NAME` and its backward op, with fake implementations and autograd.

    Args:
        name: Name of the op; the backward op is `longreach::NAME_backward`.
        forward: q [B, Hq, Tq, D], k and v [B, Hkv, Tk, D], the view in seven numbers
            (`HeadView.pack`), the scale and the rows' starts -> out [B, Hq, Tq, D] and logsumexp
            [B, Hq, Tq] in float32 (float64 for float64).
        backward: The gradients of out with respect to q, k and v.

    Returns:
        The op; gradients flow through its first result only.
    """

    @torch.library.custom_op(f"longreach::{name}", mutates_args=())
    def op(
        q: Tensor, k: Tensor, v: Tensor, view: Sequence[int], scale: float, starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return forward(q, k, v, view, scale, starts)

    @op.register_fake
    def _(
        q: Tensor, k: Tensor, v: Tensor, view: Sequence[int], scale: float, starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        stats = torch.promote_types(q.dtype, torch.float32)
        return q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=stats)

    @torch.library.custom_op(f"longreach::{name}_backward", mutates_args=())
    def op_backward(
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        view: Sequence[int],
        scale: float,
        starts: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return backward(grad, q, k, v, out, lse, view, scale, starts)

    @op_backward.register_fake
    def _(
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        view: Sequence[int],
        scale: float,
        starts: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)

    def setup_context(ctx: Any, inputs: Inputs, output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.view, ctx.scale, starts = inputs
        ctx.save_for_backward(q, k, v, *output, starts)
        # Else the logsumexp, which has no gradient, would get one of zeros.
        ctx.set_materialize_grads(False)

    def call_backward(
        ctx: Any, grad: Tensor | None, grad_lse: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        # The output was not used: there is nothing to do.
        if grad is None:
            return (None,) * 6
        q, k, v, out, lse, starts = ctx.saved_tensors
        return (
            *op_backward(grad, q, k, v, out, lse, ctx.view, ctx.scale, starts),
            None,
            None,
            None,
        )

    op.register_autograd(call_backward, setup_context=setup_context)
    return op
