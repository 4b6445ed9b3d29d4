"""FlexAttention with the pattern's block mask: nothing of size Q x K, compiled or not.

The mask is built from block arithmetic. For torchtitan and others who call `flex_attention`
themselves: `block_mask(pattern, q_len, kv_len, ...)`.

Shapes: Q queries, K keys, H heads of the mask, N blocks of FlexAttention's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from longreach.errors import UsageError
from longreach.kernels.backend import AttentionRequest, PrefillOnly
from longreach.kernels.view import HeadView
from longreach.pattern import AttentionPattern
from longreach.pattern.visibility import sees_key, shift_of

# What the tiles of FlexAttention's kernels for Hopper divide.
_GPU_TILE = 128

# Block numbers of each query block, of each head.
Rows = list[list[list[int]]]


class Seen(NamedTuple):
    """Blocks that all, and that only some, of a tile's queries see."""

    full: list[int]
    part: list[int]


def block_mask(
    pattern: AttentionPattern,
    q_len: int,
    kv_len: int,
    num_heads: int,
    num_kv_heads: int,
    layer: int = 0,
    *,
    heads: tuple[int, int] | None = None,
    device: str | torch.device = "cpu",
    backward: bool = True,
    tile: int | None = None,
) -> BlockMask:
    """Returns the block mask of one sparse layer.

    Args:
        pattern: Which blocks are visible.
        q_len: Queries, the last of kv_len positions.
        kv_len: Keys.
        num_heads: Query heads; the mask has one head where all KV heads see the same (no stride).
        num_kv_heads: KV heads.
        layer: Index of the layer.
        heads: (first KV head, KV heads of the model) on a rank that holds only some.
        device: Where the mask's index tensors live.
        backward: Whether to index queries by key as well, as gradients need.
        tile: Tokens of FlexAttention's own blocks, a multiple of the pattern's. None for the
            pattern's, but at least 128 on a GPU, where FlexAttention's tiles have to divide them.

    Returns:
        A BlockMask for q [B, num_heads, q_len, D] and k, v [B, num_kv_heads, kv_len, D], with
        `enable_gqa=True`.

    Raises:
        UsageError: The tile is not a multiple of the pattern's blocks.
    """
    first, total = heads or (0, num_kv_heads)
    view = HeadView(pattern, layer, first, total)
    if tile is not None and (tile < pattern.block_size or tile % pattern.block_size):
        raise UsageError(
            f"tile is {tile}; give a multiple of the pattern's block size, {pattern.block_size}."
        )
    return _block_mask(
        view, q_len, kv_len, num_heads, num_kv_heads, torch.device(device), backward, tile
    )


def tile_of(pattern: AttentionPattern, device: torch.device) -> int:
    """Returns the tokens of FlexAttention's own blocks on a device."""
    if device.type != "cuda":
        return pattern.block_size
    return max(pattern.block_size, _GPU_TILE)


