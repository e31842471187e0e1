r"""Sums over an anchor's pairs for surrogates whose slope is known: value and slope from one pass, and no graph.

Autograd keeps a matrix of the pairs for each step of an expression and goes through all of them again. Here a tile of
pairs at a time is made in the cache, summed, and overwritten by its slopes, which are all that the gradient needs: they
are kept where they are few, and made again where they are many, so that memory does not grow with the number of pairs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from guidestar import surrogates
from guidestar.ranking.closed import Polynomial, polynomial
from guidestar.state import all_finite

#: Pairs of a tile, on a CPU (whose cache holds two) and elsewhere (where it must be worth its kernels).
TILE = (1 << 16, 1 << 23)
#: Up to so many pairs one number a pair is kept for the gradient.
KEEP = (1 << 17, 1 << 22)
_LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Logistic:
    r"""$\log(1 + e^{ct}) / c$."""

    scale: float

    def __call__(self, t: Tensor) -> Tensor:
        """The surrogate of differences."""
        return surrogates.logistic(t, self.scale)


def known_form(surrogate: object) -> Polynomial | Logistic | None:
    """What a surrogate of `guidestar.surrogates` is, also as a `functools.partial`, if its slope is known; or None.

    Example:
        >>> known_form(functools.partial(surrogates.logistic, scale=2.0))
        Logistic(scale=2.0)
    """
    found = polynomial(surrogate)
    if found is not None:
        return found
    scale: object = 1.0
    if isinstance(surrogate, functools.partial):
        if surrogate.args or set(surrogate.keywords) - {"scale"}:
            return None
        scale, surrogate = surrogate.keywords.get("scale", 1.0), surrogate.func
    if surrogate is surrogates.logistic and isinstance(scale, int | float):
        return Logistic(float(scale))
    return None


def places(anchors: Tensor, others: Tensor, limits: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Tiles of the pairs of `[L, P]` and `[L, N]`: many rows as a whole, or some anchors of one row, at a time.

    Example:
        >>> list(places(torch.zeros(1, 5), torch.zeros(1, 10), (30, 30)))
        [(slice(0, 1, None), slice(0, 3, None)), (slice(0, 1, None), slice(3, 5, None))]
    """
    (rows, count), columns = anchors.shape, others.shape[-1]
    size = limits[anchors.device.type != "cpu"]
    height = min(rows, max(1, size // max(1, count * columns)))
    width = min(count, max(1, size // max(1, columns)))
    for row in range(0, rows, max(1, height)):
        for start in range(0, count, max(1, width)):
            yield slice(row, min(row + height, rows)), slice(start, min(start + width, count))


def slope_sums(
    anchors: Tensor, others: Tensor, weights: Tensor | None, form: Polynomial | Logistic, nu: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Sum over j of w_j f(others_j - anchors_i), or of w_j [f(...) - nu_i]_+; and then also the weight above nu.

    Args:
        anchors, others, weights: `[..., P]`, `[..., N]`, and `[..., N]` or None.
        form: f.
        nu: thresholds `[..., P]`, or None.

    Example:
        >>> slope_sums(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), None, Polynomial(1, 1.0, cut=True))
        (tensor([3., 1.]), None)
    """
    if weights is not None:
        weights = weights.detach().to(others.dtype)
    few = anchors.numel() * others.shape[-1] <= KEEP[anchors.device.type != "cpu"]
    function = _Sums if few else _TiledSums
    if anchors.ndim == 2 and others.ndim == 2 and len(anchors) == len(others):
        weights = None if weights is None else weights.expand_as(others)
        return function.apply(anchors, others, weights, nu, form)  # pyright: ignore[reportReturnType]
    lead = torch.broadcast_shapes(anchors.shape[:-1], others.shape[:-1])

    def rows(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return tensor.expand(*lead, tensor.shape[-1]).reshape(-1, tensor.shape[-1])

    given = (rows(anchors), rows(others), rows(weights), rows(nu))
    value, above = function.apply(*given, form)  # pyright: ignore[reportGeneralTypeIssues]
    shape = (*lead, anchors.shape[-1])
    return value.view(shape), None if above is None else above.view(shape)


class _Sums(torch.autograd.Function):
    """Of all pairs at once, with their slopes for the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        others: Tensor,
        weights: Tensor | None,
        nu: Tensor | None,
        form: Polynomial | Logistic,
    ) -> tuple[Tensor, Tensor | None]:
        parts = _Parts(anchors, others, weights, nu, form)
        pairs = parts.differences()
        total, above = _finish(ctx, parts.sums(pairs))
        ctx.set_materialize_grads(False)
        ctx.form, ctx.slopes = form, parts.slopes(pairs)
        ctx.save_for_backward(anchors, others, weights, nu, above)
        return total, above

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g, above = gradients[0], ctx.saved_tensors[-1]
        if g is None:
            return None, None, None, None, None
        if torch.is_grad_enabled():  # a second derivative may be wanted
            return _with_graph(g, ctx.needs_input_grad, ctx.form, *ctx.saved_tensors[:4])
        by_nu = -g * above if above is not None and ctx.needs_input_grad[3] else None
        return -g * ctx.slopes.sum(2), sum_over_anchors(ctx.slopes, g), None, by_nu, None


class _TiledSums(torch.autograd.Function):
    """Of a tile of pairs at a time; their slopes are made for the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        others: Tensor,
        weights: Tensor | None,
        nu: Tensor | None,
        form: Polynomial | Logistic,
    ) -> tuple[Tensor, Tensor | None]:
        sums = [torch.empty_like(anchors) for _ in range(1 if nu is None else 2)]
        for rows, own, part in _Parts(anchors, others, weights, nu, form).tiles():
            for whole, value in zip(sums, part.sums(part.differences()), strict=True):
                whole[rows, own] = value
        total, above = _finish(ctx, sums)
        ctx.form = form
        ctx.save_for_backward(anchors, others, weights, nu, above)
        return total, above

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g = gradients[0]
        anchors, others, weights, nu, above = ctx.saved_tensors
        pulled, by_others = torch.empty_like(anchors), torch.zeros_like(others)
        for rows, own, part in _Parts(anchors, others, weights, nu, ctx.form).tiles():
            slopes = part.slopes(part.differences())
            pulled[rows, own] = slopes.sum(2)
            by_others[rows] += sum_over_anchors(slopes, g[rows, own])
        return -g * pulled, by_others, None, None if above is None else -g * above, None


def _finish(ctx: Any, sums: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    if len(sums) == 1:
        return sums[0], None
    # To count what is above the threshold loses a NaN, which the sum has.
    total, above = sums
    if not all_finite(total):
        above = torch.where(total.isnan(), total, above)
    ctx.mark_non_differentiable(above)
    return total, above


def _with_graph(
    g: Tensor,
    needed: tuple[bool, ...],
    form: Polynomial | Logistic,
    anchors: Tensor,
    others: Tensor,
    weights: Tensor | None,
    nu: Tensor | None,
) -> tuple[Tensor | None, ...]:
    pairs = form(others.unsqueeze(1) - anchors.unsqueeze(2))
    pairs = pairs if nu is None else torch.relu(pairs - nu.unsqueeze(2))
    total = (pairs if weights is None else pairs * weights.unsqueeze(1)).sum(2)
    inputs = (anchors, others, weights, nu, None)
    wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if tensor is not None and need]
    found = iter(torch.autograd.grad(total, wanted, g, create_graph=True))
    return tuple(next(found) if need else None for need in needed)


class _Parts:
    """Pairs of `[L, P]` anchors and `[L, N]` others."""

    def __init__(
        self,
        anchors: Tensor,
        others: Tensor,
        weights: Tensor | None,
        nu: Tensor | None,
        form: Polynomial | Logistic,
    ) -> None:
        self.anchors, self.others, self.weights, self.nu, self.form = anchors, others, weights, nu, form
        self.above: Tensor | None = None  # which pairs are, once `sums` has found it

    def tiles(self) -> Iterator[tuple[slice, slice, _Parts]]:
        """The rows and the anchors of each tile, and the tile."""
        for rows, own in places(self.anchors, self.others, TILE):
            weights = None if self.weights is None else self.weights[rows]
            nu = None if self.nu is None else self.nu[rows, own]
            yield rows, own, _Parts(self.anchors[rows, own], self.others[rows], weights, nu, self.form)

    def differences(self) -> Tensor:
        """What the form is a function of, `[L, P, N]`: differences, those above the margin, or scaled ones."""
        if isinstance(self.form, Logistic):
            pairs = self.others.unsqueeze(1) - self.anchors.unsqueeze(2)
            return pairs if self.form.scale == 1.0 else pairs.mul_(self.form.scale)
        pairs = (self.others + self.form.margin).unsqueeze(1) - self.anchors.unsqueeze(2)
        return pairs.clamp_(min=0.0) if self.form.cut else pairs

    def sums(self, pairs: Tensor) -> list[Tensor]:
        """The sums of f, or of f above nu and of the weights of those."""
        if isinstance(self.form, Logistic) and self.weights is None and self.nu is None:
            small = _log1p_sum(pairs.abs().mul_(-_LOG2_E).exp2_())
            return [(small + pairs.clamp(min=0.0).sum(2)) / self.form.scale]
        values = self._values(pairs)
        if self.nu is None:
            return [self._summed(values)]
        over = (values - self.nu.unsqueeze(2)).clamp_(min=0.0)
        total, self.above = self._summed(over), over.sign_()
        return [total, self._summed(self.above)]

    def slopes(self, pairs: Tensor) -> Tensor:
        """The derivatives of the summands by the differences; `pairs` may be overwritten."""
        above = self.above
        if above is None and self.nu is not None:
            above = (self._values(pairs) > self.nu.unsqueeze(2)).to(pairs.dtype)
        if isinstance(self.form, Logistic):
            pairs = pairs.sigmoid_()
        else:
            pairs = pairs.sign_() if self.form.power == 1 else pairs.mul_(2.0)
        pairs = pairs if above is None else pairs.mul_(above)
        return pairs if self.weights is None else pairs.mul_(self.weights.unsqueeze(1))

    def _values(self, pairs: Tensor) -> Tensor:
        if isinstance(self.form, Logistic):
            small = pairs.abs().mul_(-_LOG2_E).exp2_().log1p_()
            return small.add_(pairs.clamp(min=0.0)).div_(self.form.scale)
        return pairs if self.form.power == 1 else pairs * pairs

    def _summed(self, values: Tensor) -> Tensor:
        return (values if self.weights is None else values * self.weights.unsqueeze(1)).sum(2)


def _log1p_sum(values: Tensor) -> Tensor:
    """Sum of log(1 + x) over x in [0, 1], from an eighth of the logarithms: (1 + x)(1 + y) = 1 + (x + y + x y)."""
    for _ in range(3):
        half = values.shape[2] // 2
        if half == 0:
            break
        first, second, rest = values.split([half, half, values.shape[2] - 2 * half], dim=2)
        values = torch.addcmul(first, second, first + 1.0)
        if rest.shape[2]:
            last = values[..., :1]
            last.add_(rest * (last + 1.0))
    return values.log1p_().sum(2)


def sum_over_anchors(pairs: Tensor, factors: Tensor) -> Tensor:
    """Sum over i of `factors` `[L, P]` times `pairs` `[L, P, N]`, `[L, N]`.

    Example:
        >>> sum_over_anchors(torch.ones(1, 2, 3), torch.tensor([[1.0, 2.0]]))
        tensor([[3., 3., 3.]])
    """
    # A product of matrices is fastest on a CPU; elsewhere it may be set to fewer bits than the sum that is meant here,
    # as autocast does everywhere.
    if pairs.device.type != "cpu":
        return (pairs * factors.unsqueeze(2)).sum(1)
    with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
        return torch.bmm(factors.unsqueeze(1), pairs).squeeze(1)


def sum_over_others(pairs: Tensor, factors: Tensor) -> Tensor:
    """Sum over j of `factors` `[L, N]` times `pairs` `[L, P, N]`, `[L, P]`.

    Example:
        >>> sum_over_others(torch.ones(1, 2, 3), torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[6., 6.]])
    """
    if pairs.device.type != "cpu":
        return (pairs * factors.unsqueeze(1)).sum(2)
    with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
        return torch.bmm(pairs, factors.unsqueeze(2)).squeeze(2)
