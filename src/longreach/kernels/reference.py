"""The oracle: a dense mask and a float32 softmax. Every other implementation must agree with it.

Shapes: B rows, H query heads, G query heads per KV head, T tokens, D head dim.
"""

import torch
from torch import Tensor

from longreach.kernels.backend import PrefillOnly
from longreach.kernels.view import HeadView


class ReferenceBackend(PrefillOnly):
    """The oracle as an implementation."""

    name = "reference"

    def prefill(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        view: HeadView,
        scale: float,
        starts: Tensor | None,
    ) -> Tensor:
        """Returns `attend` of the same arguments."""
        return attend(q, k, v, view, scale, starts)


def attend(
    q: Tensor, k: Tensor, v: Tensor, view: HeadView, scale: float, starts: Tensor | None
) -> Tensor:
    """Returns attention by its definition; memory O(Tq * Tk).

    Args:
        q: [B, Hq, Tq, D]; the last Tq positions.
        k: [B, Hkv, Tk, D].
        v: [B, Hkv, Tk, D].
        view: Which blocks each KV head sees.
        scale: Factor of the scores.
        starts: [B] first real token of each row, or None for 0.

    Returns:
        [B, Hq, Tq, D] in q's dtype; zeros where the query is padding. Computed in float32 (float64
        for float64).
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    groups = q.shape[1] // k.shape[1]
    first = [0] * q.shape[0] if starts is None else starts.tolist()
    slots = torch.arange(k.shape[2], device=q.device)
    rows = []
    # Row by row: blocks count from each row's first real token.
    for b, start in enumerate(first):
        positions = slots - start
        mask = view.mask(positions[k.shape[2] - q.shape[2] :], positions, k.shape[1])
        mask = mask.repeat_interleave(groups, 0)
        keys = k[b].to(dtype).repeat_interleave(groups, 0)
        values = v[b].to(dtype).repeat_interleave(groups, 0)
        scores = q[b].to(dtype) @ keys.transpose(-1, -2) * scale
        # A padding query sees nothing: give it finite scores, then zero weights, so that no
        # gradient is NaN.
        real = mask.any(-1, keepdim=True)
        weights = scores.masked_fill(~mask & real, float("-inf")).softmax(-1).masked_fill(~mask, 0)
        rows.append((weights @ values).to(q.dtype))
    return torch.stack(rows)
