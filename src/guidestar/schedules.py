"""Schedules of the averaging rate gamma of a tracker: how much of the new estimate enters the average.

A schedule is passed as `gamma=`; a plain number is `Constant`. gamma = 1 is the mini-batch estimate itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Constant:
    """The same rate at every step.

    Args:
        gamma: rate in (0, 1].

    Raises:
        ValueError: `gamma` is outside (0, 1].

    Example:
        >>> Constant(0.5).rate(torch.tensor(2.0), None, log_space=False)
        0.5
    """

    gamma: float

    def __post_init__(self) -> None:
        if not 0.0 < self.gamma <= 1.0:
            raise ValueError(f"`gamma` must be in (0, 1] (1 is the mini-batch estimate). Found {self.gamma}.")

    def rate(self, average: Tensor, epoch: Tensor | None, *, log_space: bool) -> float:
        """gamma."""
        return self.gamma

    def log_rates(self, average: Tensor, epoch: Tensor | None) -> tuple[float, float]:
        """log gamma and log(1 - gamma)."""
        return math.log(self.gamma), math.log1p(-self.gamma)


@dataclass(frozen=True)
class Cosine:
    r"""From 1 to `gamma_min` along half a cosine, constant within an epoch.

    $\gamma_t = \tfrac12 (1 + \cos(\pi e / E)) (1 - \gamma_{\min}) + \gamma_{\min}$ in epoch e, and gamma_min from E on.

    Equations:
        Section 6.5.3, "Scheduler of gamma".

    Args:
        gamma_min: the final rate, in (0, 1].
        epochs: E, the number of epochs in which the rate falls (not necessarily all epochs of the training).

    Raises:
        ValueError: `gamma_min` outside (0, 1], or `epochs` below 1.

    Example:
        >>> [round(float(Cosine(0.2, 4).rate(torch.tensor(1.0), torch.tensor(e), log_space=False)), 3) for e in (0, 2, 4, 9)]
        [1.0, 0.6, 0.2, 0.2]
    """

    gamma_min: float
    epochs: int

    def __post_init__(self) -> None:
        if not 0.0 < self.gamma_min <= 1.0:
            raise ValueError(f"`gamma_min` must be in (0, 1]. Found {self.gamma_min}.")
        if self.epochs < 1 or int(self.epochs) != self.epochs:
            raise ValueError(f"`epochs` must be a whole number, at least 1. Found {self.epochs}.")

    def rate(self, average: Tensor, epoch: Tensor | None, *, log_space: bool) -> Tensor:
        """gamma of the epoch, a float64 scalar."""
        if epoch is None:
            raise ValueError("`epoch` is needed by a Cosine schedule: it is kept by the tracker. Found None.")
        share = epoch.to(torch.float64).clamp(max=self.epochs) / self.epochs
        return 0.5 * (1.0 + torch.cos(math.pi * share)) * (1.0 - self.gamma_min) + self.gamma_min

    def log_rates(self, average: Tensor, epoch: Tensor | None) -> tuple[Tensor, Tensor]:
        """log gamma and log(1 - gamma) of the epoch, float64 scalars."""
        gamma = self.rate(average, epoch, log_space=True)
        return torch.log(gamma), torch.log1p(-gamma)


@dataclass(frozen=True)
class Scent:
    r"""SCENT's rate, which adapts to the average itself.

    $\gamma_t = \alpha u / (1 + \alpha u)$, in log space $\sigma(\log\alpha + v)$ with $v = \log u$: the closed form of
    the stochastic proximal mirror-descent step on $\nu = \log u$ with the divergence of $e^{-\nu}$.

    Equations:
        Alg. 21 and 22 of the book (chapter 5); the `v` update of Alg. 26.

    Args:
        alpha: step size of the dual variable, positive.

    Raises:
        ValueError: `alpha` is not positive.

    Example:
        >>> Scent(1.0).rate(torch.tensor(3.0), None, log_space=False)
        tensor(0.7500)
    """

    alpha: float

    def __post_init__(self) -> None:
        if not self.alpha > 0.0:
            raise ValueError(f"`alpha` must be positive. Found {self.alpha}.")

    def rate(self, average: Tensor, epoch: Tensor | None, *, log_space: bool) -> Tensor:
        """gamma for each row, from its average before the step."""
        log_average = average if log_space else torch.log(average)
        return torch.sigmoid(math.log(self.alpha) + log_average)

    def log_rates(self, average: Tensor, epoch: Tensor | None) -> tuple[Tensor, Tensor]:
        """log gamma and log(1 - gamma) for each row, from v = log u before the step.

        Neither is the logarithm of a rounded gamma: where v is far from -log(alpha), one of the two is lost in that.
        """
        odds = math.log(self.alpha) + average
        return functional.logsigmoid(odds), functional.logsigmoid(-odds)


Schedule = Constant | Cosine | Scent


def as_schedule(gamma: float | Schedule) -> Schedule:
    """`gamma` as a schedule.

    Raises:
        TypeError: neither a number nor a schedule.

    Example:
        >>> as_schedule(0.9)
        Constant(gamma=0.9)
    """
    if isinstance(gamma, Constant | Cosine | Scent):
        return gamma
    if isinstance(gamma, bool) or not isinstance(gamma, int | float):
        raise TypeError(
            f"`gamma` must be a number in (0, 1] or one of guidestar.schedules. Found {type(gamma).__name__}."
        )
    return Constant(float(gamma))


def is_mini_batch(schedule: Schedule) -> bool:
    """Whether the rate is 1 for ever, so that no average need be kept.

    Example:
        >>> is_mini_batch(Constant(1.0)), is_mini_batch(Cosine(0.5, 3))
        (True, False)
    """
    return schedule == Constant(1.0) or (isinstance(schedule, Cosine) and schedule.gamma_min == 1.0)
