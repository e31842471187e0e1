"""Spectral risks: every permutation of the spectrum as a vertex certifies the inner solution; Prospect in numpy."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from book_lines import close, linear

from guidestar import KL, ChiSquare, CVaR, KLBall, Mean, Spectral, TopK
from guidestar.optim import Prospect
from guidestar.risks import spectra

SPECTRA = {
    "superquantile": (spectra.superquantile(0.35), lambda i, n: _superquantile(i, n, 0.65)),
    "extremile": (spectra.extremile(2.5), lambda i, n: (i / n) ** 2.5 - ((i - 1) / n) ** 2.5),
    "esrm": (
        spectra.esrm(1.7),
        lambda i, n: math.exp(-1.7) * (math.exp(1.7 * i / n) - math.exp(1.7 * (i - 1) / n)) / (1 - math.exp(-1.7)),
    ),
    "worst": (spectra.superquantile(1e-9), lambda i, n: float(i == n)),
    "mean": (spectra.superquantile(1.0), lambda i, n: 1 / n),
    "table": (torch.tensor([0.1, 0.6, 0.05, 0.05, 0.2], dtype=torch.float64), None),
}
LOSSES = {
    "spread": [0.3, -1.2, 2.0, 0.9, 0.4],
    "ties": [1.0, 0.0, 1.0, 1.0, 0.0],
    "equal": [0.7, 0.7, 0.7, 0.7, 0.7],
    "extreme": [1e4, -1e4, 3.0, 9999.5, 0.0],
    "near": [0.11, 0.12, 0.1, 0.13, 0.09],
}


def _superquantile(i: int, n: int, q: float) -> float:
    """methods.md: nothing below floor(n q), a fractional entry there, then 1 / (n (1 - q))."""
    whole = math.floor(n * q)
    if i - 1 < whole:
        return 0.0
    return (whole + 1 - n * q) / (n * (1 - q)) if i - 1 == whole else 1 / (n * (1 - q))


def weights_of(name: str, n: int) -> np.ndarray:
    """The spectrum in the papers' order, the smallest loss first."""
    spectrum, formula = SPECTRA[name]
    if formula is None:
        return np.sort(spectrum.numpy())
    return np.array([formula(i, n) for i in range(1, n + 1)])


@pytest.mark.parametrize("name", ["superquantile", "extremile", "esrm", "mean"])
@pytest.mark.parametrize("n", [1, 4, 5, 20])
def test_spectra_are_those_of_the_paper_read_backwards(name: str, n: int) -> None:
    close(spectra.weights(SPECTRA[name][0], n).flip(0), weights_of(name, n))
    assert weights_of(name, n).sum() == pytest.approx(1.0)


def gap(q: np.ndarray, losses: np.ndarray, sigma: np.ndarray, nu: float, penalty: str) -> float:
    """How much the linearised objective gains at the best vertex of the permutahedron: 0 only at the maximum."""
    n = len(losses)
    slope = losses - nu * (n * q - 1 if penalty == "chi_square" else np.log(np.maximum(n * q, 1e-300)) + 1)
    return max(float(np.dot(vertex, slope)) for vertex in permutations(sigma)) - float(slope @ q)


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("penalty", ["chi_square", "kl"])
@pytest.mark.parametrize("nu", [0.0, 0.02, 0.5, 30.0])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_weights_are_the_maximum_over_the_permutahedron(name: str, nu: float, penalty: str, losses: str) -> None:
    values, sigma = np.array(LOSSES[losses]), weights_of(name, 5)
    leaf = torch.tensor(values, requires_grad=True)
    risk = Spectral(SPECTRA[name][0], nu=nu, penalty=penalty)
    found = risk(leaf)
    q = torch.autograd.grad(found, leaf)[0].numpy()
    scale = 1e-9 * max(1.0, float(np.abs(values).max()))
    assert q.sum() == pytest.approx(1.0, abs=1e-12)
    for size in range(1, 6):  # in the permutahedron: no k weights are larger than the k largest of the spectrum
        assert np.sort(q)[-size:].sum() <= np.sort(sigma)[-size:].sum() + 1e-12
    if not (penalty == "kl" and nu > 0 and (q < 1e-200).any()):  # log 0 has no gradient to certify with
        assert gap(q, values, sigma, nu, penalty) <= scale
    divergence = (
        0.5 * 5 * ((q - 0.2) ** 2).sum() if penalty == "chi_square" else sum(a * math.log(5 * a) for a in q if a)
    )
    assert float(found.detach()) == pytest.approx(q @ values - nu * divergence, rel=1e-10, abs=1e-10)
    if nu == 0.0:
        close(found, np.sort(values) @ sigma, rtol=1e-12)


@pytest.mark.parametrize("losses", LOSSES)
def test_identities(losses: str) -> None:
    values = torch.tensor([LOSSES[losses], [0.5 * each for each in LOSSES[losses]]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, True], [True] * 5])
    worst = spectra.superquantile(1e-12)
    pairs = [
        (Spectral(worst, nu=0.7, penalty="kl"), KL(0.7)),
        (Spectral(worst, nu=0.7), ChiSquare(0.7, ball=False)),
        (Spectral(spectra.superquantile(0.3)), TopK(0.3)),
        (Spectral(spectra.superquantile(1.0), nu=3.0), Mean()),
        (Spectral(spectra.extremile(1.0)), TopK(1.0)),
    ]
    for one, two in pairs:
        leaf = values.clone().requires_grad_()
        left, right = one(leaf, mask=mask), two(leaf, mask=mask)
        close(left, right.detach(), rtol=1e-9)
        gradients = [torch.autograd.grad(side.sum(), leaf)[0] for side in (left, right)]
        assert not gradients[0][0, 2]
        if losses not in ("ties", "equal"):  # a subgradient is not the only one
            close(gradients[0], gradients[1], rtol=1e-7, atol=1e-9)


