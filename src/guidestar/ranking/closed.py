r"""Closed forms of the sums over an anchor's pairs, for surrogates that are polynomials where they are not zero.

$\sum_j w_j [c + s_j - s_i]_+^p$ is a polynomial in $c - s_i$ whose coefficients are sums of powers of the $s_j$ above
$s_i - c$. With the others sorted these are prefix sums, found by bisection: O((P + N) log N) time and O(P + N) memory
for P anchors and N others, where the pairs are P x N. The gradient by the others needs the same sums the other way
round, and no second sort. All sums are float64 and taken around the others' median, so that the subtraction of large
parts costs nothing that float32 scores could show.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from guidestar import surrogates
from guidestar.state import may_look

#: From so many anchors on, on a CPU, they are sorted together with the others.
MERGE_FROM = 4096
_POWERS = {surrogates.hinge: 1, surrogates.squared_hinge: 2}


@dataclass(frozen=True)
class Polynomial:
    """$[c + t]_+^p$, or $(c + t)^2$ where it is not cut at zero."""

    power: int
    margin: float
    cut: bool

    def __call__(self, t: Tensor) -> Tensor:
        """The surrogate of differences."""
        above = torch.relu(self.margin + t) if self.cut else self.margin + t
        return above if self.power == 1 else above.square()


def polynomial(surrogate: object) -> Polynomial | None:
    """What `squared`, `squared_hinge`, `hinge`, or a `functools.partial` of one with a number as `margin` is; or None.

    Example:
        >>> polynomial(functools.partial(surrogates.hinge, margin=0.5))
        Polynomial(power=1, margin=0.5, cut=True)
    """
    margin: object = 1.0
    if isinstance(surrogate, functools.partial):
        if surrogate.args or set(surrogate.keywords) - {"margin"}:
            return None
        margin = surrogate.keywords.get("margin", 1.0)
        surrogate = surrogate.func
    if not isinstance(margin, int | float):
        return None
    if surrogate is surrogates.squared:
        return Polynomial(2, float(margin), cut=False)
    for known, power in _POWERS.items():
        if surrogate is known:
            return Polynomial(power, float(margin), cut=True)
    return None


def squared_sums(anchors: Tensor, others: Tensor, weights: Tensor | None, margin: float) -> Tensor:
    """Sum over j of w_j (margin + others_j - anchors_i)^2 in O(P + N).

    Example:
        >>> squared_sums(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), None, 1.0)
        tensor([5., 1.])
    """
    wide = others.double()
    center = wide.detach().mean(-1, keepdim=True)
    offset = wide - center
    distance = margin - (anchors.double() - center)
    if weights is None:
        count, first, second = others.shape[-1], offset, offset.square()
    else:
        weights = weights.detach().double()
        count, first, second = weights.sum(-1, keepdim=True), weights * offset, weights * offset.square()
    first, second = first.sum(-1, keepdim=True), second.sum(-1, keepdim=True)
    return (count * distance.square() + 2.0 * distance * first + second).to(anchors.dtype)


def hinge_sums(
    anchors: Tensor, others: Tensor, weights: Tensor | None, form: Polynomial, nu: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum over j of w_j [margin + others_j - anchors_i]_+^p, or of w_j [[...]_+^p - nu_i]_+; and the weight above nu.

    Args:
        anchors, others, weights: `[..., P]`, `[..., N]` with N at least 1, `[..., N]` or None.
        form: p and the margin.
        nu: thresholds `[..., P]`, or None: no threshold, which is 0.

    Example:
        >>> form = Polynomial(2, 1.0, cut=True)
        >>> hinge_sums(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), None, form)
        (tensor([5., 1.]), tensor([2., 1.]))
    """
    lead = torch.broadcast_shapes(anchors.shape[:-1], others.shape[:-1])
    anchors = anchors.expand(*lead, anchors.shape[-1])
    others = others.expand(*lead, others.shape[-1])
    if weights is not None:
        weights = weights.detach().expand(others.shape)
    nu = None if nu is None else nu.expand(anchors.shape)
    return _HingeSums.apply(anchors, others, weights, nu, form.margin, form.power)  # pyright: ignore[reportReturnType]


