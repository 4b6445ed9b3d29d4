"""Triton backward: dQ by tiles of queries, dK and dV by tiles of keys; nothing is added atomically.

dQ walks over the keys as the forward pass does. For dK and dV the queries of a key are a *range*:
up to local_blocks blocks from its own for any key, and all later ones as well for a permanent key.
So one kernel handles every key's window, evenly long; a second one the permanent keys' later
queries, split into S shares that it leaves in float32 and that the first adds up. Gradients are
sums over the query heads of a KV head, taken inside a program.

Shapes: B rows, Hq and Hkv heads, Tq queries, Tk keys, D head dim, P permanent tokens, S shares.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from longreach.kernels.triton.blocks import (
    dot,
    dot_add,
    far_tokens,
    first_strided,
    in_window,
    is_permanent,
    key_range,
    load_rows,
    permanent_index,
    permanent_position,
    visible,
)
from longreach.kernels.triton.launch import launch, pattern_args, strides_of
from longreach.kernels.view import HeadView


@triton.jit
def _delta_kernel(
    grad_ptr, out_ptr, delta_ptr, sgb, sgh, sgt, sob, soh, sot, tq,
    HQ: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """delta = sum over D of dO * O, in float32."""
    b = (tl.program_id(1) // HQ).to(tl.int64)
    h = tl.program_id(1) % HQ
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    grad = load_rows(grad_ptr + b * sgb + h * sgh, row, sgt, d, row < tq, D, BLOCK_D, True).to(
        tl.float32
    )
    out = load_rows(out_ptr + b * sob + h * soh, row, sot, d, row < tq, D, BLOCK_D, True).to(
        tl.float32
    )
    tl.store(delta_ptr + (b * HQ + h) * tq + row, tl.sum(grad * out, 1), mask=row < tq)


@triton.jit
def _dq_steps(
    dq, q, grad, lse, delta, q_pos, k_ptr, v_ptr, start, stride_k, stride_v, low, high, stop, first, scale2, d,
    FAR: tl.constexpr, MASKED: tl.constexpr,
    D: tl.constexpr, SIZE: tl.constexpr, SINK: tl.constexpr, LOCAL: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Adds the share of keys [low, high) to dQ: positions, or virtual permanent indices (FAR).

    Those from `stop` on do not exist.
    """
    for n in range(low, high, BLOCK_N):
        index = n + tl.arange(0, BLOCK_N)
        ok = index < stop
        k_pos = permanent_position(index, first, SIZE, SINK, STRIDE) if FAR else index
        k = load_rows(k_ptr, k_pos + start, stride_k, d, ok, D, BLOCK_D, MASKED)
        v = load_rows(v_ptr, k_pos + start, stride_v, d, ok, D, BLOCK_D, MASKED)
        # Scores and logsumexp are in units of log2, because exp2 is what a GPU computes itself.
        weights = tl.exp2(dot(q, tl.trans(k)) * scale2 - lse[:, None])
        if MASKED:
            seen = (
                visible(q_pos[:, None], k_pos[None, :], first, SIZE, SINK, LOCAL, STRIDE)
                & ok[None, :]
            )
            weights = tl.where(seen, weights, 0.0)
        d_scores = weights * (dot(grad, tl.trans(v)) - delta[:, None])
        dq = dot_add(d_scores.to(k.dtype), k, dq)
    return dq


