"""The contrastive objectives of section 6.5 and Eq. 6.121, one anchor and one pair after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


@dataclass
class Side:
    """One kind of anchors: their similarities [n, n] with all candidates, and which are positives and negatives."""

    similarity: Tensor
    positives: list[list[int]]
    negatives: list[list[int]]
    counted: list[int]

    def positive(self, i: int) -> Tensor:
        return torch.stack([self.similarity[i, p] for p in self.positives[i]]).mean()


def features(seed: int, size: int = 5, width: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Two leaves of unit norm, and two tensors of a reference of another width."""
    rng = torch.Generator().manual_seed(seed)

    def unit(columns: int) -> Tensor:
        values = torch.randn(size, columns, generator=rng, dtype=torch.float64)
        return (values / values.norm(dim=1, keepdim=True)).to(dtype)

    return [unit(width).requires_grad_(), unit(width).requires_grad_(), unit(width + 1), unit(width + 1)]


def two_towers(
    image: Tensor,
    text: Tensor,
    reference: tuple[Tensor, Tensor] | None = None,
    groups: Sequence[int] | None = None,
    mask: Sequence[bool] | None = None,
    several: bool = False,
) -> tuple[Side, Side]:
    """Images over texts, and texts over images; similarities are less the reference's (Eq. 6.121)."""
    n = len(image)
    group = list(range(n)) if groups is None else list(groups)
    valid = [True] * n if mask is None else list(mask)
    s = torch.stack([torch.stack([image[i] @ text[j] for j in range(n)]) for i in range(n)])
    if reference is not None:
        s = s - torch.stack([torch.stack([reference[0][i] @ reference[1][j] for j in range(n)]) for i in range(n)])
    alike = [[j for j in range(n) if group[j] == group[i] and valid[j]] for i in range(n)]
    positives = alike if several else [[i] for i in range(n)]
    negatives = [[j for j in range(n) if group[j] != group[i] and valid[j]] for i in range(n)]
    counted = [i for i in range(n) if valid[i] and negatives[i]]
    return Side(s, positives, negatives, counted), Side(s.T, positives, negatives, counted)


def one_tower(
    first: Tensor,
    second: Tensor,
    reference: tuple[Tensor, Tensor] | None = None,
    groups: Sequence[int] | None = None,
    mask: Sequence[bool] | None = None,
    several: bool = False,
) -> Side:
    """2 B anchors: the first views, then the second; negatives are both views of other samples (Fig. 6.21)."""
    n = len(first)
    h = torch.cat([first, second])
    s = torch.stack([torch.stack([h[a] @ h[b] for b in range(2 * n)]) for a in range(2 * n)])
    if reference is not None:
        r = torch.cat(reference)
        s = s - torch.stack([torch.stack([r[a] @ r[b] for b in range(2 * n)]) for a in range(2 * n)])
    group = (list(range(n)) if groups is None else list(groups)) * 2
    valid = ([True] * n if mask is None else list(mask)) * 2
    every = range(2 * n)
    others = [[b for b in every if b != a and group[b] == group[a] and valid[b]] for a in every]
    positives = others if several else [[(a + n) % (2 * n)] for a in every]
    negatives = [[b for b in every if group[b] != group[a] and valid[b]] for a in every]
    return Side(s, positives, negatives, [a for a in every if valid[a] and negatives[a]])


def inner(
    side: Side, i: int, tau: Tensor | float, *, own: bool = False, norm: str = "terms", shifted: bool = True
) -> Tensor:
    """The mean of exp(l_i / tau) of one anchor; `own`: over j = i as well; `norm`: what it is divided by."""
    shift = side.positive(i) if shifted else 0.0
    terms = [torch.exp((side.similarity[i, j] - shift) / tau) for j in side.negatives[i]]
    if own:
        terms.append(torch.exp((side.similarity[i, i] - shift) / tau))
    return torch.stack(terms).sum() / (len(terms) if norm == "terms" else len(side.negatives[i]) + 1)