class _HingeSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        others: Tensor,
        weights: Tensor | None,
        nu: Tensor | None,
        margin: float,
        power: int,
    ) -> tuple[Tensor, Tensor]:
        # With x = -others: the pair (i, j) is margin + others_j - anchors_i = d_i - x_j, and counts where x_j < d_i - r.
        below, order = _sort((-others).contiguous())
        poison = torch.where(below[..., -1:].isnan(), below[..., -1:], 0.0)  # NaN are last: no prefix would see them
        center = below[..., below.shape[-1] // 2, None].double()
        x = below.double() - center
        d = margin - (anchors.double() + center)
        sorted_weights = None if weights is None else weights.double().gather(-1, order)
        edge = d if nu is None else d - _threshold(nu.double(), power)
        cut = _count_below(edge.contiguous(), x)
        count, first = _prefix(sorted_weights, x, 0, cut), _prefix(sorted_weights, x, 1, cut)
        if power == 1:
            value, slope = count * d - first, count
        else:
            second = _prefix(sorted_weights, x, 2, cut)
            value, slope = count * d.square() - 2.0 * d * first + second, 2.0 * (count * d - first)
        if nu is not None:
            total = float(x.shape[-1]) if sorted_weights is None else sorted_weights.sum(-1, keepdim=True)
            count = torch.where(nu < 0, total, count)  # every pair is above a negative threshold, also those at zero
            value = value - nu.double() * count
        # Rounding must not make a sum of what is never negative so small a negative number (of which one takes the log).
        value = value.clamp(min=0.0) + poison
        count = torch.where(edge.isnan(), edge, count + poison).to(anchors.dtype)
        ctx.power = power
        ctx.save_for_backward(x, order, d, cut, slope, sorted_weights, None if nu is None else count)
        ctx.mark_non_differentiable(count)
        return value.to(anchors.dtype), count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, order, d, cut, slope, weights, above = ctx.saved_tensors
        given = gradients[0]
        g = given.double()
        by_anchor = (-g * slope).to(given.dtype)
        by_other = by_nu = None
        if ctx.needs_input_grad[1]:
            total = _anchors_above(g, cut, x)
            if ctx.power == 2:
                total = 2.0 * (_anchors_above(g * d, cut, x) - x * total)
            total = total if weights is None else total * weights
            by_other = torch.empty_like(total).scatter_(-1, order, total).to(given.dtype)
        if ctx.needs_input_grad[3]:
            by_nu = -given * above
        return by_anchor, by_other, None, by_nu, None, None


def _sort(values: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending, NaN last, and the positions."""
    if not may_look(values):
        return values.sort(-1)
    order = torch.from_numpy(np.argsort(values.numpy(), axis=-1))  # several times faster than torch's
    return values.gather(-1, order), order


def _count_below(edges: Tensor, ordered: Tensor) -> Tensor:
    """How many of `ordered` are less than each of `edges`, row by row."""
    count = edges.shape[-1]
    if not may_look(edges) or edges.numel() < MERGE_FROM or 4 * count < ordered.shape[-1]:
        return torch.searchsorted(ordered, edges)
    # Where they are as many, sorting both together is several times faster than to look for each.
    merged, places = _sort(torch.cat([edges, ordered], -1))
    below = (places >= count).cumsum(-1, dtype=torch.int32)
    equal = merged[..., 1:] == merged[..., :-1]
    if bool(equal.any()):  # what is equal has no order: none of it is below
        before = (below - (places >= count).int()).numpy()
        before[..., 1:][equal.numpy()] = 0
        below = torch.from_numpy(np.maximum.accumulate(before, axis=-1))
    return torch.empty_like(places).scatter_(-1, places, below.long())[..., :count].contiguous()


def _threshold(nu: Tensor, power: int) -> Tensor:
    """r: the p-th power of the hinge is above nu where the hinge is above r."""
    return nu.clamp(min=0.0) if power == 1 else nu.clamp(min=0.0).sqrt()


def _prefix(weights: Tensor | None, x: Tensor, power: int, cut: Tensor) -> Tensor:
    """Sum of w_j x_j^power over the first `cut` entries."""
    if power == 0 and weights is None:
        return cut.double()
    terms = x if power == 1 else x.square() if power == 2 else torch.ones_like(x)
    sums = (terms if weights is None else terms * weights).cumsum(-1)
    return torch.nn.functional.pad(sums, (1, 0)).gather(-1, cut)


def _anchors_above(values: Tensor, cut: Tensor, x: Tensor) -> Tensor:
    """For the p-th of the sorted others, the sum of `values` over the anchors whose prefix has it (cut > p)."""
    size = x.shape[-1]
    buckets = torch.zeros((*x.shape[:-1], size + 1), dtype=x.dtype, device=x.device)
    buckets.scatter_add_(-1, size - cut, values)
    return buckets[..., :size].cumsum(-1).flip(-1)
