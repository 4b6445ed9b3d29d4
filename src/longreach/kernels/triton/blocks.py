"""The pattern's arithmetic inside Triton kernels: the twin of `longreach.pattern.visibility`.

No index tensors: the f-th permanent block, how many of them a query block sees, and whether a pair
is visible are a few integer operations on the five numbers (SIZE, SINK, LOCAL, STRIDE, first),
where `first` is the first strided block after the sinks and differs by KV head.

Permanent tokens are addressed by a *virtual* index c that counts the permanent blocks' tokens
without gaps, so that a tile of c's is dense however short the blocks are.
"""

import triton
import triton.language as tl

# The interpreter multiplies the bits of bfloat16 numbers as integers: there, operands are widened.
_WIDEN = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def first_strided(head, shift, STEP: tl.constexpr, SINK: tl.constexpr, STRIDE: tl.constexpr):
    """First strided block at or after the sinks, of a KV head; `shift` is the offset of head 0."""
    if STRIDE == 0:
        return head * 0
    # How far the first block after the sinks lies behind the last one on the stride.
    behind = (SINK + head * STEP + shift) % STRIDE
    return SINK + (STRIDE - behind) % STRIDE


@triton.jit
def far_tokens(i, first, SIZE: tl.constexpr, SINK: tl.constexpr, LOCAL, STRIDE: tl.constexpr):
    """Tokens of the permanent blocks outside the window of query block `i`."""
    before = tl.maximum(i - LOCAL + 1, 0)
    count = tl.minimum(before, SINK)
    if STRIDE > 0:
        # Rounded up, because the block `first` itself counts.
        count += tl.maximum(before - first + STRIDE - 1, 0) // STRIDE
    return count * SIZE


@triton.jit
def permanent_position(c, first, SIZE: tl.constexpr, SINK: tl.constexpr, STRIDE: tl.constexpr):
    """Position of the permanent token with virtual index `c`."""
    f = c // SIZE
    block = f if STRIDE == 0 else tl.where(f < SINK, f, first + (f - SINK) * STRIDE)
    return block * SIZE + c % SIZE


@triton.jit
def permanent_index(k, first, SIZE: tl.constexpr, SINK: tl.constexpr, STRIDE: tl.constexpr):
    """Virtual index of the permanent token at position `k`: the inverse of `permanent_position`."""
    j = k // SIZE
    f = j if STRIDE == 0 else tl.where(j < SINK, j, SINK + (j - first) // STRIDE)
    return f * SIZE + k % SIZE


@triton.jit
def is_permanent(k, first, SIZE: tl.constexpr, SINK: tl.constexpr, STRIDE: tl.constexpr):
    """Whether position `k` lies in a permanent block."""
    j = k // SIZE
    permanent = j < SINK
    if STRIDE > 0:
        permanent = permanent | ((j >= first) & ((j - first) % STRIDE == 0))
    return permanent


@triton.jit
def in_window(q, k, SIZE: tl.constexpr, LOCAL: tl.constexpr):
    """Whether position `k` lies in the local window of position `q`, later keys excluded."""
    return (k <= q) & (q // SIZE - k // SIZE < LOCAL)


@triton.jit
def visible(
    q, k, first, SIZE: tl.constexpr, SINK: tl.constexpr, LOCAL: tl.constexpr, STRIDE: tl.constexpr
):
    """Whether the query at position `q` sees the key at position `k`."""
    return (k <= q) & ((q // SIZE - k // SIZE < LOCAL) | is_permanent(k, first, SIZE, SINK, STRIDE))


@triton.jit
def dot(a, b):
    """Matrix product with a float32 sum; float32 operands are not rounded to TF32."""
    if _WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def dot_add(a, b, total):
    """`total` plus the matrix product."""
    if _WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def load_rows(
    base, rows, stride, d, ok, D: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr
):
    """Loads [rows, BLOCK_D] at `base + rows * stride`, with zeros beyond D.

    Where MASKED, rows that are not ok are zeros too. Row numbers times strides are 64-bit: a
    million tokens of a [B, T, H, D] layout overflow 32.
    """
    pointers = base + rows.to(tl.int64)[:, None] * stride + d[None, :]
    if MASKED:
        return tl.load(pointers, mask=ok[:, None] & (d[None, :] < D), other=0.0)
    elif BLOCK_D != D:
        return tl.load(pointers, mask=d[None, :] < D, other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def key_range(
    m0,
    end,
    i0,
    i1,
    LOCAL: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Where a tile of queries [m0, m0 + BLOCK_M) of blocks i0 to i1 meets its window.

    Returns (low, inner, outer, high): keys [inner, outer) are seen by every query of the tile and
    need no mask; those before (the window's staircase) and behind (the diagonal) do. All but the
    last step by BLOCK_N from low.
    """
    low = tl.maximum(i0 - LOCAL + 1, 0) * SIZE
    high = tl.minimum(m0 + BLOCK_M, end)
    all_see = tl.maximum(i1 - LOCAL + 1, 0) * SIZE
    inner = low + (all_see - low + BLOCK_N - 1) // BLOCK_N * BLOCK_N
    outer = inner + tl.maximum(m0 + 1 - inner, 0) // BLOCK_N * BLOCK_N
    return low, inner, outer, high