def robust(
    side: Side,
    tau: Tensor | float,
    *,
    rho: float = 0.0,
    eps: float | None = None,
    negatives_only: bool = False,
    shifted: bool = True,
) -> Tensor:
    """The mean over the anchors of tau log(eps + g) + tau rho, as `DRRhoCLIPLoss` describes its options."""
    total = []
    for i in side.counted:
        t = tau[i] if isinstance(tau, Tensor) and tau.ndim else tau
        own = eps is None and not negatives_only
        g = inner(side, i, t, own=own, norm="terms" if own or negatives_only else "B", shifted=shifted)
        value = t * torch.log((eps or 0.0) + g) + t * rho
        total.append(value if shifted else value - side.positive(i))
    return torch.stack(total).mean()


def info_nce(side: Side, tau: Tensor | float, *, own_positive: bool = True) -> Tensor:
    """Eq. 6.38 to 6.40: minus the log of the share of the positive; the denominator has it and the negatives."""
    total = []
    for i in side.counted:
        positive = torch.exp(side.positive(i) / tau)
        own = positive if own_positive else sum(torch.exp(side.similarity[i, p] / tau) for p in side.positives[i])
        others = torch.stack([torch.exp(side.similarity[i, j] / tau) for j in side.negatives[i]]).sum()
        total.append(-torch.log(positive / (own + others)))
    return torch.stack(total).mean()


@dataclass
class Track:
    """u of each row (absent before the first visit) and the rate of Alg. 34 and 35."""

    gamma: float
    u: dict[int, float]

    def update(self, rows: Sequence[int], estimates: Sequence[float]) -> list[float]:
        """The new u of each entry; entries of one row count with their mean (the two views of Fig. 6.21)."""
        new = {}
        for row in set(rows):
            own = [g for r, g in zip(rows, estimates, strict=True) if r == row]
            g = sum(own) / len(own)
            new[row] = (1 - self.gamma) * self.u[row] + self.gamma * g if row in self.u else g
        self.u.update(new)
        return [new[row] for row in rows]


def estimator(
    side: Side,
    tau: Tensor | float,
    track: Track,
    rows: Sequence[int],
    *,
    eps: float,
    shifted: bool,
    rho: float = 0.0,
    scaled: bool = True,
) -> tuple[float, Tensor, list[float]]:
    """Lines 6 to 9 of Alg. 34 (not shifted) and Alg. 35: the value, a function with the gradient z_t, z_{i,t}."""
    taus = [float(tau[i]) if isinstance(tau, Tensor) and tau.ndim else float(tau) for i in range(len(rows))]
    g = [float(inner(side, i, taus[i], shifted=shifted).detach()) for i in range(len(rows))]
    u = track.update(rows, g)
    value, gradient, slopes = 0.0, [], []
    for i in side.counted:
        shift = side.positive(i) if shifted else 0.0
        z = 0.0
        for j in side.negatives[i]:
            exponent = float((side.similarity[i, j] - shift).detach()) / taus[i]
            p = float(torch.exp(torch.tensor(exponent, dtype=torch.float64))) / (eps + u[i])
            factor = 1.0 if scaled else 1.0 / taus[i]
            gradient.append(p * factor * (side.similarity[i, j] - shift) / len(side.negatives[i]) / len(side.counted))
            z -= p * exponent / len(side.negatives[i])
        log_u = float(torch.log(torch.tensor(eps + u[i], dtype=torch.float64)))
        value += (taus[i] * (log_u + rho) if scaled else log_u) / len(side.counted)
        slopes.append(z + log_u + rho if scaled else z / taus[i])
        if not shifted:
            value -= float(side.positive(i).detach()) / len(side.counted)
            gradient.append(-side.positive(i) / len(side.counted))
    return value, torch.stack(gradient).sum(), slopes


def same_value_and_gradients(found: Tensor, expected: Tensor, leaves: Sequence[Tensor]) -> None:
    """Both scalars and their gradients agree to 1e-10."""
    torch.testing.assert_close(found, expected, **TIGHT)
    for left, right in zip(
        torch.autograd.grad(found, leaves, retain_graph=True),
        torch.autograd.grad(expected, leaves, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(left, right, **TIGHT)


def slope_of_the_step(module, forward: Callable[[], Tensor]) -> Tensor:
    """(before - after) / lr of the temperatures that one forward moves."""
    before = module.dual.memory.values.clone()
    forward()
    return (before - module.dual.memory.values) / module.dual.lr
