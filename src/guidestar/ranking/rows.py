r"""Means over the pairs of an anchor: $\frac{1}{\sum_j w_j} \sum_j w_j f(s_j - s_i)$ for each anchor i, and the like.

Each function chooses its path from the shapes alone. Few pairs: the matrix of all pairs. Many: the closed form of
`squared`, `squared_hinge` and `hinge` (also as `functools.partial(hinge, margin=0.5)`), O((P + N) log N); for `logistic`
and in between tiles of pairs and of their slopes, without a graph; for any other surrogate tiles of anchors that make
their graph again for the gradient. Neither's memory grows with P x N. All paths give the same values and gradients.

Shapes: anchors $s_i$ `[..., P]`, others $s_j$ `[..., N]`, weights $w_j$ `[..., N]` (bool or numbers, 0 or more, outside
the graph), result `[..., P]`. Where an anchor has no other, or only others of weight 0, the result is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from guidestar.ranking.closed import Polynomial, hinge_sums, squared_sums
from guidestar.ranking.slopes import known_form, slope_sums
from guidestar.ranking.tiles import tiled

Surrogate = Callable[[Tensor], Tensor]

#: Above so many pairs it pays not to build a graph of the matrix where the slope of the surrogate is known.
SLOPES_FROM = (1 << 13, 1 << 16)
#: The same with thresholds, whose graph is longer.
EXCESS_SLOPES_FROM = (0, 0)
#: Above so many pairs the closed form is faster than the matrix, on a CPU and elsewhere (where more kernels cost more).
CLOSED_FROM = (1 << 16, 1 << 20)
#: Above so many pairs tiles are used: a CPU's cache holds a tile, but no larger matrix; elsewhere it is about memory.
TILES_FROM = (1 << 21, 1 << 24)


def row_sums(anchors: Tensor, others: Tensor, surrogate: Surrogate, *, weights: Tensor | None = None) -> Tensor:
    r"""$\sum_j w_j f(s_j - s_i)$ for each anchor i.

    Args:
        anchors, others, weights: as above.
        surrogate: f, any callable that maps a tensor of differences to one of the same shape.

    Example:
        >>> from guidestar.surrogates import hinge
        >>> row_sums(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), hinge)
        tensor([3., 1.])
    """
    form = known_form(surrogate)
    if isinstance(form, Polynomial) and _many(anchors, others, CLOSED_FROM):
        return _closed_sums(anchors, others, weights, form)
    if form is not None and _sloped(anchors, others, SLOPES_FROM):
        return slope_sums(anchors, others, weights, form)[0]

    def sums(anchors: Tensor, others: Tensor) -> Tensor:
        return _sum(surrogate(_differences(anchors, others)), weights)

    return _apply(sums, anchors, others)


def row_means(anchors: Tensor, others: Tensor, surrogate: Surrogate, *, weights: Tensor | None = None) -> Tensor:
    r"""$\frac{1}{\sum_j w_j} \sum_j w_j f(s_j - s_i)$ for each anchor i; the arguments of `row_sums`.

    Example:
        >>> from guidestar.surrogates import hinge
        >>> row_means(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), hinge)
        tensor([1.5000, 0.5000])
    """
    return row_sums(anchors, others, surrogate, weights=weights) / _total(others, weights)


def row_log_mean_exp(
    anchors: Tensor, others: Tensor, surrogate: Surrogate, tau: float | Tensor, *, weights: Tensor | None = None
) -> Tensor:
    r"""$\log \frac{1}{\sum_j w_j} \sum_j w_j e^{f(s_j - s_i) / \tau}$ for each anchor i, without overflow.

    Args:
        anchors, others, weights: as above.
        surrogate: f.
        tau: a positive number or tensor, one for all or one for each anchor `[..., P]`.

    Example:
        >>> from guidestar.surrogates import hinge
        >>> row_log_mean_exp(torch.tensor([0.0]), torch.tensor([999.0, 999.0]), hinge, 1.0)
        tensor([1000.])
    """
    if others.shape[-1] == 0:
        return anchors * 0.0 + others.sum(-1, keepdim=True)
    some, log_weights = None, None
    if weights is not None:
        total = weights.detach().to(others.dtype).sum(-1, keepdim=True)
        some = total > 0
        # Where no weight is positive, a mean of equal weights is made and then dropped: log 0 has no gradient.
        log_weights = torch.where(some, weights.detach().to(others.dtype) / _total(others, weights), 1.0).log()

    def log_means(anchors: Tensor, others: Tensor, *temperatures: Tensor) -> Tensor:
        scaled = surrogate(_differences(anchors, others)) / (temperatures[0].unsqueeze(-1) if temperatures else tau)
        if log_weights is None:
            return torch.logsumexp(scaled, -1) - math.log(others.shape[-1])
        return torch.logsumexp(scaled + log_weights.unsqueeze(-2), -1)

    own = (tau.to(anchors).expand(anchors.shape),) if isinstance(tau, Tensor) else ()
    result = _apply(log_means, anchors, others, *own)
    return result if some is None else torch.where(some, result, 0.0)


class HingeMeans(NamedTuple):
    """What `row_hinge_means` gives: the means and, outside the graph, their derivatives by the threshold."""

    mean: Tensor
    slope: Tensor


def row_hinge_means(
    anchors: Tensor, others: Tensor, surrogate: Surrogate, nu: Tensor, *, weights: Tensor | None = None
) -> HingeMeans:
    r"""$\frac{1}{\sum_j w_j} \sum_j w_j [f(s_j - s_i) - \nu_i]_+$ for each anchor i, and its derivative by $\nu_i$.

    The derivative is minus the (weighted) share of the pairs above $\nu_i$. The mean is differentiable in the anchors,
    the others and nu; hinges and squared hinges have closed forms here, the squared surrogate has none.

    Args:
        anchors, others, weights: as above.
        surrogate: f.
        nu: thresholds `[..., P]`, of any sign.

    Example:
        >>> from guidestar.surrogates import hinge
        >>> row_hinge_means(torch.tensor([0.0]), torch.tensor([0.0, 1.0]), hinge, torch.tensor([1.5]))
        HingeMeans(mean=tensor([0.2500]), slope=tensor([-0.5000]))
    """
    total = _total(others, weights)
    nu = nu.to(anchors.dtype)
    nu = nu if nu.shape == anchors.shape else nu.expand(anchors.shape)
    form = known_form(surrogate)
    if isinstance(form, Polynomial) and form.cut and _many(anchors, others, CLOSED_FROM):
        value, above = hinge_sums(anchors, others, weights, form, nu)
        return HingeMeans(value / total, -above / total)
    if form is not None and _sloped(anchors, others, EXCESS_SLOPES_FROM):
        value, above = slope_sums(anchors, others, weights, form, nu)
        return HingeMeans(value / total, above / -total)  # pyright: ignore[reportOperatorIssue]

    def both(anchors: Tensor, others: Tensor, nu: Tensor) -> Tensor:
        over = surrogate(_differences(anchors, others)) - nu.unsqueeze(-1)
        above = torch.where(over.detach() > 0, 1.0, over.detach() * 0.0)  # a NaN stays one
        return torch.stack([_sum(torch.relu(over), weights), _sum(above, weights)])

    value, above = _apply(both, anchors, others, nu)
    return HingeMeans(value / total, -above.detach() / total)


def _closed_sums(anchors: Tensor, others: Tensor, weights: Tensor | None, form: Polynomial) -> Tensor:
    if form.cut:
        return hinge_sums(anchors, others, weights, form)[0]
    return squared_sums(anchors, others, weights, form.margin)


def _apply(function: Callable[..., Tensor], anchors: Tensor, others: Tensor, *more: Tensor) -> Tensor:
    if _many(anchors, others, TILES_FROM):
        return tiled(function, anchors, others, *more)  # pyright: ignore[reportCallIssue]
    return function(anchors, others, *more)


def _many(anchors: Tensor, others: Tensor, limits: tuple[int, int]) -> bool:
    return anchors.numel() * others.shape[-1] > limits[anchors.device.type != "cpu"]


def _sloped(anchors: Tensor, others: Tensor, limits: tuple[int, int]) -> bool:
    return _many(anchors, others, limits) and not torch.compiler.is_compiling()


def _differences(anchors: Tensor, others: Tensor) -> Tensor:
    return others.unsqueeze(-2) - anchors.unsqueeze(-1)


def _sum(pairs: Tensor, weights: Tensor | None) -> Tensor:
    return pairs.sum(-1) if weights is None else (pairs * weights.detach().to(pairs.dtype).unsqueeze(-2)).sum(-1)


def _total(others: Tensor, weights: Tensor | None) -> Tensor | int:
    """The sum of the weights, 1 instead of 0."""
    if weights is None:
        return max(others.shape[-1], 1)
    total = weights.detach().to(others.dtype).sum(-1, keepdim=True)
    return torch.where(total > 0, total, 1.0)
