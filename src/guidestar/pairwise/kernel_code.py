"""The device code of `guidestar.pairwise.kernels`, in triton's subset of Python.

A program owns a block of rows and a run of columns, and makes the tiles of their matrix one after the other in registers.
The columns' direction is the same code with the two sets of features exchanged. Nothing is added atomically.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    tl: Any = None
    constexpr = Any

    def jit(function: Callable[..., Any]) -> Any: ...

else:
    try:
        import triton.language as tl
        from triton import jit
        from triton.language import constexpr
    except ImportError:  # nothing is launched then, but documentation and doctests import every module
        tl = constexpr = None

        def jit(function):
            return function


@jit
def _product(
    tile,
    x,
    y,
    rows,
    columns,
    row_count,
    column_count,
    width,
    NEGATIVE: constexpr,
    BLOCK_D: constexpr,
    PRECISION: constexpr,
):
    """`tile` + x y^T, or - x y^T, of the given rows and columns."""
    x_start = x + rows.to(tl.int64)[:, None] * width
    y_start = y + columns.to(tl.int64)[None, :] * width
    for start in range(0, width, BLOCK_D):
        k = start + tl.arange(0, BLOCK_D)
        a = tl.load(x_start + k[None, :], mask=(rows < row_count)[:, None] & (k < width)[None, :], other=0.0)
        b = tl.load(y_start + k[:, None], mask=(columns < column_count)[None, :] & (k < width)[:, None], other=0.0)
        if NEGATIVE:
            a = -a
        tile = tl.dot(a, b, tile, input_precision=PRECISION)
    return tile


@jit
def _similarity(
    x,
    y,
    reference_x,
    reference_y,
    rows,
    columns,
    row_count,
    column_count,
    width,
    reference_width,
    BLOCK_R: constexpr,
    BLOCK_C: constexpr,
    BLOCK_D: constexpr,
    PRECISION: constexpr,
):
    """A tile of x y^T - r t^T."""
    tile = tl.zeros([BLOCK_R, BLOCK_C], dtype=tl.float32)
    tile = _product(tile, x, y, rows, columns, row_count, column_count, width, False, BLOCK_D, PRECISION)
    if reference_x is not None:
        tile = _product(
            tile,
            reference_x,
            reference_y,
            rows,
            columns,
            row_count,
            column_count,
            reference_width,
            True,
            BLOCK_D,
            PRECISION,
        )
    return tile


@jit
def _counted(
    row_groups,
    column_groups,
    row_valid,
    column_valid,
    rows,
    columns,
    row_count,
    column_count,
    own,
    HAS_OWN: constexpr,
    HIDE_OWN: constexpr,
):
    """Which entries of a tile count, as `guidestar.pairwise.mask.PairMask.tile`; none beyond the matrix."""
    row_inside = rows < row_count
    column_inside = columns < column_count
    counted = row_inside[:, None] & column_inside[None, :]
    if row_valid is not None:
        counted = counted & (tl.load(row_valid + rows, mask=row_inside, other=0) != 0)[:, None]
    if column_valid is not None:
        counted = counted & (tl.load(column_valid + columns, mask=column_inside, other=0) != 0)[None, :]
    if row_groups is not None:
        one = tl.load(row_groups + rows, mask=row_inside, other=0)
        other = tl.load(column_groups + columns, mask=column_inside, other=0)
        differ = one[:, None] != other[None, :]
        if HAS_OWN and not HIDE_OWN:
            differ = differ | ((rows + own)[:, None] == columns[None, :])
        counted = counted & differ
    if HAS_OWN and HIDE_OWN:
        counted = counted & ((rows + own)[:, None] != columns[None, :])
    return counted


@jit
def statistics_kernel(
    x,
    y,
    reference_x,
    reference_y,
    row_groups,
    column_groups,
    row_valid,
    column_valid,
    scale,
    top_out,
    total_out,
    weighted_out,
    count_out,
    row_count,
    column_count,
    width,
    reference_width,
    own,
    run,
    HIDDEN: constexpr,
    HAS_OWN: constexpr,
    HIDE_OWN: constexpr,
    BLOCK_R: constexpr,
    BLOCK_C: constexpr,
    BLOCK_D: constexpr,
    PRECISION: constexpr,
):
    """Of each row over `run` columns: the largest exponent, the sums of exp and of exp times exponent relative to it,
    and how many entries count."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    a = tl.load(scale + rows, mask=rows < row_count, other=0.0)
    top = tl.full([BLOCK_R], HIDDEN, dtype=tl.float32)
    total = tl.zeros([BLOCK_R], dtype=tl.float32)
    weighted = tl.zeros([BLOCK_R], dtype=tl.float32)
    count = tl.zeros([BLOCK_R], dtype=tl.float32)
    first = tl.program_id(1) * run
    for start in range(first, tl.minimum(first + run, column_count), BLOCK_C):
        columns = start + tl.arange(0, BLOCK_C)
        tile = _similarity(
            x, y, reference_x, reference_y, rows, columns, row_count, column_count, width, reference_width,
            BLOCK_R, BLOCK_C, BLOCK_D, PRECISION)  # fmt: skip
        counted = _counted(
            row_groups, column_groups, row_valid, column_valid, rows, columns, row_count, column_count, own,
            HAS_OWN, HIDE_OWN)  # fmt: skip
        exponents = tl.where(counted, tile * a[:, None], HIDDEN)
        highest = tl.maximum(top, tl.max(exponents, 1))
        shift = tl.maximum(top - highest, -1e4)  # beyond it exp is 0, and no product overflows
        shrink = tl.exp(shift)
        exponents = exponents - highest[:, None]
        weights = tl.exp(exponents)
        weighted = (weighted + shift * total) * shrink + tl.sum(weights * exponents, 1)
        total = total * shrink + tl.sum(weights, 1)
        count += tl.sum(counted.to(tl.float32), 1)
        top = highest
    out = tl.program_id(1) * row_count + rows
    tl.store(top_out + out, top, mask=rows < row_count)
    tl.store(total_out + out, total, mask=rows < row_count)
    tl.store(weighted_out + out, weighted, mask=rows < row_count)
    tl.store(count_out + out, count, mask=rows < row_count)


