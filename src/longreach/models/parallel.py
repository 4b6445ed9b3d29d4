"""Sequences cut over ranks: what a hybrid model takes, and what it refuses.

Ulysses (DeepSpeed's and accelerate's; ALST, arXiv 2506.13996) cuts a sequence over ranks and puts
it together for attention only, where each rank has all tokens of some heads instead of some tokens
of all heads. It does so by a function put in the place of one of transformers' attention functions.
Full layers call that function anyway. Sparse layers do not: they look behind it for an object with

    __call__(module, q, k, v, mask, **kwargs)   exchanges, calls `attn` in the same way, and
                                                exchanges back
    attn                                        the attention in the middle: all tokens of this
                                                rank's share of heads
    world_size, sp_rank, process_group          ranks that share a sequence, this one's number,
                                                how they talk
    disable_in_eval                             optional: models in evaluation are left alone

and have a copy of it run the pattern's attention in the middle. (DeepSpeed 0.18.2, the least that
accelerate takes, is written so; 0.19.8 was tried.) Whatever else stands there is refused: a sparse
layer would take its piece for the whole.

Shapes: B rows, H query heads, K KV heads, T tokens of this rank, D head dim.
"""

from __future__ import annotations

import copy
import functools
import sys
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, distributed
from transformers.integrations import flash_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from longreach.errors import UsageError
from longreach.kernels.api import sparse_attention
from longreach.pattern import AttentionPattern

_CONTRACT = ("attn", "world_size", "sp_rank", "process_group")
# Modules whose attention functions take sequences to be whole.
_WHOLE = ("transformers.", "longreach.")
_OTHERS = "FSDP, gradient checkpointing or DeepSpeed's Ulysses (UlyssesSPAttentionHF)"


class _Attention(Protocol):
    """The attention of a layer."""

    layer_idx: int
    scaling: float


