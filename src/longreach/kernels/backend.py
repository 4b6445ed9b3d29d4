"""What an implementation of sparse attention is: the tensors it gets, and what it says it can do.

All implementations take their arguments in one order: tensors, the view of the pattern, the scale
of the scores, and then where the queries lie.

Shapes: B rows, Hq query heads, Hkv KV heads (Hq a multiple), Tq queries, Tk keys, F slots of the
far region, R slots of the near one, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from longreach.kernels.view import HeadView

Work = Literal["prefill", "chunk", "decode", "store"]
"""The four things that an implementation may be asked to do, each a method of `Backend`."""


class Retained(NamedTuple):
    """What a cache holds of a sparse layer: keys and values in two regions.

    Attributes:
        far_k: Keys [B, Hkv, F, D] of the permanent blocks outside the window, in order and without
            gaps (`AttentionPattern.far_blocks`). Heads may differ in how many there are; the rest
            of F holds anything.
        far_v: Values, likewise.
        near_k: Keys [B, Hkv, R, D] of the window: see `chunk_attention` and `decode_attention`.
        near_v: Values, likewise.
    """

    far_k: Tensor
    far_v: Tensor
    near_k: Tensor
    near_v: Tensor

    @classmethod
    def whole(cls, k: Tensor, v: Tensor) -> Retained:
        """Returns the two regions of a sequence of which every key is there: both are all of it."""
        return cls(k, v, k, v)

    def select_rows(self, rows: slice) -> Retained:
        """Returns some rows, as views."""
        return Retained(*(tensor[rows] for tensor in self))

    def map(self, function: Callable[[Tensor], Tensor]) -> Retained:
        """Returns what a function makes of each of the four tensors."""
        return Retained(*(function(tensor) for tensor in self))


# No tensors: what an implementation refuses must not depend on values, which a GPU would have to
# read back.
class AttentionRequest(NamedTuple):
    """What is asked of an implementation, as far as it may decide whether it can.

    Attributes:
        work: What is to be done.
        device: Where all tensors lie.
        dtype: Of all tensors.
        head_dim: D.
        rows_per_kv_head: Query heads of a KV head times queries.
        gradients: Whether the result has to have gradients.
    """

    work: Work
    device: torch.device
    dtype: torch.dtype
    head_dim: int
    rows_per_kv_head: int
    gradients: bool


class Backend(Protocol):
    """An implementation of sparse attention.

    `longreach.kernels.api` has checked all arguments before it calls a method, and calls none for a
    request that `explain_refusal` refuses. No method changes its arguments, but for `store`.
    """

    def explain_refusal(self, request: AttentionRequest) -> str | None:
        """Returns why it cannot do that and what to do, as sentences; None where it can."""

    def prefill(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        view: HeadView,
        scale: float,
        starts: Tensor | None,
    ) -> Tensor:
        """Returns the attention of the last Tq of Tk positions, with gradients: [B, Hq, Tq, D].

        Args:
            q: [B, Hq, Tq, D].
            k: [B, Hkv, Tk, D], all positions.
            v: [B, Hkv, Tk, D].
            view: Which blocks each KV head sees.
            scale: Factor of the scores.
            starts: [B] first real slot of each row, or None for 0.
        """

    def chunk(self, q: Tensor, kept: Retained, view: HeadView, scale: float, length: int) -> Tensor:
        """Returns the attention of a prompt's newest tokens: `api.chunk_attention`."""

    def decode(
        self, q: Tensor, kept: Retained, view: HeadView, scale: float, lengths: Tensor
    ) -> Tensor:
        """Returns the attention of each row's last Tq tokens: `api.decode_attention`."""

    def store(self, k: Tensor, v: Tensor, kept: Retained, view: HeadView, lengths: Tensor) -> None:
        """Writes the newest token of each row into `kept`: `api.store_token`."""


class PrefillOnly:
    """The rest of an implementation that reads all keys, and no compact cache."""

    name: str

    def explain_refusal(self, request: AttentionRequest) -> str | None:
        """Returns why there is nothing but `prefill`."""
        if request.work == "prefill":
            return None
        return (
            f"impl is {self.name!r}; a compact cache on {request.device} can be read by 'cpu' (on"
            " a CPU) and 'triton'."
        )

    def chunk(
        self, q: Tensor, kept: Retained, view: HeadView, scale: float, length: int
    ) -> NoReturn:
        """Never called: `explain_refusal` refuses it."""
        raise AssertionError(f"{self.name} reads no compact cache")

    def decode(
        self, q: Tensor, kept: Retained, view: HeadView, scale: float, lengths: Tensor
    ) -> NoReturn:
        """Never called: `explain_refusal` refuses it."""
        raise AssertionError(f"{self.name} reads no compact cache")

    def store(
        self, k: Tensor, v: Tensor, kept: Retained, view: HeadView, lengths: Tensor
    ) -> NoReturn:
        """Never called: `explain_refusal` refuses it."""
        raise AssertionError(f"{self.name} writes to no compact cache")
