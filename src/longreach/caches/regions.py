"""The two regions in which a sparse layer keeps keys and values, and how tokens move between them.

Shapes: B rows, K KV heads, T new tokens, D head dim.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from longreach.kernels.view import HeadView
from longreach.pattern import AttentionPattern

# Ring blocks beyond the window that stay while past is recorded, so that a round of drafted tokens
# moves no memory.
_RECORDING_BLOCKS = 2


class Group(NamedTuple):
    """Rows that go together: `new` tokens after `old` ones in each."""

    rows: slice
    old: int
    new: int


class Regions(CacheLayerMixin):
    """What `RetainedLayer` stores; see there for the layout. Reading is the subclass's business."""

    is_sliding = False
    is_croppable = True

    def __init__(self, pattern: AttentionPattern, layer: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pattern = pattern
        self.layer = layer
        self.record_past = False
        self._clear()

    def _clear(self) -> None:
        self.keys: Any = None
        self.values: Any = None
        self.far_keys: Any = None
        self.far_values: Any = None
        self.is_initialized = False
        self.slots = 0  # read so far, padding included
        self.sure = 0  # of these the last ones, real in every row: how much a crop can count back
        self.lengths: list[int] = []  # real tokens of each row
        self.held: list[int] = []  # first position of each row that its ring still holds
        self.committed: list[int] = []  # lengths at the last crop

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Empty regions in the shape, dtype and place of the first keys and values."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            x.new_zeros(*x.shape[:2], 0, x.shape[3]) for x in (key_states, value_states)
        )
        self.far_keys, self.far_values = self.keys.clone(), self.values.clone()
        self.lengths, self.held, self.committed = ([0] * key_states.shape[0] for _ in range(3))
        self.is_initialized = True

    def _groups(self, counts: list[int]) -> list[Group]:
        """All rows at once where they are alike, else one by one."""
        if len(set(self.lengths)) == 1 and len(set(counts)) == 1:
            return [Group(slice(None), self.lengths[0], counts[0])]
        return [
            Group(slice(b, b + 1), old, new)
            for b, (old, new) in enumerate(zip(self.lengths, counts, strict=True))
        ]

    def _span(self, group: Group, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values of consecutive positions that the ring holds."""
        near = self.keys[group.rows], self.values[group.rows]
        if end <= begin:
            return near[0][:, :, :0], near[1][:, :, :0]
        capacity = self.keys.shape[2]
        # The end is the last position's slot plus one, so a span that ends with the ring does not
        # seem to wrap around.
        first, last = begin % capacity, (end - 1) % capacity + 1
        if first < last:
            return near[0][:, :, first:last], near[1][:, :, first:last]
        return tuple(torch.cat([x[:, :, first:], x[:, :, :last]], 2) for x in near)  # type: ignore[return-value]

    def _store(self, group: Group, k: Tensor, v: Tensor) -> None:
        """Moves blocks that leave the window to the far region, then writes the new tokens."""
        p, (old, new) = self.pattern, group[1:]
        length, capacity = old + new, self.keys.shape[2]
        if new == 0:
            return
        view = HeadView(p, self.layer, 0, k.shape[1])
        for head, stop in view.alike(k.shape[1]):
            before = view.far_count(old // p.block_size, head)
            after = view.far_count(length // p.block_size, head)
            if before == after:
                continue
            blocks: list[int] = []
            for number in range(before, after):
                blocks.append(p.permanent_block(number, head, k.shape[1], self.layer))
            to = slice(before * p.block_size, after * p.block_size)
            self._move(group, slice(head, stop), to, blocks, k, v)
        # Of more tokens than the ring has slots only the newest are written: a slot that was
        # named twice would hold either of them.
        start = max(old, length - capacity)
        # The usual step of decoding writes one slot, without a tensor of indices.
        if new == 1:
            self.keys[group.rows, :, old % capacity] = k[:, :, 0]
            self.values[group.rows, :, old % capacity] = v[:, :, 0]
        else:
            slots = torch.arange(start, length, device=k.device) % capacity
            for near, fresh in ((self.keys, k), (self.values, v)):
                near[group.rows].index_copy_(2, slots, fresh[:, :, start - old : new])
        for b in range(len(self.lengths))[group.rows]:
            self.lengths[b] = length
            self.held[b] = max(self.held[b], length - capacity)

    def _move(
        self, group: Group, heads: slice, to: slice, blocks: list[int], k: Tensor, v: Tensor
    ) -> None:
        """Writes blocks to the far region.

        Tokens before `group.old` lie in the ring, later ones in k and v.
        """
        size = self.pattern.block_size
        positions = (torch.tensor(blocks)[:, None] * size + torch.arange(size)).flatten()
        # Blocks are in ascending order, so tokens of the ring come before those of k and v.
        border = sum(min(size, max(0, group.old - block * size)) for block in blocks)
        ring, new = positions[:border] % max(1, self.keys.shape[2]), positions[border:] - group.old
        for far, near, fresh in ((self.far_keys, self.keys, k), (self.far_values, self.values, v)):
            target = far[group.rows, heads, to]
            if border:
                target[:, :, :border] = near[group.rows, heads].index_select(
                    2, ring.to(near.device)
                )
            if border < len(positions):
                target[:, :, border:] = fresh[:, heads].index_select(2, new.to(fresh.device))

    def _base(self, lengths: Sequence[int]) -> int:
        """Ring slots for rows of these lengths when nothing is to be taken back."""
        p = self.pattern
        if len(set(lengths)) > 1:
            return p.window_tokens
        return min(p.blocks(max([0, *lengths])), p.local_blocks) * p.block_size

    def _reserve(self, counts: Sequence[int]) -> None:
        p = self.pattern
        size = p.block_size
        lengths = [old + new for old, new in zip(self.lengths, counts, strict=True)]
        capacity = self._base(lengths)
        if self.record_past:
            # Everything from the window of the last crop's length on may be needed again.
            back = [p.local_start(n // size) * size for n in self.committed]
            longest = max(n - start for n, start in zip(lengths, back, strict=True))
            capacity = max(capacity, p.blocks(longest) * size)
            if capacity > p.window_tokens or self.keys.shape[2] > p.window_tokens:
                capacity = max(capacity, p.window_tokens + _RECORDING_BLOCKS * size)
        self._resize(capacity)
        self._resize_far(lengths)
        if self.keys.is_inference() and not torch.is_inference_mode_enabled():
            # The only tensors that may be written to now.
            for name in ("keys", "values", "far_keys", "far_values"):
                setattr(self, name, getattr(self, name).clone())

    def _resize(self, capacity: int) -> None:
        """Gives the ring a new number of slots; the newest positions stay."""
        if capacity == self.keys.shape[2]:
            return
        keys, values = (
            x.new_zeros(*x.shape[:2], capacity, x.shape[3]) for x in (self.keys, self.values)
        )
        held = []
        for group in self._groups([0] * len(self.lengths)):
            # What every row of the group still holds, and the new ring can.
            first = max(*self.held[group.rows], group.old - capacity)
            slots = torch.arange(first, group.old, device=keys.device) % max(1, capacity)
            for new, span in zip((keys, values), self._span(group, first, group.old), strict=True):
                new[group.rows].index_copy_(2, slots, span)
            held += [first] * len(self.lengths[group.rows])
        self.keys, self.values, self.held = keys, values, held

    def _shrink(self) -> None:
        """Frees what rows of the present lengths do not need."""
        window = self.pattern.window_tokens
        if self.record_past and self.keys.shape[2] > window:
            self._resize(window + _RECORDING_BLOCKS * self.pattern.block_size)
        else:
            self._resize(self._base(self.lengths))
        self._resize_far(self.lengths)

    def _resize_far(self, lengths: Sequence[int]) -> None:
        size, heads = self.pattern.block_size, self.keys.shape[1]
        view = HeadView(self.pattern, self.layer, 0, heads)
        blocks = 0
        for start, _ in view.alike(heads):
            for length in set(lengths):
                blocks = max(blocks, view.far_count(length // size, start))
        more = blocks * size - self.far_keys.shape[2]
        if more > 0:
            self.far_keys = torch.nn.functional.pad(self.far_keys, (0, 0, 0, more))
            self.far_values = torch.nn.functional.pad(self.far_values, (0, 0, 0, more))
        elif more < 0:
            # A slice alone would keep all of the old memory.
            self.far_keys = self.far_keys[:, :, :more].clone()
            self.far_values = self.far_values[:, :, :more].clone()
