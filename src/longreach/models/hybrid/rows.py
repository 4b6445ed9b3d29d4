"""Which slots of a batch are real tokens: all that a sparse layer needs to know of the padding.

Shapes: B rows, T new slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from longreach.errors import UsageError


class PaddedRows(NamedTuple):
    """Where the real tokens of a padded batch lie.

    Attributes:
        order: [B, T] indices that bring each row's real tokens to its front, in order; None where
            they are there.
        counts: Real tokens of each row.
        sure: The number of last slots that are real in every row.
    """

    order: Tensor | None
    counts: list[int]
    sure: int

    @classmethod
    def of(cls, attention_mask: Tensor | None, new: int) -> PaddedRows | None:
        """Returns the rows of a batch with `new` slots; None where all of them are real.

        Args:
            attention_mask: [B, past + T], 1 for real tokens, as tokenizers and `generate` give it.
                The past was settled when it was read: only the last T columns are looked at.
            new: T.

        Raises:
            UsageError: The mask is not of that kind.
        """
        if attention_mask is None:
            return None
        known = isinstance(attention_mask, Tensor)
        if not known or attention_mask.dim() != 2 or attention_mask.shape[1] < new:
            given = tuple(attention_mask.shape) if known else type(attention_mask).__name__
            raise UsageError(
                f"attention_mask is {given}; a hybrid model takes two dimensions [rows, at least"
                f" {new} slots] that mark padding. Which blocks are visible comes from its pattern,"
                " never from a mask."
            )
        real = attention_mask[:, attention_mask.shape[1] - new :].bool()
        if bool(real.all()):
            return None
        # Real slots counted from the right end, up to the first that is padding.
        sure = int(real.flip(1).cumprod(1).sum(1).min())
        counts = real.sum(1).tolist()
        # A stable sort keeps the real tokens in their order.
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        # Where all padding is on the right, the real tokens are in front already.
        right = bool((real[:, 1:] <= real[:, :-1]).all())
        return cls(None if right else order, counts, sure)

    def pack(self, x: Tensor) -> Tensor:
        """Returns [B, H, T, D] with real tokens first."""
        return x if self.order is None else _gather(x, self.order)

    def unpack(self, x: Tensor) -> Tensor:
        """Returns [B, H, T, D] with every token in its slot: the inverse of `pack`."""
        return x if self.order is None else _gather(x, self.order.argsort(dim=1))


def _gather(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(2, order.to(x.device)[:, None, :, None].expand_as(x))


def real_slots(attention_mask: Tensor, slots: int) -> Tensor | None:
    """Returns which slots of a DynamicCache and of the new tokens are real, [B, slots].

    None where all are.

    Raises:
        UsageError: The mask does not cover the cache.
    """
    if bool(attention_mask.all()):
        return None
    if attention_mask.shape[1] != slots:
        raise UsageError(
            f"attention_mask has {attention_mask.shape[1]} columns, and a DynamicCache cannot tell"
            f" padding from text: give the mask of all {slots} tokens, those in the cache included,"
            " or no cache, or model.new_cache()."
        )
    return attention_mask.bool()


def attend_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    real: Tensor,
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Returns attention of real tokens over real slots, row by row; zeros for padding.

    Args:
        q: [B, H, T, D].
        k: [B, K, past + T, D].
        v: [B, K, past + T, D].
        real: [B, past + T], True for real tokens.
        attend: Attention of one row.
    """
    parts = []
    for row, kept in enumerate(real):
        new = kept[-q.shape[2] :]
        part = torch.zeros_like(q[row : row + 1])
        # A row may hold no new real token at all.
        if bool(new.any()):
            seen = slice(row, row + 1)
            part[:, :, new] = attend(q[seen][:, :, new], k[seen][:, :, kept], v[seen][:, :, kept])
        parts.append(part)
    return torch.cat(parts)


def refuse_packing(position_ids: Tensor | None, attention_mask: Tensor | None) -> None:
    """Raises UsageError for several sequences in one row.

    transformers marks them by positions that start again.
    """
    # Positions of left padding may start again as well; a mask says that they are padding.
    if position_ids is None or attention_mask is not None or position_ids.shape[-1] < 2:
        return
    if bool((position_ids.diff(dim=-1) < 0).any()):
        raise UsageError(
            "position_ids start again inside a row; a hybrid model reads one sequence a row, so"
            " give each its own row and pad, or cut long texts to one length."
        )
