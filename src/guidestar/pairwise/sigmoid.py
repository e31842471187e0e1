"""Sums of logistic losses over the rows of a matrix of similarities, from the matrix or from its tiles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from guidestar.pairwise.mask import PairMask
from guidestar.pairwise.statistics import Features
from guidestar.pairwise.tiles import tile_rows


def sigmoid_sums(
    features: Features, scale: Tensor, shift: Tensor, mask: PairMask, *, matching: bool, tiled: bool
) -> Tensor:
    r"""$\sum_j \log(1 + e^{-z_{ij}(a s_{ij} + b)})$ of each row, `[R]`.

    Args:
        features: x and y.
        scale, shift: scalars a and b.
        mask: which entries count; row i's own pair is a match.
        matching: entries of the same group match (they count); otherwise `mask` decides.
        tiled: the matrix is made tile by tile, once forward and once backward.

    Example:
        >>> one = torch.eye(2)
        >>> sigmoid_sums(Features(one, one), torch.tensor(1.0), torch.tensor(0.0), PairMask(2, 2), matching=False, tiled=False)
        tensor([1.0064, 1.0064])
    """
    if tiled:
        return _tiled_sums(features.x, features.y, scale, shift, mask, matching)  # pyright: ignore[reportCallIssue]
    sign, counted = _signs(mask, 0, mask.rows, features.x, matching)
    losses = functional.softplus(sign * torch.addcmul(shift, features.matrix(), scale))
    return (losses if counted is None else losses * counted).sum(1)


@torch.compiler.disable
def _tiled_sums(x: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mask: PairMask, matching: bool) -> Tensor:
    return _SigmoidTiles.apply(x, y, scale, shift, mask, matching)  # pyright: ignore[reportReturnType]


def _signs(mask: PairMask, start: int, stop: int, like: Tensor, matching: bool) -> tuple[Tensor, Tensor | None]:
    """-z of the rows `start` to `stop`, and which of their entries count (None: all)."""
    columns = torch.arange(mask.columns, device=like.device)
    rows = torch.arange(start, stop, device=like.device).unsqueeze(1)
    match = columns == rows + (mask.own or 0)
    if matching and mask.row_groups is not None and mask.column_groups is not None:
        match = match | (mask.row_groups[start:stop].unsqueeze(1) == mask.column_groups)
    groups = (None, None) if matching else (mask.row_groups, mask.column_groups)
    shown = PairMask(mask.rows, mask.columns, mask.own, mask.hide_own, *groups, mask.row_valid, mask.column_valid)
    return 1.0 - 2.0 * match.to(like.dtype), shown.tile(start, stop, like.device)


class _SigmoidTiles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mask: PairMask, matching: bool) -> Tensor:
        sums = x.new_zeros(mask.rows)
        step = tile_rows(mask.columns)
        for start in range(0, mask.rows, step):
            stop = min(start + step, mask.rows)
            sign, counted = _signs(mask, start, stop, x, matching)
            losses = functional.softplus(sign.mul_((x[start:stop] @ y.T).mul_(scale).add_(shift)))
            sums[start:stop] = (losses if counted is None else losses.mul_(counted)).sum(1)
        ctx.mask, ctx.matching = mask, matching
        ctx.save_for_backward(x, y, scale, shift)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, shift = ctx.saved_tensors
        mask: PairMask = ctx.mask
        grad_x, grad_y = torch.zeros_like(x), torch.zeros_like(y)
        grad_scale, grad_shift = torch.zeros_like(scale), torch.zeros_like(shift)
        step = tile_rows(mask.columns)
        for start in range(0, mask.rows, step):
            stop = min(start + step, mask.rows)
            tile = x[start:stop] @ y.T
            sign, counted = _signs(mask, start, stop, x, ctx.matching)
            slope = torch.sigmoid(sign * (tile * scale + shift)).mul_(sign)
            slope.mul_(gradients[0][start:stop].unsqueeze(1))
            if counted is not None:
                slope.mul_(counted)
            grad_shift += slope.sum()
            grad_scale += tile.mul_(slope).sum()
            grad_x[start:stop] = (slope @ y).mul_(scale)
            grad_y.addmm_(slope.T, x[start:stop])
        return grad_x, grad_y.mul_(scale), grad_scale, grad_shift, None, None