@triton.jit
def _dq_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, starts_ptr, dq_ptr,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, sgb, sgh, sgt, sdb, sdh, sdt,
    q_first, tq, shift, scale,
    HQ: tl.constexpr, GROUPS: tl.constexpr, HAS_STARTS: tl.constexpr,
    STEP: tl.constexpr, SIZE: tl.constexpr, SINK: tl.constexpr, LOCAL: tl.constexpr, STRIDE: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # Late tiles see the most permanent blocks: start them first.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    b = (tl.program_id(1) // HQ).to(tl.int64)
    h = tl.program_id(1) % HQ
    g = h // GROUPS
    start = tl.load(starts_ptr + b).to(tl.int32) if HAS_STARTS else 0
    q_start = q_first - start
    end = q_start + tq
    m0 = tl.maximum(q_start, 0) // BLOCK_M * BLOCK_M + tile * BLOCK_M
    if m0 >= end:
        return
    d = tl.arange(0, BLOCK_D)
    q_pos = m0 + tl.arange(0, BLOCK_M)
    q_ok = (q_pos >= q_start) & (q_pos < end)
    row = q_pos - q_start
    q = load_rows(q_ptr + b * sqb + h * sqh, row, sqt, d, q_ok, D, BLOCK_D, True)
    grad = load_rows(grad_ptr + b * sgb + h * sgh, row, sgt, d, q_ok, D, BLOCK_D, True)
    # Missing rows have q = 0 and dO = 0: with these their weights are finite and their shares zero.
    lse = tl.load(lse_ptr + (b * HQ + h) * tq + row, mask=q_ok, other=0.0) * 1.4426950408889634
    delta = tl.load(delta_ptr + (b * HQ + h) * tq + row, mask=q_ok, other=0.0)
    k_ptr += b * skb + g * skh
    v_ptr += b * svb + g * svh
    scale2 = scale * 1.4426950408889634
    first = first_strided(g, shift, STEP, SINK, STRIDE)
    i0 = m0 // SIZE
    far = far_tokens(i0, first, SIZE, SINK, LOCAL, STRIDE)
    low, inner, outer, high = key_range(
        m0, end, i0, (tl.minimum(m0 + BLOCK_M, end) - 1) // SIZE, LOCAL, SIZE, BLOCK_M, BLOCK_N
    )
    # The same four loops as in the forward pass: far, staircase, inner, diagonal.
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    dq = _dq_steps(
        dq, q, grad, lse, delta, q_pos, k_ptr, v_ptr, start, skt, svt, 0, far, far, first, scale2, d,
        True, SIZE % BLOCK_N != 0, D, SIZE, SINK, LOCAL, STRIDE, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    dq = _dq_steps(
        dq, q, grad, lse, delta, q_pos, k_ptr, v_ptr, start, skt, svt, low, tl.minimum(inner, high), end, first,
        scale2, d, False, True, D, SIZE, SINK, LOCAL, STRIDE, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    dq = _dq_steps(
        dq, q, grad, lse, delta, q_pos, k_ptr, v_ptr, start, skt, svt, inner, outer, end, first, scale2, d,
        False, False, D, SIZE, SINK, LOCAL, STRIDE, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    dq = _dq_steps(
        dq, q, grad, lse, delta, q_pos, k_ptr, v_ptr, start, skt, svt, outer, high, end, first, scale2, d,
        False, True, D, SIZE, SINK, LOCAL, STRIDE, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    rows = dq_ptr + b * sdb + h * sdh + row.to(tl.int64)[:, None] * sdt + d[None, :]
    tl.store(rows, (dq * scale).to(dq_ptr.dtype.element_ty), mask=q_ok[:, None] & (d[None, :] < D))


@triton.jit
def _dkv_steps(
    dk, dv, k, v, k_pos, k_ok, q_ptr, grad_ptr, lse_ptr, delta_ptr, sqt, sgt, q_start, low, high, stop, scale2, d,
    FAR: tl.constexpr, MASKED: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, LOCAL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Adds the shares of one head's queries [low, high) to dK and dV.

    They are those whose window holds the key, or (FAR) has passed it.
    """
    for m in range(low, high, BLOCK_M):
        q_pos = m + tl.arange(0, BLOCK_M)
        ok = q_pos < stop
        row = q_pos - q_start
        q = load_rows(q_ptr, row, sqt, d, ok, D, BLOCK_D, MASKED)
        grad = load_rows(grad_ptr, row, sgt, d, ok, D, BLOCK_D, MASKED)
        lse = tl.load(lse_ptr + row, mask=ok, other=0.0) * 1.4426950408889634
        delta = tl.load(delta_ptr + row, mask=ok, other=0.0)
        weights = tl.exp2(dot(k, tl.trans(q)) * scale2 - lse[None, :])
        if MASKED:
            if FAR:
                seen = q_pos[None, :] // SIZE - k_pos[:, None] // SIZE >= LOCAL
            else:
                seen = in_window(q_pos[None, :], k_pos[:, None], SIZE, LOCAL)
            weights = tl.where(seen & ok[None, :] & k_ok[:, None], weights, 0.0)
        dv = dot_add(weights.to(grad.dtype), grad, dv)
        d_scores = weights * (dot(v, tl.trans(grad)) - delta[None, :])
        dk = dot_add(d_scores.to(q.dtype), q, dk)
    return dk, dv


@triton.jit
def _far_dkv_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, starts_ptr, dk_part, dv_part,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, sgb, sgh, sgt,
    q_first, tq, permanent, shift, scale,
    HKV: tl.constexpr, GROUPS: tl.constexpr, HAS_STARTS: tl.constexpr, SHARES: tl.constexpr,
    STEP: tl.constexpr, SIZE: tl.constexpr, SINK: tl.constexpr, LOCAL: tl.constexpr, STRIDE: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One share of the queries behind the window of one tile of permanent keys."""
    share = tl.program_id(1)
    b = (tl.program_id(2) // HKV).to(tl.int64)
    g = tl.program_id(2) % HKV
    start = tl.load(starts_ptr + b).to(tl.int32) if HAS_STARTS else 0
    q_start = q_first - start
    end = q_start + tq
    d = tl.arange(0, BLOCK_D)
    first = first_strided(g, shift, STEP, SINK, STRIDE)
    far = far_tokens((tl.maximum(end, 1) - 1) // SIZE, first, SIZE, SINK, LOCAL, STRIDE)
    c0 = tl.program_id(0) * BLOCK_N
    index = c0 + tl.arange(0, BLOCK_N)
    k_ok = index < far
    k_pos = permanent_position(index, first, SIZE, SINK, STRIDE)
    k = load_rows(k_ptr + b * skb + g * skh, k_pos + start, skt, d, k_ok, D, BLOCK_D, True)
    v = load_rows(v_ptr + b * svb + g * svh, k_pos + start, svt, d, k_ok, D, BLOCK_D, True)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    if c0 < far:
        # Queries [low, all_see) have some of the tile's keys still in their window; `all_see` on,
        # none.
        low = (permanent_position(c0, first, SIZE, SINK, STRIDE) // SIZE + LOCAL) * SIZE
        low = tl.maximum(low, tl.maximum(q_start, 0))
        c_last = tl.minimum(c0 + BLOCK_N, far) - 1
        all_see = (permanent_position(c_last, first, SIZE, SINK, STRIDE) // SIZE + LOCAL) * SIZE
        steps = (tl.maximum(end - low, 0) + BLOCK_M - 1) // BLOCK_M
        per = (steps + SHARES - 1) // SHARES * BLOCK_M
        lo = low + share * per
        hi = tl.minimum(lo + per, end)
        edge = lo + (tl.maximum(all_see - lo, 0) + BLOCK_M - 1) // BLOCK_M * BLOCK_M
        edge = tl.minimum(edge, hi)
        if c0 + BLOCK_N > far:  # some keys of the tile do not exist: mask throughout
            edge = tl.maximum(hi, lo)
        tail = edge + tl.maximum(hi - edge, 0) // BLOCK_M * BLOCK_M
        # All query heads of the KV head are summed here: no other program writes to these keys.
        for h in range(g * GROUPS, g * GROUPS + GROUPS):
            q_h = q_ptr + b * sqb + h * sqh
            grad_h = grad_ptr + b * sgb + h * sgh
            lse_h = lse_ptr + (b * HKV * GROUPS + h) * tq
            delta_h = delta_ptr + (b * HKV * GROUPS + h) * tq
            dk, dv = _dkv_steps(
                dk, dv, k, v, k_pos, k_ok, q_h, grad_h, lse_h, delta_h, sqt, sgt, q_start, lo, edge, hi,
                scale * 1.4426950408889634, d, True, True, D, SIZE, LOCAL, BLOCK_M, BLOCK_D,
            )  # fmt: skip
            dk, dv = _dkv_steps(
                dk, dv, k, v, k_pos, k_ok, q_h, grad_h, lse_h, delta_h, sqt, sgt, q_start, edge, tail, hi,
                scale * 1.4426950408889634, d, True, False, D, SIZE, LOCAL, BLOCK_M, BLOCK_D,
            )  # fmt: skip
            dk, dv = _dkv_steps(
                dk, dv, k, v, k_pos, k_ok, q_h, grad_h, lse_h, delta_h, sqt, sgt, q_start, tail, hi, hi,
                scale * 1.4426950408889634, d, True, True, D, SIZE, LOCAL, BLOCK_M, BLOCK_D,
            )  # fmt: skip
    slot = (tl.program_id(2).to(tl.int64) * SHARES + share) * permanent + index
    rows = slot[:, None] * BLOCK_D + d[None, :]
    tl.store(dk_part + rows, dk, mask=(index < permanent)[:, None])
    tl.store(dv_part + rows, dv, mask=(index < permanent)[:, None])


@triton.jit
def _dkv_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, starts_ptr, dk_part, dv_part, dk_ptr, dv_ptr,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, sgb, sgh, sgt, sdb, sdh, sdt,
    q_first, tq, permanent, shift, scale,
    HKV: tl.constexpr, GROUPS: tl.constexpr, HAS_STARTS: tl.constexpr, SHARES: tl.constexpr,
    STEP: tl.constexpr, SIZE: tl.constexpr, SINK: tl.constexpr, LOCAL: tl.constexpr, STRIDE: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The window of one tile of keys, and the sum of the shares of its permanent ones."""
    b = (tl.program_id(1) // HKV).to(tl.int64)
    g = tl.program_id(1) % HKV
    start = tl.load(starts_ptr + b).to(tl.int32) if HAS_STARTS else 0
    q_start = q_first - start
    end = q_start + tq
    n0 = tl.program_id(0) * BLOCK_N
    if n0 >= end:
        return
    d = tl.arange(0, BLOCK_D)
    k_pos = n0 + tl.arange(0, BLOCK_N)
    k_ok = k_pos < end
    k = load_rows(k_ptr + b * skb + g * skh, k_pos + start, skt, d, k_ok, D, BLOCK_D, True)
    v = load_rows(v_ptr + b * svb + g * svh, k_pos + start, svt, d, k_ok, D, BLOCK_D, True)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    low = tl.maximum(tl.maximum(n0, q_start), 0)
    high = tl.minimum(((n0 + BLOCK_N - 1) // SIZE + LOCAL) * SIZE, end)
    # Queries [inner, outer) see the whole tile, and need no mask.
    inner = low + (tl.maximum(n0 + BLOCK_N - 1 - low, 0) + BLOCK_M - 1) // BLOCK_M * BLOCK_M
    outer = (
        inner
        + tl.maximum(tl.minimum((n0 // SIZE + LOCAL) * SIZE, end) - inner, 0) // BLOCK_M * BLOCK_M
    )
    for h in range(g * GROUPS, g * GROUPS + GROUPS):
        q_h = q_ptr + b * sqb + h * sqh
        grad_h = grad_ptr + b * sgb + h * sgh
        lse_h = lse_ptr + (b * HKV * GROUPS + h) * tq
        delta_h = delta_ptr + (b * HKV * GROUPS + h) * tq
        dk, dv = _dkv_steps(
            dk, dv, k, v, k_pos, k_ok, q_h, grad_h, lse_h, delta_h, sqt, sgt, q_start, low, tl.minimum(inner, high),
            end, scale * 1.4426950408889634, d, False, True, D, SIZE, LOCAL, BLOCK_M, BLOCK_D,
        )  # fmt: skip
        dk, dv = _dkv_steps(
            dk, dv, k, v, k_pos, k_ok, q_h, grad_h, lse_h, delta_h, sqt, sgt, q_start, inner, outer,
            end, scale * 1.4426950408889634, d, False, False, D, SIZE, LOCAL, BLOCK_M, BLOCK_D,
        )  # fmt: skip
        dk, dv = _dkv_steps(
            dk, dv, k, v, k_pos, k_ok, q_h, grad_h, lse_h, delta_h, sqt, sgt, q_start, outer, high,
            end, scale * 1.4426950408889634, d, False, True, D, SIZE, LOCAL, BLOCK_M, BLOCK_D,
        )  # fmt: skip
    first = first_strided(g, shift, STEP, SINK, STRIDE)
    if SHARES > 0:
        index = permanent_index(k_pos, first, SIZE, SINK, STRIDE)
        # Only keys that some query has passed have a share; `permanent` is the longest head's count
        # of them.
        passed = k_pos // SIZE <= (end - 1) // SIZE - LOCAL
        shared = is_permanent(k_pos, first, SIZE, SINK, STRIDE) & passed
        for share in range(SHARES):
            slot = (tl.program_id(1).to(tl.int64) * SHARES + share) * permanent + index
            rows = slot[:, None] * BLOCK_D + d[None, :]
            dk += tl.load(dk_part + rows, mask=shared[:, None], other=0.0)
            dv += tl.load(dv_part + rows, mask=shared[:, None], other=0.0)
    rows = b * sdb + g * sdh + (k_pos + start).to(tl.int64)[:, None] * sdt + d[None, :]
    ok = k_ok[:, None] & (d[None, :] < D)
    tl.store(dk_ptr + rows, (dk * scale).to(dk_ptr.dtype.element_ty), mask=ok)
    tl.store(dv_ptr + rows, dv.to(dv_ptr.dtype.element_ty), mask=ok)


_CONFIGS = [
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2},
    {"BLOCK_M": 64, "BLOCK_N": 128, "num_warps": 8, "num_stages": 2},
    {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2},
    {"BLOCK_M": 32, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2},
    {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 1},
]


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    view: HeadView,
    scale: float,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of q, k and v.

    Args:
        grad: [B, Hq, Tq, D] of the output.
        q: [B, Hq, Tq, D].
        k: [B, Hkv, Tk, D], all positions.
        v: [B, Hkv, Tk, D].
        out: The forward pass's output.
        lse: The forward pass's logsumexp [B, Hq, Tq], float32.
        view: Which blocks each KV head sees.
        scale: Factor of the scores.
        starts: [B] first real slot of each row, or None for 0.

    Returns:
        dQ, dK, dV in the inputs' dtypes; zero at padding.
    """
    b, hq, tq, dim = q.shape
    hkv, tk = k.shape[1:3]
    block_d = max(16, triton.next_power_of_2(dim))
    make = torch.empty if starts is None else torch.zeros
    dq = make(q.shape, dtype=q.dtype, device=q.device)
    # The kernels write no padding, and only rows with a start have some.
    dk = make(k.shape, dtype=k.dtype, device=k.device)
    dv = make(v.shape, dtype=v.dtype, device=v.device)
    delta = torch.empty((b, hq, tq), dtype=torch.float32, device=q.device)
    # The kernels take its rows to lie one after another.
    lse = lse.contiguous()
    shape = {"D": dim, "BLOCK_D": block_d}
    launch(
        _delta_kernel,
        [{"BLOCK_M": 64, "num_warps": 4}],
        lambda meta: (triton.cdiv(tq, meta["BLOCK_M"]), b * hq),
        (grad, out, delta),
        (*strides_of(grad, out), tq),
        {"HQ": hq} | shape,
    )
    common = (
        pattern_args(view, scale) | shape | {"GROUPS": hq // hkv, "HAS_STARTS": starts is not None}
    )
    inputs = [q, k, v, grad]
    strides = strides_of(*inputs)
    launch(
        _dq_kernel,
        _CONFIGS,
        lambda meta: (triton.cdiv(tq, meta["BLOCK_M"]) + 1, b * hq),
        (*inputs, lse, delta, starts, dq),
        (*strides, *dq.stride()[:3], tk - tq, tq),
        common | {"HQ": hq},
    )
    # A left-padded row is shorter, so slot counts from 0 bound every row.
    last = (tk - 1) // view.pattern.block_size
    permanent = max(view.far_count(last, head) for head in range(hkv)) * view.pattern.block_size
    shares = 0
    if permanent:
        # Enough programs to fill a GPU, each with enough queries to be worth its start.
        fill = 512 // (b * hkv * triton.cdiv(permanent, 64))
        shares = max(1, min(16, fill, triton.cdiv(tq, 512)))
    parts = torch.empty(
        (2, b * hkv, shares, permanent, block_d), dtype=torch.float32, device=q.device
    )
    common |= {"HKV": hkv, "SHARES": shares}
    if shares:
        launch(
            _far_dkv_kernel,
            _CONFIGS,
            lambda meta: (triton.cdiv(permanent, meta["BLOCK_N"]), shares, b * hkv),
            (*inputs, lse, delta, starts, parts[0], parts[1]),
            (*strides, tk - tq, tq, permanent),
            common,
        )
    launch(
        _dkv_kernel,
        _CONFIGS,
        lambda meta: (triton.cdiv(tk, meta["BLOCK_N"]), b * hkv),
        (*inputs, lse, delta, starts, parts[0], parts[1], dk, dv),
        (*strides, *dk.stride()[:3], tk - tq, tq, permanent),
        common,
    )
    return dq, dk, dv
