"""A transformers Cache whose sparse layers hold only what the pattern retains.

A sparse layer keeps two regions, laid out as `kernels/cpu/decode.py` says: `far_keys`, `far_values`
with the permanent blocks that have left the window, and a ring (`keys`, `values`) of the newest
blocks. After n tokens of a row it allocates, for each KV head, `far_count(n // block_size)` blocks
(of the fullest head: heads differ by at most one) and min(blocks(n), local_blocks) blocks of ring:
the retained tokens, rounded up to whole blocks. All else is freed.

Rows may differ in length: padding is never stored, each row counts its own real tokens. (Once rows
differ, the ring is the whole window from the start.) The layer reports all slots read so far,
padding included, for masks and positions.

Taking tokens back (`crop`): inside the newest block always; further while nothing has left the ring
that the shorter sequence needs; anywhere back to the last `crop` after `activate_past_recording`,
as assisted and prompt-lookup decoding do: then the ring grows until the next `crop`. All other
crops are refused, and change nothing.

Shapes: B rows, Hq query heads, K KV heads, T new tokens, D head dim.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from longreach.caches.regions import Group, Regions
from longreach.errors import UsageError
from longreach.kernels.api import Retained, chunk_attention, decode_attention, sparse_attention
from longreach.pattern import AttentionPattern, LayerPlan
from longreach.wording import counted

# Longer runs of queries are read as a chunk: the decode kernel is made for few.
_MOST_DECODED = 16
_MOST_ROWS = 64  # of the decode kernel: queries times query heads of a KV head


class RetainedLayer(Regions):
    """The cache of one sparse layer: attention and storage in one step, `attend`."""

    # Shapes and decisions change with every token: it would be compiled anew each time.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float | None = None,
        *,
        counts: Sequence[int] | None = None,
        sure: int | None = None,
        impl: str = "auto",
    ) -> Tensor:
        """Reads new tokens: stores what stays visible, and returns their attention.

        Args:
            q: [B, Hq, T, D], real tokens first in every row.
            k: [B, K, T, D], after rotary embedding.
            v: [B, K, T, D].
            scale: Factor of the scores; 1 / sqrt(D) where None.
            counts: Real tokens of each row; None for T.
            sure: Of the batch's last slots so many are real in every row; None for T.
            impl: As in `kernels.api`.

        Returns:
            [B, Hq, T, D]; meaningless beyond a row's count. Gradients flow for the first tokens
            only, not through what is stored.
        """
        if not self.is_initialized:
            self.lazy_initialization(k, v)
        rows, tokens = k.shape[0], k.shape[2]
        if rows != len(self.lengths):
            raise UsageError(
                f"The cache holds {counted(len(self.lengths), 'row')} and got {rows}; begin with a"
                " new cache."
            )
        counts = list(counts) if counts is not None else [tokens] * rows
        groups = self._groups(counts)
        # Only the first call has every key at hand, and so can have gradients.
        first = not any(self.lengths)
        if first:
            out = sparse_attention(q, k, v, self.pattern, self.layer, scale, impl)
        q, k, v = q.detach(), k.detach(), v.detach()
        self._reserve(counts)
        # The first of several queries still sees positions that the newest token's window has
        # left.
        enough = self.keys.shape[2] >= self.pattern.window_tokens + tokens - 1
        few = tokens <= _MOST_DECODED and q.shape[1] // k.shape[1] * tokens <= _MOST_ROWS
        # The decode kernel takes rows of different lengths, but as many new tokens in each of
        # them.
        if not first and enough and few and min(counts) == tokens:
            for group in groups:
                self._store(group, k[group.rows], v[group.rows])
            lengths = torch.tensor(self.lengths, device=q.device)
            out = decode_attention(q, self._kept(), self.pattern, lengths, self.layer, scale, impl)
        elif not first:
            parts = [self._chunk(g, q[g.rows], k[g.rows], v[g.rows], scale, impl) for g in groups]
            out = torch.cat([_pad(part, tokens) for part in parts])
        else:
            for group in groups:
                self._store(group, k[group.rows], v[group.rows])
        # A step without padding extends the run of slots that are real in every row; others
        # restart it.
        sure = tokens if sure is None else sure
        self.sure = self.sure + tokens if sure == tokens else sure
        self.slots += tokens
        return out

    def _kept(self) -> Retained:
        return Retained(self.far_keys, self.far_values, self.keys, self.values)

    def _chunk(
        self, group: Group, q: Tensor, k: Tensor, v: Tensor, scale: float | None, impl: str
    ) -> Tensor:
        if group.new == 0:
            return q[:, :, :0]
        # The oldest key in the window of the chunk's first query.
        begin = (
            self.pattern.local_start(group.old // self.pattern.block_size) * self.pattern.block_size
        )
        length = group.old + group.new
        if length <= self.keys.shape[2]:  # nothing has left the ring, so positions lie in order
            self._store(group, k, v)
            near = [x[group.rows, :, begin:length] for x in (self.keys, self.values)]
        else:
            # Storing the chunk overwrites slots that its first queries still read, so these are
            # taken first.
            before = self._span(group, begin, group.old)
            near = [
                torch.cat([x, y[:, :, : group.new]], 2) for x, y in zip(before, (k, v), strict=True)
            ]
            self._store(group, k, v)
        kept = Retained(self.far_keys[group.rows], self.far_values[group.rows], *near)
        return chunk_attention(
            q[:, :, : group.new], kept, self.pattern, length, self.layer, scale, impl
        )

    # What transformers asks of a cache layer.

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Refused: keys that were freed cannot be handed out."""
        raise UsageError(
            f"Layer {self.layer} of this cache keeps only what its sparse attention can still see;"
            " use it with the hybrid model it was made for, and a DynamicCache with any other."
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask, as if nothing had been freed."""
        return self.slots + query_length, 0

    def get_seq_length(self) -> int:
        """Slots read so far, padding included."""
        return self.slots

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.18

    def activate_past_recording(self) -> None:
        """From here on keeps what `crop` may need to go back to this length or to a later one."""
        if not self.record_past:
            self.committed = list(self.lengths)
        self.record_past = True

    def check_crop(self, tokens_to_remove: int) -> None:
        """Raises UsageError where `crop` could not restore the shorter sequence."""
        tokens_to_remove = int(tokens_to_remove)
        if tokens_to_remove > 0:
            raise UsageError(
                f"crop got {tokens_to_remove}; give minus the number of tokens to remove."
            )
        if not self.is_initialized or tokens_to_remove == 0:
            return
        # Further back the rows would lose different numbers of real tokens. Removing everything
        # is the exception: no row has any left.
        if -tokens_to_remove > self.sure and -tokens_to_remove != self.slots:
            raise UsageError(
                f"crop is to remove {counted(-tokens_to_remove, 'token')}, but only the last"
                f" {self.sure} are without padding in every row; remove at most so many, or begin"
                " with a new cache."
            )
        for length, held in zip(self.lengths, self.held, strict=True):
            shorter = max(0, length + tokens_to_remove)
            if (
                self.pattern.local_start(shorter // self.pattern.block_size)
                * self.pattern.block_size
                < held
            ):
                raise UsageError(
                    f"crop is to remove {-tokens_to_remove} of {counted(length, 'token')}, but keys"
                    f" before position {held} have been freed that position {shorter} needs; call"
                    " activate_past_recording() before the tokens are read, or read the text"
                    " again."
                )

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last `-tokens_to_remove` tokens, and frees what was kept for that.

        The module's docstring says how far back that goes.

        Raises:
            UsageError: What the shorter sequence needs has been freed.
        """
        tokens_to_remove = int(tokens_to_remove)  # assisted decoding counts with tensors
        self.check_crop(tokens_to_remove)
        if not self.is_initialized:
            return
        self.lengths = [max(0, length + tokens_to_remove) for length in self.lengths]
        self.slots = max(0, self.slots + tokens_to_remove)
        self.sure = max(0, self.sure + tokens_to_remove)
        self.committed = list(self.lengths)
        self._shrink()

    def reset(self) -> None:
        """Forgets everything, and frees it."""
        self._clear()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows, in this order."""
        if self.is_initialized:
            # A mask of rows works on transformers' own layers as well.
            if indices.dtype == torch.bool:
                indices = indices.nonzero().flatten()
            chosen = indices.to(self.keys.device)
            for name in ("keys", "values", "far_keys", "far_values"):
                setattr(self, name, getattr(self, name).index_select(0, chosen))
            for name in ("lengths", "held", "committed"):
                setattr(self, name, [getattr(self, name)[b] for b in indices.tolist()])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times."""
        if self.is_initialized:
            self.batch_select_indices(torch.arange(len(self.lengths)).repeat_interleave(repeats))

    def offload(self) -> None:
        """Stays where it is: it is small, and read in every step."""

    def prefetch(self) -> None:
        """Nothing to fetch: see `offload`."""


def _pad(x: Tensor, tokens: int) -> Tensor:
    return x if x.shape[2] == tokens else torch.nn.functional.pad(x, (0, 0, 0, tokens - x.shape[2]))


class RetainedCache(Cache):
    """The cache of a hybrid model: `RetainedLayer` for sparse layers, transformers' for full ones.

    Args:
        pattern: Which blocks the sparse layers see.
        plan: Which layers are full.
        offloading: Full layers wait on the CPU while others run.

    Raises:
        UsageError: Offloading without a GPU.
    """

    def __init__(
        self, pattern: AttentionPattern, plan: LayerPlan, *, offloading: bool = False
    ) -> None:
        if offloading and not torch.cuda.is_available():
            raise UsageError(
                "offloading keeps a cache in the CPU's memory while a GPU computes, and there is no"
                " GPU here; omit it (cache_implementation='dynamic')."
            )
        layers: list[Any] = [
            DynamicLayer() if plan.is_full(layer) else RetainedLayer(pattern, layer)
            for layer in range(plan.num_layers)
        ]
        super().__init__(layers=layers, offloading=offloading)

    @property
    def max_cache_len(self) -> int:
        """Returns -1: this cache has no limit. PEFT asks every cache but a DynamicCache."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last `-tokens_to_remove` tokens from all layers, or from none.

        Raises:
            UsageError: A layer cannot restore the shorter sequence; all stay as they are.
        """
        tokens_to_remove = int(tokens_to_remove)
        for layer in self.layers:
            if isinstance(layer, RetainedLayer):
                layer.check_crop(tokens_to_remove)
        super().crop(tokens_to_remove)

    def prefetch(self, layer_idx: int, only_non_sliding: bool = True) -> None:
        """Brings back the next full layer: sparse ones are never away, and do not ask."""
        full = [
            index for index, layer in enumerate(self.layers) if not isinstance(layer, RetainedLayer)
        ]
        # After the last full layer comes the first one: the next step begins with it.
        following = next((index for index in full if index >= layer_idx), full[0])
        super().prefetch(following, only_non_sliding)

    def stop_recording(self) -> None:
        """Ends what `activate_past_recording` began.

        The extra memory goes with the next tokens or `crop`.
        """
        for layer in self.layers:
            if isinstance(layer, RetainedLayer):
                layer.record_past = False
