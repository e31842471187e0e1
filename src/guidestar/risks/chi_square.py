"""The worst case within, or penalized by, the chi-square divergence: exact within the batch, or tracked."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from guidestar.duals import Dual
from guidestar.risks.base import Risk, Rows, whole
from guidestar.schedules import Schedule
from guidestar.tracking import Tracker


class ChiSquare(Risk):
    r"""Worst-case mean of the losses under the divergence $D(p) = \frac{1}{2m} \sum_j (m p_j - 1)^2$.

    - ball: $\max_{p \in \Delta,\, D(p) \le \rho} \sum_j p_j \ell_j = \min_\nu \sqrt{1+2\rho}\,
      \sqrt{\tfrac1m \sum_j [\ell_j - \nu]_+^2} + \nu$, which equals mean + $\sqrt{2 \rho \mathrm{Var}}$ as long as no weight
      is cut at 0;
    - penalty: $\max_{p \in \Delta} \sum_j p_j \ell_j - \rho D(p) = \min_\nu \tfrac1m \sum_j \phi^*(\ell_j - \nu) + \nu$ with
      $\phi^*(s) = s + s^2/2\rho$ for $s \ge -\rho$, else $-\rho/2$.

    - $\rho$ = `rho`: the radius of the ball itself (DRRho's radius over n samples is $\rho/n$, Eq. 6.114: pass that), or
      the weight of the penalty with `ball=False`.
    - $\nu$: found exactly within the batch by sorting; with `lr` a dual variable that moves inside the forward, with the
      second moment of the ball tracked at rate `gamma`: DRO over a data set, or one row a sample, with small batches.

    Equations:
        6.114, 6.115.

    Args:
        rho: radius (at least 0) or weight of the penalty (positive).
        ball: the constraint, or else the penalty.
        num_rows: number of sets that are remembered in the tracked form.
        gamma: averaging rate of the second moment in the tracked form of the ball.
        lr: step size of nu; None is the exact solution within the batch.

    Shapes:
        `losses` `[..., m]`, `index` `[...]` in the tracked form -> `[...]`. In the exact form a single row `[m]` is taken
        over all ranks' losses.

    State:
        exact: none. Tracked: `dual.memory.values` float32 `[num_rows]` (nu, 0 at the start) and, for the ball with
        gamma < 1, `tracker.memory.values` float32 `[num_rows]`.

    Value and gradient:
        the worst case and its weights p (exact); the objective at the nu before its step (tracked).

    Raises:
        ValueError: a setting out of range, `gamma` without `lr`, shapes that do not fit.

    Source:
        Namkoong and Duchi, "Variance-based regularization with convex objectives", NeurIPS 2017.

    Example:
        >>> risk = ChiSquare(rho=0.02)
        >>> losses = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> risk(losses), losses.mean() + (2 * 0.02 * losses.var(unbiased=False)).sqrt()
        (tensor(2.7236), tensor(2.7236))
    """

    def __init__(
        self,
        rho: float,
        *,
        ball: bool = True,
        num_rows: int = 1,
        gamma: float | Schedule = 1.0,
        lr: float | None = None,
    ) -> None:
        super().__init__()
        if not (rho >= 0 if ball else rho > 0) or rho == float("inf"):
            raise ValueError(f"`rho` must be {'at least 0' if ball else 'positive'} and finite. Found {rho}.")
        if lr is None and (gamma != 1.0 or num_rows != 1):
            raise ValueError(
                f"`gamma` and `num_rows` belong to the tracked form, which needs a step size `lr` for nu. Found gamma = "
                f"{gamma}, num_rows = {num_rows} and no `lr`."
            )
        self.rho = float(rho)
        self.ball = ball
        self.dual = None if lr is None else Dual(num_rows, lr=lr)
        self.tracker = Tracker(num_rows, gamma=gamma) if ball and lr is not None else None

    def value(self, rows: Rows) -> Tensor:
        if self.dual is not None:
            return self._tracked(rows, self.dual)
        losses, mask, _ = whole(rows)
        solve = ball_weights if self.ball else penalty_weights
        weights = solve(losses.detach(), self.rho, mask)
        kept = losses if mask is None else torch.where(mask, losses, 0.0)
        value = (weights * kept).sum(-1)  # Eq. 6.114; by Danskin's theorem the weights are the gradient
        if self.ball:
            return value
        return value - self.rho * divergence(weights, mask)

    def _tracked(self, rows: Rows, dual: Dual) -> Tensor:
        nu = dual.values(rows.index).to(rows.losses.dtype)
        above = rows.losses - nu.unsqueeze(-1)
        if self.tracker is None:
            above = above.clamp(min=-self.rho)  # phi* is constant below
            mean = rows.mean(above)
            value = mean + rows.mean(above.square()) / (2 * self.rho) + nu
            slope = -mean / self.rho
        else:
            scale = math.sqrt(1.0 + 2.0 * self.rho)
            excess = torch.relu(above)
            second = self.tracker(rows.mean(excess.square()), rows.index, active=rows.active)
            # The derivative stays finite where no loss exceeds nu.
            root = (second + torch.finfo(second.dtype).tiny).sqrt()
            value = torch.add(nu, root, alpha=scale)
            slope = 1.0 - rows.mean(excess.detach()) / (root.detach() / scale)
        if self.training and torch.is_grad_enabled():
            dual.move(slope.detach(), rows.index, rows.active)
        return value

    def extra_repr(self) -> str:
        return f"rho={self.rho}, ball={self.ball}"


def divergence(weights: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""$\frac{1}{2m} \sum_j (m p_j - 1)^2$ of weights `[..., m]` from the uniform ones, over the unmasked entries.

    Example:
        >>> divergence(torch.tensor([1.0, 0.0]))
        tensor(0.5000)
    """
    if mask is None:
        return 0.5 * (weights.shape[-1] * weights - 1.0).square().mean(-1)
    m = mask.sum(-1, keepdim=True).clamp(min=1)
    off = torch.where(mask, m * weights - 1.0, 0.0)  # not m p^2 - 1: near uniform weights that is all rounding
    return 0.5 * off.square().sum(-1) / m.squeeze(-1)


def ascending(values: Tensor) -> Tensor:
    """The entries of `values` `[..., m]` in ascending order along the last dimension, outside the graph.

    Example:
        >>> ascending(torch.tensor([2.0, 0.0, 1.0]))
        tensor([0., 1., 2.])
    """
    # numpy reads memory, which traced tensors and those inside torch.func's transforms do not have.
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if traced or type(values) is not Tensor or values.device.type != "cpu" or is_functorch_wrapped_tensor(values):
        return values.detach().sort(-1).values
    # torch.sort carries the indices along, which costs ten times as much on a CPU.
    return torch.from_numpy(np.sort(values.detach().numpy(), axis=-1))


class _Sorted:
    """Losses sorted downwards as distances from the largest, in float64, with their prefix sums."""

    def __init__(self, losses: Tensor, mask: Tensor | None) -> None:
        downwards = -losses
        if mask is not None:
            downwards = torch.where(mask, downwards, float("inf"))
        d = ascending(downwards).to(torch.float64)
        largest = d[..., :1]
        self.mask = mask
        self.distance = downwards.to(torch.float64) - largest  # [..., m]; +inf where masked
        self.m: float | Tensor = float(losses.shape[-1])
        if mask is not None:
            self.m = mask.sum(-1, keepdim=True).to(self.distance)
        d = d - largest
        self.k = torch.arange(1, d.shape[-1] + 1, dtype=d.dtype, device=d.device)
        self.counts = None if mask is None else self.k <= self.m
        self.d = d if self.counts is None else torch.where(self.counts, d, 0.0)
        self.sum1 = self.d.cumsum(-1)
        self.above = self.k * self.d - self.sum1  # sum over the larger losses of (l_i - l_k)

    def last(self, inside: Tensor) -> Tensor:
        """The place of the last sorted loss with a positive weight, `[..., 1]`; the first always has one."""
        inside = inside if self.counts is None else inside & self.counts
        return inside[..., 1:].sum(-1, keepdim=True)

    def cut(self, signed: Tensor, last: Tensor) -> Tensor:
        """[signed]_+ for the losses up to the `last` sorted one, else 0, `[..., m]`; in place."""
        # Rounding at the edge must not give weight to a loss that the sort has ruled out.
        outside = self.distance > self.d.gather(-1, last)
        if self.mask is not None:
            outside = outside | ~self.mask
        return signed.clamp_(min=0.0).masked_fill_(outside, 0.0)


@torch.no_grad()
def ball_weights(losses: Tensor, rho: float, mask: Tensor | None = None) -> Tensor:
    r"""The p in $\{p \in \Delta : \frac{1}{2m} \sum_j (m p_j - 1)^2 \le \rho\}$ that maximises $\sum_j p_j \ell_j$.

    The weights are $[\ell_j - \nu]_+$, normalised. A loss has a positive one iff the dual objective still falls at
    $\nu = \ell_j$, which one pass over the sorted losses tells for all of them.

    Args:
        losses: `[..., m]`.
        rho: radius.
        mask: bool `[..., m]` or None.

    Returns:
        `[..., m]`, dtype of `losses`, computed in float64.

    Example:
        >>> ball_weights(torch.tensor([0.0, 0.0, 3.0]), rho=1.0)
        tensor([0., 0., 1.])
    """
    s = _Sorted(losses, mask)
    kappa = 1.0 + 2.0 * rho
    sum2 = s.d.square().cumsum(-1)
    above2 = torch.addcmul(sum2, s.d, s.above - s.sum1)  # sum over the larger losses of (l_i - l_k)^2
    # Equal where l_k ties with the largest (0 on both sides) and where its weight is 0 anyway.
    last = s.last(s.above.square().mul_(kappa / s.m) <= above2)
    inverse = s.k.expand_as(s.d).gather(-1, last).reciprocal()
    total = s.sum1.gather(-1, last)
    mean = total * inverse
    spread = torch.addcmul(sum2.gather(-1, last), total, mean, value=-1.0)  # k times the variance of the k largest
    slope = (kappa / s.m - inverse).clamp_(min=0.0).div_(spread.clamp_(min=1e-300)).sqrt_()
    signed = torch.addcmul(torch.addcmul(inverse, slope, mean), slope, s.distance, value=-1.0)
    return s.cut(signed, last).to(losses.dtype)


@torch.no_grad()
def penalty_weights(losses: Tensor, strength: float, mask: Tensor | None = None) -> Tensor:
    r"""The p in the simplex that maximises $\sum_j p_j \ell_j - \frac{\lambda}{2m} \sum_j (m p_j - 1)^2$.

    $p_j = \frac1m [1 + (\ell_j - \nu)/\lambda]_+$: the projection of the losses onto the simplex, by sorting.

    Args:
        losses: `[..., m]`.
        strength: lambda, positive.
        mask: bool `[..., m]` or None.

    Returns:
        `[..., m]`, dtype of `losses`, computed in float64.

    Example:
        >>> penalty_weights(torch.tensor([0.0, 1.0]), strength=2.0)
        tensor([0.3750, 0.6250])
    """
    s = _Sorted(losses, mask)
    # With k positive weights, nu = max - mean(d) - lambda (m - k) / k; the k-th is positive iff d_k < lambda + max - nu.
    scale = strength * s.m
    last = s.last(s.above < scale)
    k = s.k.expand_as(s.d).gather(-1, last)
    threshold = (s.sum1.gather(-1, last) + scale) / k  # max - nu + lambda
    return s.cut((threshold - s.distance).div_(scale), last).to(losses.dtype)
