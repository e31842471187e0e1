r"""Spectra: how much weight a spectral risk gives to the worst losses.

A spectrum is a concave function T of a share t in [0, 1] with T(0) = 0 and T(1) = 1: the total weight of the worst share
t of the losses. Over m losses the k-th largest weighs $\sigma_{[k]} = T(k/m) - T((k-1)/m)$, whatever m is, so a batch, a
masked row and a data set share one definition. Papers number the weights from the smallest loss upwards; theirs are these
read backwards.

Each function here makes such a T; so does any function of a float64 tensor of shares that has these properties, and
`table` makes one of given weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from guidestar.risks.base import check_positive, check_share

#: The weight T(t) of the worst share t, elementwise over a float64 tensor of shares.
Spectrum = Callable[[Tensor], Tensor]


def superquantile(alpha: float) -> Spectrum:
    r"""$T(t) = \min(t / \alpha, 1)$: equal weights for the worst share alpha of the losses, none for the others.

    The risk is CVaR. `alpha` is the worst share, as for `CVaR` and `TopK`; the q of Prospect's `superquantile(q)` is
    1 - alpha: its presets 0.25, 0.5 and 0.75 are alpha = 0.75, 0.5 and 0.25.

    Args:
        alpha: the worst share that counts, in (0, 1]; 1 is the mean.

    Raises:
        ValueError: `alpha` out of range.

    Example:
        >>> weights(superquantile(0.5), 5)
        tensor([0.4000, 0.4000, 0.2000, 0.0000, 0.0000], dtype=torch.float64)
    """
    return partial(_superquantile, alpha=check_share("alpha", alpha))


def extremile(r: float) -> Spectrum:
    r"""$T(t) = 1 - (1 - t)^r$: the mean of the largest of r losses that are drawn at random, for a whole r.

    Args:
        r: at least 1; 1 is the mean. Prospect's presets are 1.5, 2 and 2.5.

    Raises:
        ValueError: `r` below 1.

    Example:
        >>> weights(extremile(2.0), 4)
        tensor([0.4375, 0.3125, 0.1875, 0.0625], dtype=torch.float64)
    """
    if not check_positive("r", r) >= 1.0:
        raise ValueError(f"`r` must be at least 1 (the mean), or the largest losses would weigh least. Found {r}.")
    return partial(_extremile, r=float(r))


def esrm(rho: float) -> Spectrum:
    r"""$T(t) = (1 - e^{-\rho t}) / (1 - e^{-\rho})$: the exponential spectral risk measure.

    Args:
        rho: risk aversion, positive; towards 0 it is the mean. Prospect's presets are 0.5, 1 and 2.

    Raises:
        ValueError: `rho` is not positive.

    Example:
        >>> weights(esrm(1.0), 3)
        tensor([0.4484, 0.3213, 0.2302], dtype=torch.float64)
    """
    return partial(_esrm, rho=check_positive("rho", rho))


def table(sigma: Tensor) -> Spectrum:
    """The spectrum of M given weights, in any order; between their shares it is linear, so it holds for any m.

    Args:
        sigma: `[M]`, at least 0, with sum 1. Over M losses they are the weights themselves.

    Raises:
        ValueError: another shape, negative weights, or another sum.

    Example:
        >>> weights(table(torch.tensor([0.25, 0.75])), 4)
        tensor([0.3750, 0.3750, 0.1250, 0.1250], dtype=torch.float64)
    """
    if sigma.ndim != 1 or len(sigma) == 0:
        raise ValueError(f"a spectrum's weights must have shape [M], M at least 1. Found {tuple(sigma.shape)}.")
    exact = sigma.detach().to("cpu", torch.float64).sort(descending=True).values
    if not bool((exact >= 0).all()):
        raise ValueError(f"a spectrum's weights must be at least 0. Found {float(exact.min())}.")
    total = float(exact.sum())
    if not abs(total - 1.0) <= 1e-5:
        raise ValueError(f"a spectrum's weights must have the sum 1. Found {total:.6g}. Divide them by it.")
    return partial(_interpolated, sums=torch.cat([exact.new_zeros(1), (exact / total).cumsum(0)]))


def as_spectrum(spectrum: Spectrum | Tensor) -> Spectrum:
    """`spectrum` as a function that has been checked on a grid of shares; a tensor is a `table`.

    Raises:
        TypeError: neither a function nor a tensor.
        ValueError: T is not concave from 0 to 1, or gives another shape.

    Example:
        >>> as_spectrum(lambda t: t.sqrt())(torch.tensor(0.25))
        tensor(0.5000)
    """
    if isinstance(spectrum, Tensor):
        return table(spectrum)
    if not callable(spectrum):
        raise TypeError(
            "`spectrum` must be one of guidestar.risks.spectra, a function of shares, or a tensor of weights. Found "
            f"{type(spectrum).__name__}."
        )
    shares = torch.linspace(0.0, 1.0, 129, dtype=torch.float64)
    values = spectrum(shares)
    if not isinstance(values, Tensor) or values.shape != shares.shape:
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"`spectrum` must give a tensor of the shape of its shares, {tuple(shares.shape)}. Found {found}."
        )
    ends = float(values[0]), float(values[-1])
    if not (abs(ends[0]) <= 1e-6 and abs(ends[1] - 1.0) <= 1e-6):
        raise ValueError(f"`spectrum` must go from T(0) = 0 to T(1) = 1. Found {ends[0]:.6g} and {ends[1]:.6g}.")
    rises = values.diff()
    if not bool((rises >= -1e-9).all() and (rises.diff() <= 1e-9).all()):
        raise ValueError(
            "`spectrum` must be concave and not fall: the weight of the worst share t, in which a larger loss never weighs "
            "less than a smaller one. Found a function that is not."
        )
    return spectrum


def weights(spectrum: Spectrum, m: int | Tensor, places: int | None = None) -> Tensor:
    """The spectrum's weights over `m` losses, of the largest loss first, in float64.

    Args:
        spectrum: T.
        m: how many losses there are, or that number for each row, `[..., 1]`.
        places: length of the result, m if it is a number; places after the m-th weigh 0.

    Returns:
        `[places]` or `[..., places]`.

    Example:
        >>> weights(superquantile(0.5), torch.tensor([[2], [4]]), places=4)
        tensor([[1.0000, 0.0000, 0.0000, 0.0000],
                [0.5000, 0.5000, 0.0000, 0.0000]], dtype=torch.float64)
    """
    if places is None:
        places = int(m)
    count = torch.as_tensor(m).to(torch.float64).clamp(min=1.0)
    k = torch.arange(places + 1, dtype=torch.float64, device=count.device)
    return spectrum((k / count).clamp(max=1.0)).diff(dim=-1).clamp(min=0.0)


def _superquantile(share: Tensor, alpha: float) -> Tensor:
    return (share / alpha).clamp(max=1.0)


def _extremile(share: Tensor, r: float) -> Tensor:
    return 1.0 - (1.0 - share).pow(r)


def _esrm(share: Tensor, rho: float) -> Tensor:
    return torch.expm1(-rho * share) / math.expm1(-rho)


def _interpolated(share: Tensor, sums: Tensor) -> Tensor:
    place = share * (len(sums) - 1)
    sums = sums.to(share.device)
    low = place.floor().long().clamp(max=len(sums) - 2)
    return torch.lerp(sums[low], sums[low + 1], place - low)
