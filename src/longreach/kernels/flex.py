"""FlexAttention with the pattern's block mask, built from block arithmetic: nothing of size Q x K,
compiled or not.

For torchtitan and others who call `flex_attention` themselves:
`block_mask(pattern, q_len, kv_len, ...)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from longreach.errors import UsageError
from longreach.kernels.backend import PrefillOnly, Request
from longreach.kernels.view import HeadView
from longreach.pattern import AttentionPattern
from longreach.pattern.visibility import sees_key, shift_of

_GPU_TILE = 128  # what the tiles of FlexAttention's kernels for Hopper divide


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
    """The block mask of one sparse layer.

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
    """Tokens of FlexAttention's own blocks on a device."""
    return max(pattern.block_size, _GPU_TILE) if device.type == "cuda" else pattern.block_size


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
    shared = p.stride == 0
    full: list[list[list[int]]] = []
    part: list[list[list[int]]] = []
    for head in range(1 if shared else num_kv_heads):
        full.append([])
        part.append([])
        for low in range(q_start, kv_len, size):
            all_see, some_see = _coarser(
                *_tile(view, low, min(low + size, kv_len), head), size // p.block_size
            )
            full[-1].append(all_see)
            part[-1].append(some_see)
    repeat = 1 if shared else num_heads // num_kv_heads
    q_blocks, kv_blocks = -(-q_len // size), -(-kv_len // size)
    by_query = [_table(rows, kv_blocks, repeat, device) for rows in (part, full)]
    by_key: list[tuple[Tensor | None, Tensor | None]] = [(None, None), (None, None)]
    if backward:
        by_key = [
            _table(_transpose(rows, kv_blocks), q_blocks, repeat, device) for rows in (part, full)
        ]
    assert all(len(rows) == q_blocks for rows in full)
    return BlockMask(
        (q_len, kv_len),
        *by_query[0],
        *by_query[1],
        *by_key[0],
        *by_key[1],
        BLOCK_SIZE=(size, size),
        mask_mod=_mask_mod(view, q_start, num_heads // num_kv_heads),
    )


def _tile(view: HeadView, low: int, high: int, head: int) -> tuple[list[int], list[int]]:
    """Key blocks that all, and that only some, of the queries at positions [low, high) see."""
    p = view.pattern
    i0, i1 = low // p.block_size, (high - 1) // p.block_size
    before, after = p.local_start(i0), p.local_start(i1)
    far = view.far_blocks(i0, head)
    kept = set(view.far_blocks(i1, head))
    # A tile that spans several blocks has edges: the first blocks of the windows, and its own
    # blocks.
    edge = [j for j in range(before, min(after, i0))]
    full = far + [j for j in edge if j in kept] + list(range(max(before, after), i0))
    return full, [j for j in edge if j not in kept] + list(range(i0, i1 + 1))


def _coarser(all_see: list[int], some_see: list[int], ratio: int) -> tuple[list[int], list[int]]:
    """The same in blocks of `ratio` blocks each."""
    if ratio == 1:
        return all_see, some_see
    counts = Counter(j // ratio for j in all_see)
    full = [tile for tile, count in counts.items() if count == ratio]
    return full, sorted({j // ratio for j in all_see + some_see} - set(full))


def _transpose(rows: list[list[list[int]]], columns: int) -> list[list[list[int]]]:
    turned: list[list[list[int]]] = [[[] for _ in range(columns)] for _ in rows]
    for head, lists in enumerate(rows):
        for i, row in enumerate(lists):
            for j in row:
                turned[head][j].append(i)
    return turned


def _table(
    rows: list[list[list[int]]], columns: int, repeat: int, device: Any
) -> tuple[Tensor, Tensor]:
    """Counts [1, H, N] and indices [1, H, N, columns], each head `repeat` times.

    FlexAttention wants a column for every block but reads only as many as the count says, so rows
    of the longest count overlap in memory: storage is what the blocks need, not blocks squared.
    """
    most = max(1, max((len(row) for lists in rows for row in lists), default=1))
    counts = torch.tensor([[len(row) for row in lists] for lists in rows], dtype=torch.int32)
    packed = torch.tensor(
        [[row + [0] * (most - len(row)) for row in lists] for lists in rows], dtype=torch.int32
    )
    counts, packed = (x.repeat_interleave(repeat, 0)[None].to(device) for x in (counts, packed))
    flat = torch.cat([packed.flatten(), packed.new_zeros(columns)])
    heads, n = packed.shape[1:3]
    return counts, flat.as_strided((1, heads, n, columns), (heads * n * most, n * most, most, 1))


def _mask_mod(
    view: HeadView, q_start: int, groups: int
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    pattern = view.pattern

    def mask_mod(b: Tensor, h: Tensor, q_index: Tensor, k: Tensor) -> Tensor:
        head = h // groups + view.first_head
        shift = shift_of(pattern, head, view.total_heads, view.layer)
        return sees_key(pattern, q_index + q_start, k, shift)

    return mask_mod


@cache
def _compiled() -> Any:
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
    """`_block_mask`, made once: at long lengths its lists take longer than the attention does on a
    GPU.

    `inference` only keeps apart what was made in inference mode, which no backward pass may save.
    """
    return _block_mask(view, q_len, kv_len, num_heads, num_kv_heads, device, backward)


class FlexBackend(PrefillOnly):
    """FlexAttention as an implementation."""

    name = "flex"

    def explain_refusal(self, request: Request) -> str | None:
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
        # Without a stride all layers see the same.
        layer = view if view.pattern.stride else view._replace(layer=0)
        numbers = (q.shape[2], k.shape[2], q.shape[1], k.shape[1])
        mask = _kept_mask(layer, *numbers, q.device, train, torch.is_inference_mode_enabled())
        return _compiled()(
            q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    # Blocks count from each row's first real token, so every row has its own block grid.
    out = []
    for row, start in enumerate(starts.tolist()):
        real = min(q.shape[2], k.shape[2] - start)
        padding = q.new_zeros(1, q.shape[1], q.shape[2] - real, q.shape[3])
        if not real:
            out.append(padding)
            continue
        one = slice(row, row + 1)
        result = attend(q[one, :, -real:], k[one, :, start:], v[one, :, start:], view, scale, None)
        out.append(torch.cat([padding, result], 2))
    return torch.cat(out)