def _block_mask(
    view: HeadView,
    q_len: int,
    kv_len: int,
    num_heads: int,
    num_kv_heads: int,
    device: torch.device,
    backward: bool,
    tile: int | None = None,
) -> BlockMask:
    p = view.pattern
    size = tile or tile_of(p, device)
    q_start = kv_len - q_len
    # Without a stride all heads see the same: the mask has one.
    heads = num_kv_heads if p.stride else 1
    repeat = num_heads // num_kv_heads if p.stride else 1
    full: Rows = []
    part: Rows = []
    for head in range(heads):
        full.append([])
        part.append([])
        for low in range(q_start, kv_len, size):
            seen = _tile(view, low, min(low + size, kv_len), head)
            seen = _coarsen(seen, size // p.block_size)
            full[-1].append(seen.full)
            part[-1].append(seen.part)
    q_blocks = -(-q_len // size)
    kv_blocks = -(-kv_len // size)
    assert all(len(rows) == q_blocks for rows in full)
    part_by_key: tuple[Tensor | None, Tensor | None] = (None, None)
    full_by_key: tuple[Tensor | None, Tensor | None] = (None, None)
    if backward:
        part_by_key = _table(_transpose(part, kv_blocks), q_blocks, repeat, device)
        full_by_key = _table(_transpose(full, kv_blocks), q_blocks, repeat, device)
    return BlockMask(
        (q_len, kv_len),
        *_table(part, kv_blocks, repeat, device),
        *_table(full, kv_blocks, repeat, device),
        *part_by_key,
        *full_by_key,
        BLOCK_SIZE=(size, size),
        mask_mod=_mask_mod(view, q_start, num_heads // num_kv_heads),
    )


def _tile(view: HeadView, low: int, high: int, head: int) -> Seen:
    """Returns the key blocks that the queries at positions [low, high) see."""
    p = view.pattern
    i0 = low // p.block_size
    i1 = (high - 1) // p.block_size
    before = p.local_start(i0)
    after = p.local_start(i1)
    full = view.far_blocks(i0, head)
    part = []
    # A tile that spans several blocks has edges: the first blocks of the windows, and its own
    # blocks. Of the first ones, the last query block still sees those that are permanent.
    kept = set(view.far_blocks(i1, head))
    for j in range(before, min(after, i0)):
        if j in kept:
            full.append(j)
        else:
            part.append(j)
    full += range(max(before, after), i0)
    part += range(i0, i1 + 1)
    return Seen(full, part)


def _coarsen(seen: Seen, ratio: int) -> Seen:
    """Returns the same in blocks of `ratio` blocks each."""
    if ratio == 1:
        return seen
    # A coarse block is full where all of its blocks are.
    counts = Counter(j // ratio for j in seen.full)
    full = [tile for tile, count in counts.items() if count == ratio]
    touched = {j // ratio for j in seen.full + seen.part}
    return Seen(full, sorted(touched - set(full)))


def _transpose(rows: Rows, columns: int) -> Rows:
    """Returns the query blocks of each key block."""
    turned: Rows = []
    for lists in rows:
        by_key: list[list[int]] = [[] for _ in range(columns)]
        for i, row in enumerate(lists):
            for j in row:
                by_key[j].append(i)
        turned.append(by_key)
    return turned


def _table(rows: Rows, columns: int, repeat: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns counts [1, H, N] and indices [1, H, N, columns], each head `repeat` times.

    FlexAttention wants a column for every block but reads only as many as the count says, so rows
    of the longest count overlap in memory: storage is what the blocks need, not blocks squared.
    """
    lengths = [list(map(len, lists)) for lists in rows]
    most = max(1, *(max(of_head, default=1) for of_head in lengths))
    filled = []
    for lists in rows:
        filled.append([row + [0] * (most - len(row)) for row in lists])
    counts = torch.tensor(lengths, dtype=torch.int32).repeat_interleave(repeat, 0)[None]
    packed = torch.tensor(filled, dtype=torch.int32).repeat_interleave(repeat, 0)[None].to(device)
    # The view of the last row reaches up to `columns` entries beyond its own.
    flat = torch.cat([packed.flatten(), packed.new_zeros(columns)])
    heads, n = packed.shape[1:3]
    strides = (heads * n * most, n * most, most, 1)
    return counts.to(device), flat.as_strided((1, heads, n, columns), strides)


def _mask_mod(
    view: HeadView, q_start: int, groups: int
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    pattern = view.pattern

    def mask_mod(b: Tensor, h: Tensor, q_index: Tensor, k: Tensor) -> Tensor:
        # FlexAttention counts query heads, and the pattern the KV heads of the whole model.
        head = h // groups + view.first_head
        shift = shift_of(pattern, head, view.total_heads, view.layer)
        return sees_key(pattern, q_index + q_start, k, shift)

    return mask_mod


# Each torch.compile would compile anew, which takes seconds.
@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=False)


@lru_cache(maxsize=64)
def _kept_mask(
    view: HeadView,
    q_len: int,
    kv_len: int,
    num_heads: int,
    num_kv_heads: int,
    device: torch.device,
    backward: bool,
    inference: bool,
) -> BlockMask:
    """Returns `_block_mask` of the same arguments, made once.

    At long lengths its lists take longer than the attention does on a GPU. `inference` only keeps
    apart what was made in inference mode, which no backward pass may save.
    """
    return _block_mask(view, q_len, kv_len, num_heads, num_kv_heads, device, backward)


class FlexBackend(PrefillOnly):
    """FlexAttention as an implementation."""

    name = "flex"

    def explain_refusal(self, request: AttentionRequest) -> str | None:
        """Returns why there are no gradients on a CPU, and no compact caches."""
        if request.gradients and request.device.type == "cpu":
            return (
                "FlexAttention has no backward pass on a CPU; use impl='cpu' (or 'auto') for"
                " gradients there."
            )
        return super().explain_refusal(request)

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
    """Returns attention through compiled FlexAttention; arguments as `reference.attend`."""
    train = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if starts is None:
        # Without a stride all layers see the same: one mask serves them.
        layer = view if view.pattern.stride else view._replace(layer=0)
        numbers = (q.shape[2], k.shape[2], q.shape[1], k.shape[1])
        mask = _kept_mask(layer, *numbers, q.device, train, torch.is_inference_mode_enabled())
        return _compiled()(
            q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    # Blocks count from each row's first real token, so every row has its own block grid.
    out = []
    for row, start in enumerate(starts.tolist()):
        # A row's padding may reach into its queries.
        real = min(q.shape[2], k.shape[2] - start)
        padding = q.new_zeros(1, q.shape[1], q.shape[2] - real, q.shape[3])
        if not real:
            out.append(padding)
            continue
        one = slice(row, row + 1)
        result = attend(q[one, :, -real:], k[one, :, start:], v[one, :, start:], view, scale, None)
        out.append(torch.cat([padding, result], 2))
    return torch.cat(out)