def test_an_extremile_is_the_mean_of_the_largest_of_r_draws() -> None:
    values = np.array(LOSSES["spread"])
    draws = [max(a, b, c) for a in values for b in values for c in values]
    close(Spectral(spectra.extremile(3.0))(torch.tensor(values)), np.mean(draws))


@pytest.mark.parametrize("rho", [0.01, 0.3, 1.9])
def test_the_chi_square_ball_against_the_dual_on_a_grid(rho: float) -> None:
    values = np.array(LOSSES["spread"])
    grid = np.linspace(-60, 2.0, 400001)
    hinge = np.maximum(values[None] - grid[:, None], 0)
    dual = math.sqrt(1 + 2 * rho) * np.sqrt((hinge**2).mean(1)) + grid
    leaf = torch.tensor(values, requires_grad=True)
    found = ChiSquare(rho)(leaf)
    close(found, dual.min(), rtol=1e-6)
    p = torch.autograd.grad(found, leaf)[0].numpy()
    assert p.min() >= 0
    assert 0.1 * ((5 * p - 1) ** 2).sum() <= rho + 1e-9
    close(found, p @ values, rtol=1e-9)
    if rho == 0.01:
        close(found, values.mean() + math.sqrt(2 * rho * values.var()), rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.77])
def test_cvar_and_its_ball_are_bounded_by_the_exact_ones_from_below(alpha: float) -> None:
    values = torch.tensor(LOSSES["spread"], dtype=torch.float64)
    exact = TopK(alpha)(values)
    risk = CVaR(alpha, lr=0.02).double()
    leaf = values.clone().requires_grad_()
    for _ in range(300):
        found = risk(leaf).detach()
        assert found >= exact - 1e-12
    close(found, exact, rtol=0.03)
    ball = KLBall(0.2, tau=0.5, lr=0.1).double()
    for _ in range(300):
        last = ball(leaf).detach()
    assert float(last) <= float(values.max())
    assert float(last) >= float(values.mean())


class Memory:
    """Prospect's table in numpy, for batches of B samples (the mean of B of the paper's steps)."""

    def __init__(self, risk: Spectral, w: np.ndarray, x: np.ndarray, y: np.ndarray, lr: float, mu: float) -> None:
        self.risk, self.w, self.x, self.y, self.lr, self.mu, self.n = risk, w, x, y, lr, mu, len(y)
        self.l = (x @ w - y) ** 2 / 2
        self.g, self.rho, self.bar = np.zeros_like(x), np.zeros(self.n), np.zeros(len(w))  # not the paper's first pass

    def weights(self) -> np.ndarray:
        leaf = torch.tensor(self.l, requires_grad=True)
        return torch.autograd.grad(self.risk(leaf), leaf)[0].numpy()

    def step(self, rows: list[int]) -> None:
        q, error = self.weights(), self.x[rows] @ self.w - self.y[rows]
        fresh = error[:, None] * self.x[rows]
        change = q[rows, None] * fresh - self.rho[rows, None] * self.g[rows]
        v = self.n / len(rows) * change.sum(0) + self.bar
        self.l[rows], self.g[rows], self.rho[rows] = error**2 / 2, fresh, q[rows]
        self.bar = self.bar + change.sum(0)
        self.w = (self.w - self.lr * v) / (1 + self.lr * self.mu)


@pytest.mark.parametrize(("size", "lr"), [(1, 0.01), (6, 0.05)])
@pytest.mark.parametrize("penalty", ["chi_square", "kl"])
def test_prospect_by_hand_and_its_minimum(penalty: str, size: int, lr: float) -> None:
    rng = np.random.default_rng(3)
    x, y, w0, mu = rng.normal(size=(12, 3)), 2 * rng.normal(size=12), rng.normal(size=3), 0.1
    risk = Spectral(spectra.superquantile(0.4), nu=1.0, penalty=penalty)
    w = linear(w0)
    prospect = Prospect([w], risk, num_rows=12, lr=lr, l2=mu)
    memory = Memory(risk, w0.copy(), x, y, lr, mu)
    prospect.fill((torch.tensor(x) @ w - torch.tensor(y)) ** 2 / 2, torch.arange(12))
    for step in range(40 if size == 1 else 150):
        rows = rng.permutation(12)[:size]
        prospect.step((torch.tensor(x[rows]) @ w - torch.tensor(y[rows])) ** 2 / 2, torch.tensor(rows))
        if step < 40:
            memory.step(rows.tolist())
            close(w, memory.w, rtol=1e-8)
    value = risk((torch.tensor(x) @ w - torch.tensor(y)) ** 2 / 2) + mu / 2 * w.square().sum()
    (gradient,) = torch.autograd.grad(value, w)
    if size == 6:
        assert float(gradient.norm()) < 1e-5  # a constant step reaches the minimum over the whole data


def test_the_factor_of_two_between_the_paper_and_its_code() -> None:
    # The paper's nu n |q - 1/n|^2 with nu is twice the code's (n nu / 2) |q - 1/n|^2, which is `nu` here.
    values, nu = np.array([0.0, 0.1]), 0.3
    q = Spectral(spectra.superquantile(0.5), nu=2 * nu).weights(torch.tensor(values)).numpy()
    grid = np.linspace(0, 1, 1000001)
    paper = grid * values[1] - nu * 2 * ((grid - 0.5) ** 2 + (1 - grid - 0.5) ** 2)
    assert q[1] == pytest.approx(grid[paper.argmax()], abs=1e-5)
