r"""$\log \frac{1}{\sum_j w_j} \sum_j w_j e^{f(s_j - s_i)/\tau}$ for hinges: few passes over the pairs, and no graph.

A tile of pairs at a time is made in buffers that stay in the cache. All that the gradient needs is one number a pair, the
exponential times the slope of f: it is kept where the pairs are few, and made again from the scores where they are many,
so that memory does not grow with the number of pairs. The largest exponent of an anchor is that of its largest other,
since f does not decrease; it is taken out only where the exponentials could overflow. Powers of 2 are made, which is
several times faster than those of e.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from guidestar.ranking.closed import Polynomial
from guidestar.ranking.slopes import places, sum_over_anchors, sum_over_others
from guidestar.state import may_look

#: Pairs of a tile, on a CPU (whose cache holds two) and elsewhere (where it must be worth its kernels).
TILE = (1 << 17, 1 << 23)
#: Up to so many pairs one number a pair is kept for the gradient.
KEEP = (1 << 22, 1 << 23)
#: Sums of as many powers of 2 as memory holds are finite below this exponent.
LARGEST = 64.0
LOG_2 = math.log(2.0)


def log_mean_exp(anchors: Tensor, others: Tensor, form: Polynomial, tau: float, weights: Tensor | None) -> Tensor:
    """The log-means of the anchors, `[L, P]`; 0 where the weights sum to 0.

    Args:
        anchors: $s_i$, `[L, P]`.
        others: $s_j$, `[L, N]`, N at least 1.
        form: f, a hinge or a squared hinge (`cut`).
        tau: temperature, positive.
        weights: $w_j$ `[L, N]`, 0 or more, outside the graph, or which others count, bool; None: all.

    Example:
        >>> log_mean_exp(torch.zeros(1, 1), torch.tensor([[999.0, 999.0]]), Polynomial(1, 1.0, cut=True), 1.0, None)
        tensor([[1000.]])
    """
    if weights is None:
        return _LogMeanExp.apply(anchors, others, None, None, form, tau)  # pyright: ignore[reportReturnType]
    if weights.dtype == torch.bool and may_look(weights):
        pads = (~weights).sum(-1, keepdim=True, dtype=others.dtype)
        # What does not count is below every margin, where its exponential is known and taken out again; of many more
        # than those that count, that would cost the digits of the sum.
        if pads.numel() and 2.0 * float(pads.amax()) <= others.shape[-1]:
            kept = torch.where(weights, others, -float("inf"))
            return _LogMeanExp.apply(anchors, kept, None, pads, form, tau)  # pyright: ignore[reportReturnType]
    weights = weights.detach().to(others.dtype)
    total = weights.sum(-1, keepdim=True)
    some = total > 0
    share = torch.where(some, weights / torch.where(some, total, 1.0), 1.0 / others.shape[-1])
    # One that does not count must not overflow: it takes the place of the largest of those that do.
    largest = torch.where(share > 0, others.detach(), -float("inf")).amax(-1, keepdim=True)
    made = _LogMeanExp.apply(anchors, torch.where(share > 0, others, largest), share, None, form, tau)
    return torch.where(some, made, 0.0)  # pyright: ignore[reportArgumentType, reportCallIssue]


class _LogMeanExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        others: Tensor,
        share: Tensor | None,
        pads: Tensor | None,
        form: Polynomial,
        tau: float,
    ) -> Tensor:
        scale = (tau * LOG_2) ** (-1.0 / form.power)  # f / tau is the same power of what is scaled
        pairs = _Pairs(anchors * scale, (others + form.margin) * scale, share, form.power)
        few = anchors.numel() * others.shape[-1] <= KEEP[anchors.device.type != "cpu"]
        total, *for_gradient = pairs.kept() if few and any(ctx.needs_input_grad) else (pairs.sums(),)
        if pads is not None:
            total = total - (pads if pairs.top is None else pads * torch.exp2(-pairs.top))
        ctx.pairs, ctx.for_gradient = pairs, for_gradient
        ctx.factor = form.power * scale * LOG_2
        ctx.save_for_backward(total)
        count = others.shape[-1] if pads is None else others.shape[-1] - pads
        mean = total / count if share is None else total
        return mean.log() if pairs.top is None else torch.add(mean.log(), pairs.top, alpha=LOG_2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        slope = gradients[0] * ctx.factor / ctx.saved_tensors[0]
        if ctx.for_gradient:
            by_anchors, weight = ctx.for_gradient
            by_others = sum_over_anchors(weight, slope)
        else:
            by_anchors, by_others = ctx.pairs.pulled(slope)
        by_others = by_others if ctx.pairs.share is None else ctx.pairs.share * by_others
        return -slope * by_anchors, by_others, None, None, None, None


class _Pairs:
    """The pairs of scaled anchors and others, whose f / tau is a power of their difference, to the base 2."""

    def __init__(self, anchors: Tensor, others: Tensor, share: Tensor | None, power: int) -> None:
        self.anchors, self.others, self.share, self.power = anchors, others, share, power
        # By the same operations as in `make`: the largest exponent is then 0 exactly, however large its parts are.
        top = torch.relu(others.amax(-1, keepdim=True) - anchors)
        top = top if power == 1 else top * top
        self.top = None if may_look(top) and top.numel() and float(top.amax()) < LARGEST else top

    def make(self, rows: slice, own: slice, buffers: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """What of a tile's pairs exceeds the margin, and 2 to its power over that of the largest."""
        shape = (rows.stop - rows.start, own.stop - own.start, self.others.shape[-1])
        over, weight = (buffer[: math.prod(shape)].view(shape) for buffer in buffers)
        torch.sub(self.others[rows].unsqueeze(1), self.anchors[rows, own].unsqueeze(2), out=over).clamp_(min=0.0)
        base = over if self.power == 1 else torch.mul(over, over, out=weight)
        if self.top is not None:
            base = torch.sub(base, self.top[rows, own].unsqueeze(2), out=weight)
        return over, torch.exp2(base, out=weight)

    def sums(self) -> Tensor:
        """The (weighted) sums of the exponentials, `[L, P]`."""
        total = torch.empty_like(self.anchors)
        for rows, own, _, weight in self._tiles():
            total[rows, own] = self._sum(weight, rows)
        return total

    def kept(self) -> tuple[Tensor, Tensor, Tensor]:
        """`sums`, those of the exponentials times the slopes, and these products, `[L, P, N]`, not weighted."""
        total, by_anchors = torch.empty_like(self.anchors), torch.empty_like(self.anchors)
        kept = self.anchors.new_empty(*self.anchors.shape, self.others.shape[-1])
        for rows, own, over, weight in self._tiles(kept):
            total[rows, own] = self._sum(weight, rows)
            weight.mul_(over if self.power == 2 else over.sign_())  # the slope of f, but for the factor
            by_anchors[rows, own] = self._sum(weight, rows)
        return total, by_anchors, kept

    def pulled(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The sums over the others, and over the anchors times `slope`, of the exponentials times the slopes of f."""
        by_anchors, by_others = torch.empty_like(self.anchors), torch.zeros_like(self.others)
        for rows, own, over, weight in self._tiles():
            weight.mul_(over if self.power == 2 else over.sign_())
            by_anchors[rows, own] = self._sum(weight, rows)
            by_others[rows] += sum_over_anchors(weight, slope[rows, own])
        return by_anchors, by_others

    def _tiles(self, kept: Tensor | None = None) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """Tile by tile what `make` makes, in the same two buffers, or the second in its place in `kept`."""
        columns = self.others.shape[-1]
        buffers = None
        start = 0
        for rows, own in places(self.anchors, self.others, TILE):
            size = (rows.stop - rows.start) * (own.stop - own.start) * columns
            if buffers is None:  # no tile is larger than the first
                buffers = self.anchors.new_empty(1 if kept is not None else 2, size)
            weight = buffers[-1] if kept is None else kept.view(-1)[start : start + size]
            yield rows, own, *self.make(rows, own, (buffers[0], weight))
            start += size

    def _sum(self, weight: Tensor, rows: slice) -> Tensor:
        return weight.sum(2) if self.share is None else sum_over_others(weight, self.share[rows])
