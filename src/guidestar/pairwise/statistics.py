"""Log-sum-exp statistics of the rows and columns of a matrix of similarities, from the matrix or from its tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidestar.pairwise.mask import HIDDEN, PairMask
from guidestar.pairwise.tiles import tiled_statistics


@dataclass(frozen=True)
class Features:
    r"""Two sets of features and, of a reference, two more: $L_{ij} = \langle x_i, y_j \rangle - \langle r_i, t_j
    \rangle$.

    That is the plain inner product of the concatenations $[x; -r]$ and $[y; t]$.

    Args:
        x, y: `[R, d]` and `[C, d]`, the same floating-point dtype.
        reference_x, reference_y: `[R, d']` and `[C, d']` of that dtype, or None; they get no gradient.
    """

    x: Tensor
    y: Tensor
    reference_x: Tensor | None = None
    reference_y: Tensor | None = None

    def matrix(self, scale: Tensor | None = None) -> Tensor:
        """$L$, `[R, C]`, times `scale` (a scalar, or one number a row, `[R, 1]`)."""
        x = self.x if scale is None else self.x * scale
        if self.reference_x is None or self.reference_y is None:
            return x @ self.y.T
        r = self.reference_x if scale is None else self.reference_x * scale
        if r.requires_grad:  # by the scale
            return x @ self.y.T - r @ self.reference_y.T
        return torch.addmm(r @ self.reference_y.T, x, self.y.T, beta=-1)

    def own(self, y: Tensor, reference_y: Tensor | None) -> Tensor:
        """The similarity of each row with its own entry of `y` `[R, d]` (and the reference's), `[R]`."""
        own = (self.x * y).sum(-1)
        if self.reference_x is not None and reference_y is not None:
            own = own - (self.reference_x * reference_y).sum(-1)
        return own


@dataclass(frozen=True)
class Side:
    """The statistics of one direction.

    Attributes:
        log_sum: $\\log \\sum_j e^{a_i L_{ij}}$ over what counts, `[n]`; differentiable by features and scales.
        expected: the mean of $a_i L_{ij}$ under the weights $e^{a_i L_{ij}}$, `[n]`, detached.
        count: how many entries count: a number, or float `[n]`.
        own: of rows, the similarity of their own pairs `[n]`, where it came with the tiles.
    """

    log_sum: Tensor
    expected: Tensor
    count: float | Tensor
    own: Tensor | None = None


def pair_statistics(
    features: Features, row_scale: Tensor, column_scale: Tensor | None, mask: PairMask, *, tiled: bool = False
) -> tuple[Side, Side | None]:
    r"""The statistics of the rows, and of the columns if they have a scale.

    Args:
        features: the features.
        row_scale: $a$, the inverse temperatures, a scalar or `[R]`.
        column_scale: the same of the columns, a scalar or `[C]`; None: no statistics of the columns. The same object as
            `row_scale` when both directions share one temperature: then the matrix is made once.
        mask: which entries count.
        tiled: memory of the order of (R + C) d instead of R C: the matrix is made tile by tile, once forward and once
            backward.

    Example:
        >>> x = torch.eye(2)
        >>> rows, _ = pair_statistics(Features(x, x), torch.tensor(1.0), None, PairMask(2, 2))
        >>> rows.log_sum
        tensor([1.3133, 1.3133])
    """
    if tiled:
        return _tiled(features, row_scale, column_scale, mask)
    counted = mask.tile(0, mask.rows, features.x.device)
    hidden = None if counted is None else ~counted
    shared = row_scale is column_scale and row_scale.ndim == 0
    if shared or column_scale is None:
        scaled = features.matrix(row_scale if row_scale.ndim == 0 else row_scale.unsqueeze(1))
        columns = scaled
    else:
        matrix = features.matrix()
        scaled = matrix * (row_scale if row_scale.ndim == 0 else row_scale.unsqueeze(1))
        columns = matrix * column_scale
    row_side = _side(scaled, hidden, 1, mask.columns)
    if column_scale is None:
        return row_side, None
    return row_side, _side(columns, hidden, 0, mask.rows)


def _tiled(
    features: Features, row_scale: Tensor, column_scale: Tensor | None, mask: PairMask
) -> tuple[Side, Side | None]:
    rows = row_scale.expand(mask.rows)
    columns = None if column_scale is None else column_scale.expand(mask.columns)
    four = (features.x, features.y, features.reference_x, features.reference_y)
    one, other, own = tiled_statistics(*four, rows, columns, mask)  # pyright: ignore[reportCallIssue]
    row_side = Side(one[0], one[1], float(mask.columns) if mask.trivial else one[2], own)
    if other is None:
        return row_side, None
    return row_side, Side(other[0], other[1], float(mask.rows) if mask.trivial else other[2])


def _side(scaled: Tensor, hidden: Tensor | None, dim: int, size: int) -> Side:
    log_sum, expected = _LogSumExp.apply(scaled, hidden, dim)  # pyright: ignore[reportGeneralTypeIssues]
    count = float(size) if hidden is None else (size - hidden.sum(dim)).to(scaled.dtype)
    return Side(log_sum, expected, count)


class _LogSumExp(torch.autograd.Function):
    """`torch.logsumexp` that keeps the softmax, which the expectation needs as well, and so computes each exp once."""

    @staticmethod
    def forward(ctx: Any, scaled: Tensor, hidden: Tensor | None, dim: int) -> tuple[Tensor, Tensor]:
        if scaled.numel() == 0:
            empty = scaled.sum(dim)
            ctx.dim = dim
            ctx.save_for_backward(torch.zeros_like(scaled))
            return empty + HIDDEN, torch.zeros_like(empty)
        shown = scaled if hidden is None else scaled.masked_fill(hidden, HIDDEN)
        top = shown.amax(dim, keepdim=True)
        weights = torch.exp(shown - top)
        total = weights.sum(dim, keepdim=True)
        weights = weights / total if torch.compiler.is_compiling() else weights.div_(total)
        log_sum = (total.log() + top).squeeze(dim)
        expected = (weights * shown).sum(dim)
        ctx.dim = dim
        ctx.save_for_backward(weights)
        ctx.mark_non_differentiable(expected)
        return log_sum, expected

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weights,) = ctx.saved_tensors
        return weights * gradients[0].unsqueeze(ctx.dim), None, None
