"""Spectral risks: losses weighted by their ranks, smoothed by a penalty; exact within the batch."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from guidestar.risks.base import Risk, Rows, whole
from guidestar.risks.chi_square import divergence
from guidestar.risks.isotonic import Penalty, permutahedron_weights
from guidestar.risks.spectra import Spectrum, as_spectrum
from guidestar.risks.spectra import weights as weights_of


class Spectral(Risk):
    r"""The worst case over the weightings that a spectrum allows, minus a penalty for being far from uniform.

    $\max_{q \in \mathcal P(\sigma)} \sum_j q_j \ell_j - \nu D(q)$

    - $\sigma$ = `spectrum`: the weight of each rank, the largest loss's first; $\mathcal P(\sigma)$, the permutahedron,
      is the convex hull of its permutations. `guidestar.risks.spectra` has the superquantile, the extremile and ESRM.
    - $D$ = `penalty`: $\frac{1}{2m} \sum_j (m q_j - 1)^2 = \frac m2 \|q - \frac1m\|^2$ for "chi_square", which is also the
      divergence of `ChiSquare`; $\sum_j q_j \log(m q_j)$ for "kl".
    - $\nu$ = `nu`: the price. 0 is the plain spectral risk $\sum_k \sigma_{[k]} \ell_{[k]}$. A positive one makes q, and
      so the gradient, a continuous function of the losses, which `guidestar.optim.Prospect` needs.

    **The factor of two.** Prospect's paper writes its penalty as $\nu m \|q - \frac1m\|^2 = 2 \nu D(q)$, while its code
    computes $\frac{m \nu}{2} \|q - \frac1m\|^2 = \nu D(q)$. So pass the `nu` of the *code* as it is, and twice the $\nu$ of
    the *paper*. A paper's $\mu$ is a regulariser of the model and belongs to the optimizer.

    The inner problem is solved exactly: the losses are sorted, and neighbours are pooled by isotonic regression, with
    quadratic or entropic levels (`guidestar.risks.isotonic`). With all weight on one rank, $\mathcal P(\sigma)$ is the
    simplex, and this is `ChiSquare(nu, ball=False)` or `KL(tau=nu)`; with nu = 0 the superquantile is `TopK`.

    Args:
        spectrum: a function of `guidestar.risks.spectra` (or any such function), or a tensor of weights `[M]` in any
            order.
        nu: price of the divergence, at least 0.
        penalty: "chi_square" or "kl".

    Shapes:
        `losses` `[..., m]` -> `[...]`; `index` is not needed. A single row `[m]` is taken over all ranks' losses.

    State:
        none but the count of empty rows.

    Value and gradient:
        the worst case, and its weights q (Danskin's theorem). Within small batches it is biased, as every in-batch risk;
        `guidestar.optim.Prospect` keeps the losses of all samples instead.

    Raises:
        ValueError: `nu` or `penalty` out of range, a spectrum that is none, shapes that do not fit.
        TypeError: a spectrum of another kind.

    Source:
        Mehta, Roulet, Pillutla and Harchaoui, "Distributionally Robust Optimization with Bias and Variance Reduction"
        (Prospect), ICLR 2024; the code's factor is followed, because it makes the penalty the usual divergence.

    Example:
        >>> from guidestar.risks import spectra
        >>> losses = torch.tensor([0.0, 4.0, 1.0, 2.0])
        >>> Spectral(spectra.superquantile(0.5)).weights(losses)
        tensor([0.0000, 0.5000, 0.0000, 0.5000])
        >>> Spectral(spectra.superquantile(0.5), nu=1.0).weights(losses)
        tensor([0.0000, 0.5000, 0.1250, 0.3750])
    """

    def __init__(self, spectrum: Spectrum | Tensor, *, nu: float = 0.0, penalty: Penalty = "chi_square") -> None:
        super().__init__()
        if not 0.0 <= nu < float("inf"):
            raise ValueError(f"`nu` is a price and must be at least 0 and finite. Found {nu}.")
        if penalty not in get_args(Penalty):
            raise ValueError(f"`penalty` must be 'chi_square' or 'kl'. Found {penalty!r}.")
        self.spectrum = as_spectrum(spectrum)
        self.nu = float(nu)
        self.penalty: Penalty = penalty

    def value(self, rows: Rows) -> Tensor:
        losses, mask, _ = whole(rows)
        weights = spectral_weights(losses.detach(), self.spectrum, self.nu, self.penalty, mask)
        kept = losses if mask is None else torch.where(mask, losses, 0.0)
        value = (weights * kept).sum(-1)
        if self.nu == 0.0:
            return value
        distance = divergence(weights, mask) if self.penalty == "chi_square" else kl_divergence(weights, mask)
        return value - self.nu * distance

    def extra_repr(self) -> str:
        return f"nu={self.nu}, penalty={self.penalty!r}"


def kl_divergence(weights: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""$\sum_j q_j \log(m q_j)$ of weights `[..., m]` from the uniform ones, over the unmasked entries.

    Example:
        >>> kl_divergence(torch.tensor([1.0, 0.0]))
        tensor(0.6931)
    """
    m = weights.shape[-1] if mask is None else mask.sum(-1, keepdim=True)
    return torch.xlogy(weights, m * weights).sum(-1)


@torch.no_grad()
def spectral_weights(
    losses: Tensor, spectrum: Spectrum, nu: float, penalty: Penalty = "chi_square", mask: Tensor | None = None
) -> Tensor:
    r"""The $q \in \mathcal P(\sigma)$ that maximises $\sum_j q_j \ell_j - \nu D(q)$, as `Spectral` defines it.

    Args:
        losses: `[..., m]`.
        spectrum: T of `guidestar.risks.spectra`.
        nu, penalty: as for `Spectral`.
        mask: bool `[..., m]` or None.

    Returns:
        `[..., m]`, dtype of `losses`, computed in float64; 0 where masked.

    Example:
        >>> from guidestar.risks import spectra
        >>> spectral_weights(torch.tensor([0.0, 1.0]), spectra.extremile(2.0), nu=0.0)
        tensor([0.2500, 0.7500])
    """
    m = losses.shape[-1]
    exact = losses.to(torch.float64)
    if mask is not None:
        exact = torch.where(mask, exact, -float("inf"))
    ordered, order = exact.sort(dim=-1, descending=True, stable=True)
    # A tensor on the losses' device; float64, because a number times whole ones would be float32.
    count = exact.new_tensor(m) if mask is None else mask.sum(-1, keepdim=True).to(exact)
    sigma = weights_of(spectrum, count, places=m)
    if nu == 0.0:
        q = sigma.expand_as(ordered)
    else:
        # With z = l / (nu m) (chi_square) or l / nu (kl), up to a constant, D's part in q is that of the isotonic problem.
        scale = nu * count if penalty == "chi_square" else nu
        q = permutahedron_weights((ordered - ordered[..., :1]) / scale, sigma.expand_as(ordered), penalty)
    weights = torch.empty_like(exact).scatter_(-1, order, q)
    if mask is not None:
        weights = torch.where(mask, weights, 0.0)
    return weights.to(losses.dtype)
