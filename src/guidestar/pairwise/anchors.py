"""From the statistics of anchors to a risk of each anchor, and to their mean."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar import distributed
from guidestar.pairwise.statistics import Side
from guidestar.risks.kl import KL
from guidestar.risks.kl_ball import KLBall
from guidestar.state import Counter, math_dtype

Entropic = KL | KLBall


def anchor_mean(values: Tensor, active: Tensor | None, *, spread: bool) -> Tensor:
    """The mean of `values` `[b]` over the anchors that count, on all ranks; gradients stay this rank's.

    Example:
        >>> anchor_mean(torch.tensor([1.0, 3.0]), torch.tensor([True, False]), spread=False)
        tensor(1.)
    """
    if values.numel() == 0 and not spread:
        return values.sum()
    if active is None:
        average = values.sum() / max(1, values.numel())
    else:
        count = active.sum().to(values.dtype)
        count = (distributed.mean(count) if spread else count).clamp(min=torch.finfo(values.dtype).tiny)
        average = torch.where(active, values, 0.0).sum() / count
    return distributed.mean_value(average) if spread else average


def count_idle(counter: Counter, active: Tensor | None, count: int) -> None:
    """Count the anchors that do not count; a batch without any counts as one.

    Args:
        counter: what is added to.
        active: bool `[count]`: which anchors count; None: all.
        count: how many there are.

    Example:
        >>> counter = Counter()
        >>> count_idle(counter, torch.tensor([True, False]), 2)
        >>> int(counter.count)
        1
    """
    if count == 0:
        counter.add(torch.ones(1, dtype=torch.bool))
    elif active is not None:
        counter.add(~active)


def anchor_inner(
    side: Side, positive: Tensor, scale: Tensor, *, shifted: bool, norm: float | Tensor
) -> tuple[Tensor, Tensor]:
    r"""$\log \frac{1}{norm} \sum_j e^{a_i (L_{ij} - L_{i+})}$ and the mean of its exponents, detached, `[b]` each.

    Args:
        side: the sums over $e^{a_i L_{ij}}$.
        positive: $L_{i+}$, `[b]`.
        scale: $a$, a scalar or `[b]`.
        shifted: whether the positive is subtracted within the exponent.
        norm: what the sum is divided by, a number or `[b]`.
    """
    log_norm = torch.as_tensor(norm, dtype=positive.dtype, device=positive.device).clamp(min=1).log()
    inner, expected = side.log_sum - log_norm, side.expected
    if shifted:
        inner = inner - scale * positive
        expected = expected - (scale * positive).detach()
    return inner, expected


def anchor_risk(
    risk: Entropic,
    inner: Tensor,
    expected: Tensor,
    tau: Tensor,
    index: Tensor | None,
    active: Tensor | None,
    *,
    eps: float,
    predicted: bool,
) -> tuple[Tensor, Tensor | None]:
    """The risk of each anchor `[b]`, and the slope by its temperature where that is a dual variable."""
    if isinstance(risk, KL):
        return risk.finish(inner, index, active, eps=eps), None
    value, slope = risk.finish(inner, expected, tau, index, active, eps=eps)
    return value, None if predicted else slope


def temperature(risk: Entropic, predicted: Tensor | None, index: Tensor | None, like: Tensor) -> Tensor:
    """The temperatures of the anchors: predicted ones, or the risk's own; a scalar or `[b]`."""
    if isinstance(risk, KL):
        return like.new_tensor(risk.tau)
    if predicted is not None:
        return predicted.to(like.dtype)
    return risk.dual.values(risk.dual_index(index)).to(like.dtype)


def inverse_temperature(tau: Tensor | None, constant: float, like: Tensor) -> Tensor:
    """1 / tau of a mini-batch loss, a scalar: of the tensor `tau`, where one is given, else of the constant.

    Raises:
        ValueError: `tau` is no scalar, or not positive.
        TypeError: `tau` is no floating-point tensor.

    Example:
        >>> inverse_temperature(None, 0.5, torch.zeros(1))
        tensor(2.)
    """
    return 1.0 / (like.new_tensor(constant) if tau is None else scalar("tau", check_tau("tau", tau)).to(like))


def scalar(name: str, value: Tensor) -> Tensor:
    """`value`, if it is a floating-point scalar.

    Raises:
        ValueError: it has dimensions.
        TypeError: it is no floating-point tensor.

    Example:
        >>> scalar("bias", torch.tensor(0.5))
        tensor(0.5000)
    """
    math_dtype(value)
    if value.ndim:
        raise ValueError(f"`{name}` must be a scalar tensor, []. Found {tuple(value.shape)}.")
    return value


def check_tau(name: str, tau: Tensor) -> Tensor:
    """`tau`, if it is a tensor of positive temperatures (whose values are looked at on the CPU only).

    Raises:
        ValueError: one is not positive.
        TypeError: it is no floating-point tensor.

    Example:
        >>> check_tau("tau", torch.tensor(0.5))
        tensor(0.5000)
    """
    math_dtype(tau)
    looked_at = tau.device.type == "cpu" and tau.numel() and not torch.compiler.is_compiling()
    if looked_at and bool((tau <= 0).any()):
        raise ValueError(f"`{name}` must be positive. Found {float(tau.min())}.")
    return tau