@jit
def _weighted(scale, log_sum, gradient, numbers, inside):
    """Scales, log-sums, and scales times the log-sums' gradients of the given rows or columns."""
    a = tl.load(scale + numbers, mask=inside, other=0.0)
    b = tl.load(log_sum + numbers, mask=inside, other=0.0)
    return a, b, a * tl.load(gradient + numbers, mask=inside, other=0.0)


@jit
def gradient_kernel(
    x,
    y,
    reference_x,
    reference_y,
    row_groups,
    column_groups,
    row_valid,
    column_valid,
    row_scale,
    row_log_sum,
    row_gradient,
    column_scale,
    column_log_sum,
    column_gradient,
    out,
    row_count,
    column_count,
    width,
    reference_width,
    own,
    run,
    HAS_OWN: constexpr,
    HIDE_OWN: constexpr,
    BLOCK_R: constexpr,
    BLOCK_C: constexpr,
    BLOCK_D: constexpr,
    BLOCK_OUT: constexpr,
    PRECISION: constexpr,
):
    """Add to each row of `out`, which starts at 0, the sum of slope_ij y_j over `run` columns."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside = rows < row_count
    target = out + (tl.program_id(1).to(tl.int64) * row_count + rows)[:, None] * width
    first = tl.program_id(1) * run
    for start in range(first, tl.minimum(first + run, column_count), BLOCK_C):
        columns = start + tl.arange(0, BLOCK_C)
        there = columns < column_count
        tile = _similarity(
            x, y, reference_x, reference_y, rows, columns, row_count, column_count, width, reference_width,
            BLOCK_R, BLOCK_C, BLOCK_D, PRECISION)  # fmt: skip
        counted = _counted(
            row_groups, column_groups, row_valid, column_valid, rows, columns, row_count, column_count, own,
            HAS_OWN, HIDE_OWN)  # fmt: skip
        slope = tl.zeros([BLOCK_R, BLOCK_C], dtype=tl.float32)
        if row_scale is not None:
            a, log_sum, factor = _weighted(row_scale, row_log_sum, row_gradient, rows, inside)
            slope += tl.exp(tile * a[:, None] - log_sum[:, None]) * factor[:, None]
        if column_scale is not None:
            b, log_sum_b, factor_b = _weighted(column_scale, column_log_sum, column_gradient, columns, there)
            slope += tl.exp(tile * b[None, :] - log_sum_b[None, :]) * factor_b[None, :]
        slope = tl.where(counted, slope, 0.0)
        y_start = y + columns.to(tl.int64)[:, None] * width
        # One stage: what this loop reads back must not be fetched ahead of what it writes.
        for k_start in tl.range(0, width, BLOCK_OUT, num_stages=1):
            k = k_start + tl.arange(0, BLOCK_OUT)
            other = tl.load(y_start + k[None, :], mask=there[:, None] & (k < width)[None, :], other=0.0)
            shown = inside[:, None] & (k < width)[None, :]
            sums = tl.load(target + k[None, :], mask=shown, other=0.0)
            tl.store(target + k[None, :], tl.dot(slope, other, sums, input_precision=PRECISION), mask=shown)
        tl.debug_barrier()  # the next tile's sums may be read by other threads than those that wrote them
