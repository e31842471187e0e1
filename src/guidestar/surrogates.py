r"""Surrogates of the step function 1[t >= 0], where t = s_j - s_i is a negative's score minus a positive's.

Each is a pure function of a tensor, convex where its name says so, and non-decreasing in t wherever it is not zero
(the squared one and the barrier hinge rise again where a pair is right by more than the margin). They are what a
pairwise loss is made of: `surrogate(scores_j - scores_i)`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def hinge(t: Tensor, margin: float = 1.0) -> Tensor:
    r"""$[c + t]_+$ with c = `margin`.

    Example:
        >>> hinge(torch.tensor([-2.0, 0.0, 1.0]))
        tensor([0., 1., 2.])
    """
    return torch.relu(margin + t)


def squared_hinge(t: Tensor, margin: float = 1.0) -> Tensor:
    r"""$[c + t]_+^2$ with c = `margin`.

    Example:
        >>> squared_hinge(torch.tensor([-2.0, 0.0, 1.0]))
        tensor([0., 1., 4.])
    """
    return torch.relu(margin + t).square()


def squared(t: Tensor, margin: float = 1.0) -> Tensor:
    r"""$(c + t)^2$ with c = `margin`.

    Example:
        >>> squared(torch.tensor([-2.0, 0.0, 1.0]))
        tensor([1., 1., 4.])
    """
    return (margin + t).square()


def barrier_hinge(t: Tensor, margin: float = 1.0, slope: float = 2.0) -> Tensor:
    r"""$\max(c + t, -b(c + t), b(t - c) + c)$ with c = `margin`, b = `slope`: the hinge, with a barrier on both sides.

    Where $|t| \le c$ the values of t and -t sum to 2c, which is robust to labels that are wrong at random; a pair that
    is right by more than the margin costs again, one that is wrong by more than $bc/(b-1)$ costs b times as much.

    Source:
        Charoenphakdee et al., "On Symmetric Losses for Learning from Corrupted Labels", ICML 2019.

    Example:
        >>> barrier_hinge(torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]))
        tensor([2., 0., 1., 2., 5.])
    """
    above = margin + t
    return torch.maximum(above, torch.maximum(-slope * above, slope * (t - margin) + margin))


def logistic(t: Tensor, scale: float = 1.0) -> Tensor:
    r"""$\log(1 + e^{ct}) / c$ with c = `scale`, computed without overflow.

    Example:
        >>> logistic(torch.tensor([0.0, 1000.0]))
        tensor([6.9315e-01, 1.0000e+03])
    """
    return functional.softplus(scale * t) / scale


def sigmoid(t: Tensor, scale: float = 1.0) -> Tensor:
    r"""$1 / (1 + e^{-ct})$ with c = `scale`; bounded and symmetric, not convex.

    Example:
        >>> sigmoid(torch.tensor([0.0]))
        tensor([0.5000])
    """
    return torch.sigmoid(scale * t)


def exponential(t: Tensor, scale: float = 1.0) -> Tensor:
    r"""$e^{ct}$ with c = `scale`.

    Example:
        >>> exponential(torch.tensor([0.0]))
        tensor([1.])
    """
    return torch.exp(scale * t)


def smoothed_hinge(t: Tensor, smoothing: float) -> Tensor:
    r"""$[t]_+$ smoothed: $f_\varepsilon(t) = \max_{y \in [0,1]} y t - \tfrac{\varepsilon}{2} y^2$, its Moreau envelope.

    0 for t <= 0, $t^2 / 2\varepsilon$ up to $\varepsilon$ = `smoothing`, $t - \varepsilon/2$ beyond. 0 gives the hinge itself.

    Equations:
        the display before 6.19 (Example 5.1 of the book).

    Example:
        >>> smoothed_hinge(torch.tensor([0.5, 2.0]), 1.0)
        tensor([0.1250, 1.5000])
    """
    if smoothing == 0.0:
        return torch.relu(t)
    above = torch.relu(t)
    return functional.smooth_l1_loss(above, torch.zeros_like(above), reduction="none", beta=smoothing)


def smoothed_hinge_slope(t: Tensor, smoothing: float) -> Tensor:
    """The derivative of `smoothed_hinge`: clamp(t / smoothing, 0, 1); without smoothing the step 1[t > 0].

    Example:
        >>> smoothed_hinge_slope(torch.tensor([-1.0, 0.5, 2.0]), 1.0)
        tensor([0.0000, 0.5000, 1.0000])
    """
    if smoothing == 0.0:
        return (t > 0).to(t.dtype)
    return (t / smoothing).clamp(0.0, 1.0)
