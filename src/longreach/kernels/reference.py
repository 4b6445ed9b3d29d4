"""The oracle: a dense mask and a float32 softmax. Every other implementation must agree with it.

Shapes: B rows, H query heads, G query heads per KV head, T tokens, D head dim.
"""

import torch
from torch import Tensor

from longreach.kernels.view import HeadView


def attend(
    q: Tensor, k: Tensor, v: Tensor, view: HeadView, scale: float, starts: Tensor | None
) -> Tensor:
    """Attention by its definition; memory O(Tq * Tk).

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
    for b, start in enumerate(first):
        mask = view.mask((slots - start)[k.shape[2] - q.shape[2] :], slots - start, k.shape[1])
        mask = mask.repeat_interleave(groups, 0)
        scores = (
            q[b].to(dtype) @ k[b].to(dtype).repeat_interleave(groups, 0).transpose(-1, -2) * scale
        )
        # A padding query sees nothing: give it finite scores, then zero weights, so that no
        # gradient is NaN.
        real = mask.any(-1, keepdim=True)
        weights = scores.masked_fill(~mask & real, float("-inf")).softmax(-1).masked_fill(~mask, 0)
        rows.append((weights @ v[b].to(dtype).repeat_interleave(groups, 0)).to(q.dtype))
    return torch.stack(rows)