class Ulysses(NamedTuple):
    """Ulysses sequence parallelism that is on.

    Attributes:
        exchange: The object of the contract above.
    """

    exchange: Any

    @classmethod
    def of(cls, implementation: str | None, training: bool) -> Ulysses | None:
        """Returns what is on for models of this `attn_implementation`.

        Args:
            implementation: The name among transformers' attention functions.
            training: Whether the model is in training mode.

        Returns:
            None where sequences are whole.

        Raises:
            UsageError: The attention function is one of which nobody here knows what it does with
                sequences.
        """
        function: Any = ALL_ATTENTION_FUNCTIONS.get(implementation)
        if function is None or _is_stock(str(implementation), function):
            return None
        found = [one for one in _behind(function) if _keeps_contract(one)]
        if len(found) == 1:
            exchange: Any = found[0]
            left_alone = getattr(exchange, "disable_in_eval", False) and not training
            if exchange.world_size == 1 or left_alone:
                return None
            return cls(exchange)
        # Under a name of its own it is a kernel that someone chose for full layers, unless there
        # are ranks to cut for.
        alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        if alone and not str(implementation).startswith(
            ("sdpa", "flex_attention", "flash_attention")
        ):
            return None
        raise UsageError(
            f"The attention function {implementation!r} was replaced by"
            f" {getattr(function, '__module__', '?')}"
            f".{getattr(function, '__qualname__', type(function).__name__)},"
            " which sparse layers would bypass: where it cuts sequences over ranks, each would see"
            f" its piece only. Leave it out; for long sequences use {_OTHERS}."
        )

    def check(
        self,
        given: Tensor,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        caches: bool,
    ) -> None:
        """Raises UsageError, on every rank alike, for what cannot be right for pieces of rows.

        Args:
            given: [B, T, ...] of this rank.
            position_ids: [1 or B, T] of this rank, counted in the whole sequence.
            attention_mask: [B, T] of this rank, 1 for real tokens; None where all are.
            caches: Whether a KV cache was asked for.
        """
        if caches:
            raise UsageError(
                "Sequence parallelism is on and a KV cache is asked for, which would hold a piece"
                " of each sequence; pass use_cache=False to train, and generate without sequence"
                " parallelism."
            )
        if position_ids is None:
            raise UsageError(
                "Sequence parallelism is on and there are no position_ids; give each rank those of"
                " its piece, counted from the beginning of the whole sequence."
            )
        real = torch.ones_like(position_ids) if attention_mask is None else attention_mask
        if not isinstance(real, Tensor) or real.dim() != 2 or real.shape[1] != given.shape[1]:
            raise UsageError(
                f"attention_mask is {tuple(getattr(real, 'shape', ()))}; under sequence parallelism"
                f" give each rank the mask of its piece, [rows, {given.shape[1]}], or none."
            )
        # All ranks look at the whole rows, so that all refuse or none: one alone would leave the
        # others waiting.
        mine = torch.stack([x.expand(given.shape[:2]).long() for x in (position_ids, real.bool())])
        pieces = [torch.empty_like(mine) for _ in range(self.exchange.world_size)]
        distributed.all_gather(pieces, mine, group=self.exchange.process_group)
        positions, marks = torch.cat(pieces, dim=2)
        if bool((marks.diff(dim=1) > 0).any()):
            raise UsageError(
                "Sequence parallelism is on and rows are padded on the left; pad them on the right."
            )
        if bool(((positions.diff(dim=1) <= 0) & (marks[:, 1:] > 0)).any()):
            raise UsageError(
                "position_ids start again inside a sequence that is cut over ranks; give each rank"
                " those of its piece, counted from the beginning of the whole sequence, and one"
                " sequence a row."
            )

    def attend(
        self,
        module: _Attention,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        pattern: AttentionPattern,
        impl: str = "auto",
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Returns the pattern's attention over the whole sequence.

        Args:
            module: The layer's attention.
            q: [B, H, T, D].
            k: [B, K, T, D].
            v: [B, K, T, D].
            pattern: What the layer sees.
            impl: As in `kernels.api`.
            position_ids: [B, T], for the exchange.

        Returns:
            [B, H, T, D].

        Raises:
            UsageError: The exchange does something else than is known here.
        """
        # A copy, because full layers use the same object with its own attention.
        exchange = copy.copy(self.exchange)
        total = k.shape[1]
        ranks = exchange.world_size
        rank = exchange.sp_rank
        # What a rank has in the middle of the exchange: its share of the heads, and all tokens.
        share = (q.shape[1] // ranks, max(1, total // ranks), q.shape[2] * ranks)
        calls: list[tuple[int, int, int]] = []

        def core(
            _: object, q: Tensor, k: Tensor, v: Tensor, *args: object, **kwargs: object
        ) -> tuple[Tensor, None]:
            calls.append((q.shape[1], k.shape[1], k.shape[2]))
            # Anything but one call of these sizes is an exchange that is not known here.
            if calls != [share]:
                raise UsageError(
                    _unknown(f"handed out {calls} query heads, KV heads and tokens, not [{share}]")
                )
            # Where there are fewer KV heads than ranks, several ranks hold the same one.
            heads = (rank * total // ranks, total)
            out = sparse_attention(
                q, k, v, pattern, module.layer_idx, module.scaling, impl, heads=heads
            )
            return out.transpose(1, 2).contiguous(), None

        exchange.attn = core
        out = exchange(module, q, k, v, None, position_ids=position_ids)[0]
        if not calls:
            raise UsageError(_unknown("did not call its attention"))
        return out.view(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)


def _unknown(what: str) -> str:
    return (
        f"The sequence parallelism that is on {what}; this version of it is not known here, use"
        " DeepSpeed 0.18 or 0.19."
    )


def _keeps_contract(candidate: object) -> bool:
    """Returns whether an object is an exchange as the module's docstring describes it."""
    return callable(candidate) and all(hasattr(candidate, name) for name in _CONTRACT)


def _is_stock(name: str, function: object) -> bool:
    """Returns whether transformers' own function or ours is called under this name.

    Where it calls the flash attention kernel, that has to be transformers' own too.
    """
    # Kernels from the hub; serving, which never gets here.
    if "/" in name or name.startswith("paged|"):
        return True
    while isinstance(function, functools.partial):
        function = function.func
    kernel: Any = vars(flash_attention)["_flash_attention_forward"]  # what others like to replace
    inner = (function, kernel) if "flash" in name else (function,)
    return all(_name_module_of(one).startswith(_WHOLE) for one in inner)


def _name_module_of(function: object) -> str:
    """Returns the module that a function was written in, which functools.wraps does not hide."""
    return str(getattr(function, "__globals__", {}).get("__name__", ""))


def _behind(function: object) -> list[object]:
    """Returns what a function may hide: itself, the owner of a method, what a closure holds."""
    seen = [function, getattr(function, "__self__", None)]
    for cell in getattr(function, "__closure__", None) or ():
        try:
            seen.append(cell.cell_contents)
        except ValueError:  # a variable that was never set
            continue
    return seen


def refuse_context_parallel() -> None:
    """Raises UsageError inside `torch.distributed.tensor.experimental.context_parallel`.

    It cuts sequences over ranks and puts the pieces together inside scaled_dot_product_attention
    only: sparse layers would see their own piece and take it for the whole.
    """
    name = "torch.distributed.tensor.experimental._context_parallel._attention"
    # torch has moved this module. Where neither is loaded, nothing can be on.
    internals = sys.modules.get(name) or sys.modules.get(
        "torch.distributed.tensor.experimental._attention"
    )
    swapped = torch.nn.functional.scaled_dot_product_attention in getattr(
        internals, "_replaced_functions", {}
    )
    dispatcher = getattr(getattr(internals, "DTensor", None), "_op_dispatcher", None)
    handlers = getattr(internals, "custom_ops", None)
    active = getattr(dispatcher, "_custom_op_handlers", {})
    if swapped or (handlers and any(op in active for op in handlers)):
        raise UsageError(
            "torch context_parallel is on; it cannot express sparse attention and would train"
            f" another model. For long sequences use {_OTHERS}."
        )
