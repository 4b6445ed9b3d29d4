"""Which layers of a model stay on full attention, and what a hybrid then costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from longreach.errors import UsageError
from longreach.pattern.attention import AttentionPattern

MIDDLE_THIRD = "middle-third"
MEASURED = "measured"


def third_of(num_layers: int) -> int:
    """Returns how many layers stay full unless a number is given: round(L / 3)."""
    return round(num_layers / 3)


def is_measured(full_layers: object) -> bool:
    """Returns whether layers are to be those that a ranking names: "measured" or "measured:N"."""
    return isinstance(full_layers, str) and full_layers.partition(":")[0] == MEASURED


def measured_count(full_layers: str, num_layers: int | None = None) -> int | None:
    """Returns the N of "measured:N"; for "measured" round(L / 3), or None without the layers.

    Args:
        full_layers: One of the two.
        num_layers: Layers of the model; None where they are not known yet.

    Raises:
        UsageError: N is not a number of the model's layers.
    """
    _, colon, text = full_layers.partition(":")
    if not colon:
        return None if num_layers is None else third_of(num_layers)
    # A number of more digits than this is no number of layers, and slow to read.
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else -1
    if number < 0 or (num_layers is not None and number > num_layers):
        most = "the layers of the model" if num_layers is None else str(num_layers)
        raise UsageError(
            f"full_layers is {full_layers!r}; give measured:N with N from 0 to {most}, or measured."
        )
    return number


@dataclass(frozen=True)
class LayerPlan:
    """The layers of a model that stay on full attention.

    Attributes:
        num_layers: Layers of the model.
        full: Indices of the full layers, ascending.
    """

    num_layers: int
    full: tuple[int, ...]

    @classmethod
    def make(
        cls, num_layers: int, full_layers: str | int | Sequence[int] = MIDDLE_THIRD
    ) -> LayerPlan:
        """Returns the plan that a rule, a number or a list describes.

        Args:
            num_layers: Layers of the model, at least 1.
            full_layers: "middle-third" for round(L / 3) layers from (L - n) // 2 on; a number n for
                n layers placed in the same way; or the indices themselves.

        Raises:
            UsageError: Unknown rule, or a number or index outside the model.
        """
        if is_measured(full_layers):
            raise UsageError(
                f"full_layers is {full_layers!r}, which asks for the ranking of a model's layers;"
                " without a model give 'middle-third', a number or a list of indices."
            )
        if isinstance(full_layers, str):
            if full_layers != MIDDLE_THIRD:
                raise UsageError(
                    f"full_layers is {full_layers!r}; give 'middle-third', 'measured',"
                    " 'measured:N', a number or a list of indices."
                )
            full_layers = third_of(num_layers)
        if isinstance(full_layers, int):
            if isinstance(full_layers, bool) or not 0 <= full_layers <= num_layers:
                raise UsageError(
                    f"full_layers is {full_layers}; give 0 to {num_layers}, the layers of this"
                    " model."
                )
            # In the middle, where the paper finds that full attention matters most.
            start = (num_layers - full_layers) // 2
            return cls(num_layers, tuple(range(start, start + full_layers)))
        return cls(num_layers, tuple(sorted(set(full_layers))))

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise UsageError(f"num_layers is {self.num_layers}; a model has at least 1.")
        for index in self.full:
            # True and False are whole numbers to Python, and a mistake here.
            is_index = isinstance(index, int) and not isinstance(index, bool)
            if not is_index or not 0 <= index < self.num_layers:
                raise UsageError(
                    f"full layer {index!r} does not exist; give indices 0 to {self.num_layers - 1}."
                )

    def is_full(self, layer: int) -> bool:
        """Returns whether a layer uses full attention."""
        return layer in self.full

    @property
    def sparse(self) -> tuple[int, ...]:
        """Returns the indices of the sparse layers, ascending."""
        return tuple(layer for layer in range(self.num_layers) if layer not in self.full)

    def kv_bytes(
        self,
        pattern: AttentionPattern,
        length: int,
        num_kv_heads: int,
        head_dim: int,
        itemsize: int,
    ) -> list[int]:
        """Returns the bytes of keys and values of each layer for one row of `length` tokens."""
        by_layer = []
        for layer in range(self.num_layers):
            if self.is_full(layer):
                # Keys and values, hence twice.
                by_layer.append(2 * length * num_kv_heads * head_dim * itemsize)
            else:
                kept = pattern.kv_bytes(length, num_kv_heads, head_dim, itemsize, layer)
                by_layer.append(kept)
        return by_layer

    def kv_reduction(self, pattern: AttentionPattern, length: int, num_kv_heads: int) -> float:
        """Returns the share of the full model's KV bytes that this plan does not need, 0 to 1."""
        full = 2 * length * num_kv_heads * self.num_layers
        # A row without tokens has nothing to save.
        if not full:
            return 0.0
        # The head dim and the bytes of a number cancel out, so both are 1.
        return 1 - sum(self.kv_bytes(pattern, length, num_kv_heads, 1, 1)) / full

    def attention_flops(
        self,
        pattern: AttentionPattern,
        length: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        q_len: int | None = None,
    ) -> list[int]:
        """Returns the forward attention FLOPs of each layer for one row.

        Args:
            pattern: Of the sparse layers.
            length: Tokens of the row.
            num_heads: Query heads.
            num_kv_heads: KV heads.
            head_dim: Numbers of a head.
            q_len: Queries, the last ones; None for all tokens.
        """
        # A window that hides nothing is full attention.
        dense = AttentionPattern(local_blocks=max(1, length))
        sizes = (length, num_heads, num_kv_heads, head_dim)
        flops = []
        for layer in range(self.num_layers):
            visible = dense if self.is_full(layer) else pattern
            flops.append(visible.attention_flops(*sizes, layer, q_len=q_len))
        return flops
