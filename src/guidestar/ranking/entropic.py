r"""$\log \frac{1}{\sum_j w_j} \sum_j w_j e^{f(s_j - s_i)/\tau}$ for surrogates whose slope is known: few passes, no graph.

An exponential a pair can't be saved. What can is the rest: a tile of pairs at a time is made in a buffer that stays in
the cache, used and dropped, and made again for the gradient from the log-sums, so memory is that of the scores. The
largest exponent of an anchor is that of its largest other, since f does not decrease.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from guidestar.ranking.closed import Polynomial

#: Pairs of a tile, on a CPU (whose cache holds two) and elsewhere (where it must be worth its kernels).
TILE = (1 << 18, 1 << 23)


def log_mean_exp(anchors: Tensor, others: Tensor, form: Polynomial, tau: float, weights: Tensor | None) -> Tensor:
    """The log-means of the anchors, `[L, P]`; 0 where the weights sum to 0.

    Args:
        anchors: $s_i$, `[L, P]`.
        others: $s_j$, `[L, N]`, N at least 1.
        form: f, a hinge or a squared hinge (`cut`).
        tau: temperature, positive.
        weights: $w_j$ `[L, N]`, 0 or more, outside the graph; None: 1.

    Example:
        >>> log_mean_exp(torch.zeros(1, 1), torch.tensor([[999.0, 999.0]]), Polynomial(1, 1.0, cut=True), 1.0, None)
        tensor([[1000.]])
    """
    if weights is None:
        share = torch.full_like(others, 1.0 / others.shape[-1]).detach()
        return _LogMeanExp.apply(anchors, others, share, form, tau)  # pyright: ignore[reportReturnType]
    weights = weights.detach().to(others.dtype)
    total = weights.sum(-1, keepdim=True)
    some = total > 0
    share = torch.where(some, weights / torch.where(some, total, 1.0), 1.0 / others.shape[-1])
    # One that does not count must not overflow: it takes the place of the largest of those that do.
    largest = torch.where(share > 0, others.detach(), -float("inf")).amax(-1, keepdim=True)
    made = _LogMeanExp.apply(anchors, torch.where(share > 0, others, largest), share, form, tau)
    return torch.where(some, made, 0.0)  # pyright: ignore[reportArgumentType, reportCallIssue]


class _LogMeanExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchors: Tensor, others: Tensor, share: Tensor, form: Polynomial, tau: float) -> Tensor:
        scale = tau ** (-1.0 / form.power)  # f / tau is the same power of what is scaled
        tiles = _Tiles(anchors * scale, (others + form.margin) * scale, form.power)
        total = torch.empty_like(anchors)
        for rows, own in tiles.places():
            total[rows, own] = _sum_over_others(tiles.make(rows, own)[1], share[rows])
        ctx.power, ctx.scale = form.power, scale
        ctx.save_for_backward(tiles.anchors, tiles.others, share, total)
        return tiles.top + total.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        anchors, others, share, total = ctx.saved_tensors
        slope = gradients[0] * (ctx.power * ctx.scale) / total
        grad_anchors, grad_others = torch.empty_like(anchors), torch.zeros_like(others)
        tiles = _Tiles(anchors, others, ctx.power)
        for rows, own in tiles.places():
            over, weight = tiles.make(rows, own)
            weight.mul_(over if ctx.power == 2 else over.sign_())  # times the slope of f, but for the factor
            grad_anchors[rows, own] = _sum_over_others(weight, share[rows])
            grad_others[rows] += _sum_over_anchors(weight, slope[rows, own])
        return -slope * grad_anchors, share * grad_others, None, None, None


class _Tiles:
    """The pairs of many labels as a whole, or of some anchors of one label, at a time, in the same two buffers."""

    def __init__(self, anchors: Tensor, others: Tensor, power: int) -> None:
        self.anchors, self.others, self.power = anchors, others, power
        # By the same operations as in `make`: the largest exponent is then 0 exactly, however large its parts are.
        self.top = torch.relu(others.amax(-1, keepdim=True) - anchors)
        self.top = self.top if power == 1 else self.top * self.top
        (labels, count), columns = anchors.shape, others.shape[-1]
        size = TILE[anchors.device.type != "cpu"]
        self.height = min(labels, max(1, size // (count * columns)))
        self.width = min(count, max(1, size // columns))
        self.buffers = anchors.new_empty(2, self.height * self.width * columns)

    def places(self) -> list[tuple[slice, slice]]:
        """The labels and the anchors of each tile."""
        labels, count = self.anchors.shape
        return [
            (slice(label, min(label + self.height, labels)), slice(start, min(start + self.width, count)))
            for label in range(0, labels, self.height)
            for start in range(0, count, self.width)
        ]

    def make(self, rows: slice, own: slice) -> tuple[Tensor, Tensor]:
        """What of the pairs exceeds the margin, and exp(f / tau) over that of the largest, `[labels, anchors, N]`."""
        shape = (rows.stop - rows.start, own.stop - own.start, self.others.shape[-1])
        over, weight = (buffer[: math.prod(shape)].view(shape) for buffer in self.buffers)
        torch.sub(self.others[rows].unsqueeze(1), self.anchors[rows, own].unsqueeze(2), out=over).clamp_(min=0.0)
        top = self.top[rows, own].unsqueeze(2)
        if self.power == 1:
            torch.sub(over, top, out=weight)
        else:
            torch.mul(over, over, out=weight).sub_(top)
        return over, weight.exp_()


# A product of matrices is fastest on a CPU; elsewhere it may be set to fewer bits than the sum that is meant here, as
# autocast does everywhere.
def _sum_over_others(weight: Tensor, share: Tensor) -> Tensor:
    if weight.device.type != "cpu":
        return (weight * share.unsqueeze(1)).sum(2)
    with torch.autocast("cpu", enabled=False):
        return torch.bmm(weight, share.unsqueeze(2)).squeeze(2)


def _sum_over_anchors(weight: Tensor, slope: Tensor) -> Tensor:
    if weight.device.type != "cpu":
        return (weight * slope.unsqueeze(2)).sum(1)
    with torch.autocast("cpu", enabled=False):
        return torch.bmm(slope.unsqueeze(1), weight).squeeze(1)
