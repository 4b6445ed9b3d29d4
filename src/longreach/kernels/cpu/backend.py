"""Sparse attention on a CPU as an implementation: the methods of `Backend`."""

from __future__ import annotations

from torch import Tensor

from longreach.kernels.backend import AttentionRequest, Retained
from longreach.kernels.cpu import decode, prefill
from longreach.kernels.cpu.op import attention
from longreach.kernels.cpu.parts import BlockSpan
from longreach.kernels.view import HeadView


class CpuBackend:
    """Portable PyTorch."""

    name = "cpu"

    def explain_refusal(self, request: AttentionRequest) -> str | None:
        """Returns why tensors elsewhere are not taken."""
        if request.device.type == "cpu":
            return None
        return (
            f"impl='cpu' got tensors on {request.device}; move them to the CPU, or use impl='auto'."
        )

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
        # Only the backward pass reads the logsumexp.
        return attention(q, k, v, view.pack(), scale, starts)[0]

    def chunk(self, q: Tensor, kept: Retained, view: HeadView, scale: float, length: int) -> Tensor:
        """Returns the attention of a prompt's newest Tq of `length` tokens: [B, Hq, Tq, D]."""
        span = BlockSpan(length - q.shape[2], q.shape[2], length - kept.near_k.shape[2])
        return prefill.attend(q, kept, view, scale, span)[0]

    def decode(
        self, q: Tensor, kept: Retained, view: HeadView, scale: float, lengths: Tensor
    ) -> Tensor:
        """Returns the attention of each row's last Tq tokens: [B, Hq, Tq, D]."""
        return decode.attend(q, kept, view, scale, lengths)

    def store(self, k: Tensor, v: Tensor, kept: Retained, view: HeadView, lengths: Tensor) -> None:
        """Writes the newest token of each row into `kept`."""
        # Positions count from 0, so the newest is one less than the tokens so far.
        decode.store(k, v, kept, view, lengths[:, None] - 1)
