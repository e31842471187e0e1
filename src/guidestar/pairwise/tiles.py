"""The same statistics without the matrix: its tiles are made, used and dropped, and made again for the gradient.

Memory is that of the features, their gradients and one tile; the order of the sums is fixed, so results do not vary
from run to run. Rows and columns take their statistics from the same tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guidestar.pairwise import kernels
from guidestar.pairwise.mask import HIDDEN, PairMask

#: Entries of a tile: 4 MB of float32, which stays in a CPU's cache and fills a GPU.
TILE = 1 << 20

OneSide = tuple[Tensor, Tensor, Tensor]


def tile_rows(columns: int) -> int:
    """Rows of a tile of a matrix with so many columns.

    Example:
        >>> tile_rows(8192)
        128
    """
    return max(16, TILE // max(1, columns))


@torch.compiler.disable
def tiled_statistics(
    x: Tensor,
    y: Tensor,
    reference_x: Tensor | None,
    reference_y: Tensor | None,
    row_scale: Tensor,
    column_scale: Tensor | None,
    mask: PairMask,
) -> tuple[OneSide, OneSide | None, Tensor | None]:
    """Log-sums, expectations and counts of the rows `[R]`, and of the columns `[C]` if they have scales.

    The third is the similarity of the rows' own pairs `[R]`, if they have any: taken here, its gradient needs no memory.

    Args:
        x, y, reference_x, reference_y: features as in `guidestar.pairwise.statistics.Features`.
        row_scale, column_scale: inverse temperatures `[R]`, `[C]`.
        mask: which entries count.

    Example:
        >>> x, ones = torch.eye(2), torch.ones(2)
        >>> tiled_statistics(x, x, None, None, ones, None, PairMask(2, 2))[0][0]
        tensor([1.3133, 1.3133])
    """
    tiles = kernels.PairKernels if kernels.usable(x, y) else _Tiles
    made = tiles.apply(x, y, reference_x, reference_y, row_scale, column_scale, mask)
    rows = (made[0], made[1], made[2])
    own = made[-1] if tiles is _Tiles and _first_own(mask) is not None else None
    return rows, None if column_scale is None else (made[3], made[4], made[5]), own


def _first_own(mask: PairMask) -> int | None:
    """The column of row 0's own pair, if every row has its own pair among the columns."""
    return mask.own if mask.own is not None and mask.own + mask.rows <= mask.columns else None


class _Tiles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        reference_x: Tensor | None,
        reference_y: Tensor | None,
        row_scale: Tensor,
        column_scale: Tensor | None,
        mask: PairMask,
    ) -> tuple[Tensor, ...]:
        rows = _Online(mask.rows, x)
        columns = None if column_scale is None else _Online(mask.columns, x)
        first = _first_own(mask)
        own = None if first is None else x.new_empty(mask.rows)
        step = tile_rows(mask.columns)
        for start in range(0, mask.rows, step):
            stop = min(start + step, mask.rows)
            tile = similarity_tile(x, y, reference_x, reference_y, start, stop)
            if own is not None and first is not None:
                own[start:stop] = tile.diagonal(start + first)
            counted = mask.tile(start, stop, x.device)
            rows.add(tile * row_scale[start:stop].unsqueeze(1), counted, 1, slice(start, stop))
            if columns is not None and column_scale is not None:
                columns.add(tile.mul_(column_scale), counted, 0, slice(None))
        made = rows.result()
        if columns is not None:
            made += columns.result()
        ctx.mask = mask
        ctx.save_for_backward(x, y, reference_x, reference_y, row_scale, column_scale, *made)
        ctx.mark_non_differentiable(*(made[i] for i in range(len(made)) if i % 3))
        return made if own is None else (*made, own)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, reference_x, reference_y, row_scale, column_scale, *made = ctx.saved_tensors
        need_x, need_y, *_ = ctx.needs_input_grad
        first = _first_own(ctx.mask)
        grad_x = torch.zeros_like(x) if need_x else None
        grad_y = torch.zeros_like(y) if need_y else None
        step = tile_rows(ctx.mask.columns) if need_x or need_y else 0
        for start in range(0, ctx.mask.rows, step) if step else ():
            stop = min(start + step, ctx.mask.rows)
            tile = similarity_tile(x, y, reference_x, reference_y, start, stop)
            counted = ctx.mask.tile(start, stop, x.device)
            a = row_scale[start:stop].unsqueeze(1)
            slope = torch.addcmul(-made[0][start:stop].unsqueeze(1), tile, a).exp_()
            slope.mul_(a * gradients[0][start:stop].unsqueeze(1))
            if column_scale is not None:
                weights = tile.mul_(column_scale).sub_(made[3]).exp_()
                slope.addcmul_(weights, column_scale * gradients[3])
            if counted is not None:
                slope.masked_fill_(~counted, 0.0)
            if first is not None:
                slope.diagonal(start + first).add_(gradients[-1][start:stop])
            if grad_x is not None:
                torch.mm(slope, y, out=grad_x[start:stop])
            if grad_y is not None:
                grad_y.addmm_(slope.T, x[start:stop])
        # d log_sum / d a = the mean of L under the weights = expected / a
        grad_row = gradients[0] * made[1] / row_scale
        grad_column = None if column_scale is None else gradients[3] * made[4] / column_scale
        return grad_x, grad_y, None, None, grad_row, grad_column, None


def similarity_tile(
    x: Tensor, y: Tensor, reference_x: Tensor | None, reference_y: Tensor | None, start: int, stop: int
) -> Tensor:
    """The rows `start` to `stop` of the matrix of similarities, less the reference's.

    Example:
        >>> similarity_tile(torch.eye(2), torch.eye(2), None, None, 1, 2)
        tensor([[0., 1.]])
    """
    tile = x[start:stop] @ y.T
    if reference_x is not None and reference_y is not None:
        tile.addmm_(reference_x[start:stop], reference_y.T, alpha=-1)
    return tile


class _Online:
    """Sums of exp, and of exp times exponent, with exponents relative to the largest so far; and counts."""

    def __init__(self, size: int, like: Tensor) -> None:
        self.top = like.new_full((size,), HIDDEN)
        self.total, self.weighted, self.count = like.new_zeros(3, size).unbind()

    def add(self, scaled: Tensor, counted: Tensor | None, dim: int, where: slice) -> None:
        """Add entries whose row (`dim` 1) or column (`dim` 0) numbers are `where`; `scaled` is overwritten."""
        if counted is not None:
            scaled.masked_fill_(~counted, HIDDEN)
            self.count[where] += counted.sum(dim)
        top = torch.maximum(self.top[where], scaled.amax(dim))
        # Beyond the bound exp is 0 in every dtype, and where nothing counted so far no product overflows.
        shift = (self.top[where] - top).clamp(min=-1e4)
        shrink = torch.exp(shift)
        scaled.sub_(top.unsqueeze(dim))
        weights = torch.exp(scaled)
        weighted = (self.weighted[where] + shift * self.total[where]) * shrink
        self.total[where] = self.total[where] * shrink + weights.sum(dim)
        self.weighted[where] = weighted + weights.mul_(scaled).sum(dim)
        self.top[where] = top

    def result(self) -> OneSide:
        """Log-sums, expectations, counts; a row without an entry that counts has a log-sum of about `HIDDEN`."""
        return self.top + torch.log(self.total), self.top + self.weighted / self.total, self.count
