"""Average precision and partial AUC: Alg. 28 to 32 as loops over a linear model, and what 6.23 and 6.29 say."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from book_lines import PAIRS, Average, Batch, Data, Pair, close, decimals, exactly, linear

from guidestar import surrogates
from guidestar.losses import AveragePrecisionLoss, PartialAUCLoss, SOPALoss, SOPAsLoss, SOTAsLoss, STACOLoss
from guidestar.risks import CVaR

N = 16
GRADED = ["squared_hinge", "logistic", "hinge", "sigmoid"]


class Lines:
    """One step of an algorithm: `(value, z)` of a batch at the weights w, and the variables that it keeps."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def losses(self, batch: Batch, w: np.ndarray, i: int, others: list[int]) -> dict[int, tuple[float, np.ndarray]]:
        """Of the pairs of i with others: value and gradient by w."""
        t = {j: float((batch.x[j] - batch.x[i]) @ w) for j in others}
        return {j: (self.pair.value(t[j]), self.pair.slope(t[j]) * (batch.x[j] - batch.x[i])) for j in others}


class Soap(Lines):
    def __init__(self, pair: Pair, gamma: float) -> None:
        super().__init__(pair)
        self.u1, self.u2 = Average(gamma), Average(gamma)

    def __call__(self, batch: Batch, w: np.ndarray) -> tuple[float, np.ndarray]:
        plus, minus = batch.kept(1.0), batch.kept(0.0)
        value, z = 0.0, np.zeros_like(w)
        for i in plus:
            found = self.losses(batch, w, i, plus + minus)
            row, both = batch.rows[i], len(plus) + len(minus)
            u1 = self.u1(row, sum(found[j][0] for j in plus) / both)
            u2 = self.u2(row, sum(found[j][0] for j in plus + minus) / both)
            for j in plus + minus:
                z += (u1 - u2 * (j in plus)) / u2**2 * found[j][1] / both / len(plus)  # step 8
            value -= u1 / u2 / len(plus)
        return value, z


class Sopa(Lines):
    def __init__(self, pair: Pair, beta: float, lr: float) -> None:
        super().__init__(pair)
        self.beta, self.eta2, self.nu = beta, lr / beta, [0.0] * N

    def __call__(self, batch: Batch, w: np.ndarray) -> tuple[float, np.ndarray]:
        plus, minus = batch.kept(1.0), batch.kept(0.0)
        value, z, b2 = 0.0, np.zeros_like(w), len(minus)
        for i in plus:
            found, row = self.losses(batch, w, i, minus), batch.rows[i]
            above = {j: float(found[j][0] - self.nu[row] > 0) for j in minus}  # step 4
            hinge = sum(max(found[j][0] - self.nu[row], 0.0) for j in minus) / b2
            value += (self.beta * self.nu[row] + hinge) / len(plus)
            z += sum(above[j] * found[j][1] for j in minus) / b2 / len(plus)
            self.nu[row] -= self.eta2 * (self.beta - sum(above.values()) / b2)  # step 6
        return value / self.beta, z / self.beta


class SopaS(Lines):
    def __init__(self, pair: Pair, tau: float, gamma: float) -> None:
        super().__init__(pair)
        self.tau, self.u = tau, Average(gamma)

    def __call__(self, batch: Batch, w: np.ndarray) -> tuple[float, np.ndarray]:
        plus, minus = batch.kept(1.0), batch.kept(0.0)
        value, z = 0.0, np.zeros_like(w)
        for i in plus:
            found = self.losses(batch, w, i, minus)
            u = self.u(batch.rows[i], sum(math.exp(found[j][0] / self.tau) for j in minus) / len(minus))
            for j in minus:
                z += math.exp(found[j][0] / self.tau) / u * found[j][1] / len(minus) / len(plus)  # steps 8, 9
            value += self.tau * math.log(u) / len(plus)
        return value, z


class SotaS(Lines):
    def __init__(self, pair: Pair, tau2: float, tau1: float, gamma0: float, gamma1: float) -> None:
        super().__init__(pair)
        self.tau1, self.tau2, self.u, self.v = tau1, tau2, Average(gamma0), Average(gamma1)

    def __call__(self, batch: Batch, w: np.ndarray) -> tuple[float, np.ndarray]:
        plus, minus = batch.kept(1.0), batch.kept(0.0)
        z, u, found = np.zeros_like(w), {}, {}
        for i in plus:
            found[i] = self.losses(batch, w, i, minus)
            u[i] = self.u(batch.rows[i], sum(math.exp(found[i][j][0] / self.tau2) for j in minus) / len(minus))
        v = self.v(0, sum(u[i] ** (self.tau2 / self.tau1) for i in plus) / len(plus))  # step 8
        for i in plus:
            for j in minus:
                p = math.exp(found[i][j][0] / self.tau2) * u[i] ** (self.tau2 / self.tau1 - 1) / v  # step 9
                z += p * found[i][j][1] / len(plus) / len(minus)
        return self.tau1 * math.log(v), z


class Staco(Lines):
    """Alg. 31 in the units of 6.32; y ascends (the printed minus contradicts the max over y)."""

    def __init__(self, pair: Pair, alpha: float, beta: float, lr: float, lr_outer: float, lr_weight: float) -> None:
        super().__init__(pair)
        self.k1, self.k2 = 1 - alpha, beta  # over n+ and n-
        self.eta_y, self.eta_nu, self.eta_outer = lr_weight / beta, lr / beta, lr_outer / ((1 - alpha) * beta)
        self.y, self.nu, self.outer = [1 - alpha] * N, [0.0] * N, 0.0

    def __call__(self, batch: Batch, w: np.ndarray) -> tuple[float, np.ndarray]:
        plus, minus = batch.kept(1.0), batch.kept(0.0)
        value, z, b2 = self.k1 * self.k2 * self.outer, np.zeros_like(w), len(minus)
        for i in plus:
            found, row = self.losses(batch, w, i, minus), batch.rows[i]
            above = {j: float(found[j][0] - self.nu[row] > 0) for j in minus}
            g = sum(max(found[j][0] - self.nu[row], 0.0) for j in minus) / b2 + self.k2 * (self.nu[row] - self.outer)
            self.y[row] = min(max(self.y[row] + self.eta_y * g, 0.0), 1.0)
            value += self.y[row] * g / len(plus)
            z += self.y[row] * sum(above[j] * found[j][1] for j in minus) / b2 / len(plus)
            self.nu[row] -= self.eta_nu * self.y[row] * (self.k2 - sum(above.values()) / b2)
        total = sum(self.y[batch.rows[i]] for i in plus)
        self.outer -= self.eta_outer * (self.k1 * self.k2 - self.k2 * total / len(plus))  # step 9
        return value / (self.k1 * self.k2), z / (self.k1 * self.k2)


def pairs_of(name: str, pair: Pair) -> tuple[torch.nn.Module, Lines]:
    """The library's loss and the book's lines with the same settings."""
    f = pair.library
    return {
        "soap": lambda: (AveragePrecisionLoss(N, gamma=0.3, surrogate=f), Soap(pair, 0.3)),
        "soap of batches": lambda: (AveragePrecisionLoss(N, gamma=1.0, surrogate=f), Soap(pair, 1.0)),
        "sopa": lambda: (SOPALoss(N, 0.4, lr=0.2, surrogate=f), Sopa(pair, 0.4, 0.2)),
        "cvar": lambda: (PartialAUCLoss(CVaR(0.4, num_rows=N, lr=0.2), f), Sopa(pair, 0.4, 0.2)),
        "sopa-s": lambda: (SOPAsLoss(N, 0.7, gamma=0.4, surrogate=f), SopaS(pair, 0.7, 0.4)),
        "sota-s": lambda: (
            SOTAsLoss(N, tau_inner=0.7, tau_outer=1.9, gamma_inner=0.4, gamma_outer=0.6, surrogate=f),
            SotaS(pair, 0.7, 1.9, 0.4, 0.6),
        ),
        "staco": lambda: (
            STACOLoss(N, 0.25, 0.4, lr=0.2, lr_outer=0.15, lr_weight=0.3, surrogate=f),
            Staco(pair, 0.25, 0.4, 0.2, 0.15, 0.3),
        ),
    }[name]()


NAMES = ["soap", "soap of batches", "sopa", "cvar", "sopa-s", "sota-s", "staco"]


@pytest.mark.parametrize("surrogate", GRADED)
@pytest.mark.parametrize("name", NAMES)
def test_twelve_steps_of_sgd_with_momentum(name: str, surrogate: str) -> None:
    data = Data(N)
    loss, lines = pairs_of(name, PAIRS[surrogate])
    loss, w, hand, velocity = loss.double(), linear(data.w0), data.w0.copy(), np.zeros(3)
    optimizer = torch.optim.SGD([w], lr=0.05, momentum=0.5)
    for batch in data.batches(12):
        x, y, rows, mask = batch.torch()
        scores = torch.where(mask, x @ w, torch.nan)  # what is masked must not matter, whatever it is
        found = loss(scores, y, rows, mask=mask)
        value, z = lines(batch, hand)
        close(found, value)
        optimizer.zero_grad()
        loss_of_kept = loss_gradient(found, w)
        close(loss_of_kept, z)
        optimizer.step()
        velocity = 0.5 * velocity + z
        hand = hand - 0.05 * velocity
        close(w, hand)


def loss_gradient(found: torch.Tensor, w: torch.nn.Parameter) -> torch.Tensor:
    found.backward()
    return w.grad


@pytest.mark.parametrize("name", ["soap", "sopa", "sopa-s", "sota-s", "staco"])
def test_labels_have_states_of_their_own_and_the_value_is_their_mean(name: str) -> None:
    pair, data, labels = PAIRS["squared_hinge"], Data(N), 3
    several = pairs_of(name, pair)[0]
    several = type(several)(*_first(name), num_labels=labels, **_settings(name)).double()
    lines = [pairs_of(name, pair)[1] for _ in range(labels)]
    y = np.stack([data.y, 1 - data.y, np.roll(data.y, 5)], axis=1)
    y[:8, 1] = np.where(y[:8, 1] == 0, 0, float("nan"))  # many without a label
    weights = linear(np.random.default_rng(3).uniform(-1, 1, (3, labels)))
    for step, batch in enumerate(data.batches(7)):
        own = y[batch.rows].copy()
        if step == 3:
            own[:, 2] = 1.0  # one class: counts in nothing
        x, _, rows, mask = batch.torch()
        found = several(x @ weights, torch.tensor(own), rows, mask=mask)
        (gradient,) = torch.autograd.grad(found, weights)
        values, z = [], np.zeros((3, labels))
        for k in range(labels):
            single = Batch(batch.rows, batch.x, own[:, k].tolist(), batch.mask)
            if single.kept(1.0) and single.kept(0.0):
                value, z[:, k] = lines[k](single, weights.detach().numpy()[:, k])
                values.append(value)
        close(found, sum(values) / len(values))
        close(gradient, z / len(values))


def _first(name: str) -> tuple[float, ...]:
    return {"sopa": (N, 0.4), "sopa-s": (N, 0.7), "staco": (N, 0.25, 0.4)}.get(name, (N,))


def _settings(name: str) -> dict[str, float]:
    return {
        "soap": {"gamma": 0.3},
        "sopa": {"lr": 0.2},
        "sopa-s": {"gamma": 0.4},
        "sota-s": {"tau_inner": 0.7, "tau_outer": 1.9, "gamma_inner": 0.4, "gamma_outer": 0.6},
        "staco": {"lr": 0.2, "lr_outer": 0.15, "lr_weight": 0.3},
    }[name]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [30.0, 300.0])
@pytest.mark.parametrize("name", ["sopa-s", "sota-s"])
def test_extreme_scores_in_sixty_digits(name: str, scale: float, dtype: torch.dtype) -> None:
    # tau = 0.04 and squared hinges of 1e5: exponents of a few millions, which only the logarithm holds.
    tau2, tau1, gamma = 0.04, 0.1, 0.25
    if name == "sopa-s":
        loss = SOPAsLoss(4, tau2, gamma=gamma)
    else:
        loss = SOTAsLoss(4, tau_inner=tau2, tau_outer=tau1, gamma_inner=gamma, gamma_outer=gamma)
    loss = loss.to(dtype)
    labels, rows, generator = torch.tensor([1, 1, 0, 0]), torch.arange(4), torch.Generator().manual_seed(2)
    history = []
    for _ in range(4):
        scores = (scale * torch.randn(4, generator=generator)).to(dtype).requires_grad_()
        history.append(scores.detach().double().numpy())
        found = loss(scores, labels, rows)
        (gradient,) = torch.autograd.grad(found, scores)
        expected = exactly(_entropic, history, tau2, tau1 if name == "sota-s" else None, gamma)
        assert torch.isfinite(gradient).all()
        assert float(found.detach()) == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 2e-5)


def _entropic(history: list[np.ndarray], tau2: float, tau1: float | None, gamma: float) -> Decimal:
    """The running value of Alg. 30 (Alg. 32 with tau1) after these scores of two positives and two negatives."""
    g, t2 = Decimal(gamma), Decimal(tau2)
    u: list[Decimal | None] = [None, None]
    v: Decimal | None = None
    for scores in history:
        s = decimals(scores)
        for i in (0, 1):
            new = sum((max(1 + s[j] - s[i], Decimal(0)) ** 2 / t2).exp() for j in (2, 3)) / 2
            old = u[i]
            u[i] = new if old is None else (1 - g) * old + g * new
        logs = [value.ln() for value in u if value is not None]
        if tau1 is not None:
            new = sum((each * t2 / Decimal(tau1)).exp() for each in logs) / 2
            v = new if v is None else (1 - g) * v + g * new
    return t2 * sum(logs) / 2 if tau1 is None or v is None else Decimal(tau1) * v.ln()


def top(values: list[float], k: int) -> float:
    return sum(sorted(values, reverse=True)[:k]) / k


@pytest.mark.parametrize("k", [1, 3, 8])
def test_over_the_thresholds_the_smallest_objective_is_the_mean_over_the_top_k_negatives(k: int) -> None:
    # 6.25 and Lemma 6.1, by putting thresholds into the memory; 6.24 sorts the scores of the negatives, not the losses.
    rng = np.random.default_rng(0)
    scores, minus = rng.normal(size=12), list(range(4, 12))
    labels, rows = torch.tensor([1.0] * 4 + [0.0] * 8), torch.arange(12)
    hardest = sorted(minus, key=lambda j: -scores[j])[:k]
    exact = np.mean([PAIRS["squared_hinge"].value(scores[j] - scores[i]) for i in range(4) for j in hardest])
    loss = SOPALoss(12, k / 8, lr=1e-12).double()
    best = []
    for i in range(4):
        losses = sorted((PAIRS["squared_hinge"].value(scores[j] - scores[i]) for j in minus), reverse=True)
        best.append((losses[k] + losses[k - 1]) / 2 if k < 8 else losses[-1] - 0.1)
    for shift in (0.0, -0.3, 0.3, 2.0):
        with torch.no_grad():
            loss.risk.dual.memory.values[:4] = torch.tensor(best) + shift
        value = float(loss(torch.tensor(scores, requires_grad=True), labels, rows).detach())
        assert value == pytest.approx(exact) if shift == 0.0 else value >= exact - 1e-9
    assert float(loss.eval()(torch.tensor(scores), labels)) == pytest.approx(exact)


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (2, 3), (4, 8)])
def test_the_saddle_point_of_staco_is_the_mean_over_the_top_pairs(k1: int, k2: int) -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=12)
    labels, rows = torch.tensor([1.0] * 4 + [0.0] * 8), torch.arange(12)
    lowest = sorted(range(4), key=lambda i: scores[i])[:k1]
    hardest = sorted(range(4, 12), key=lambda j: -scores[j])[:k2]
    exact = np.mean([PAIRS["squared_hinge"].value(scores[j] - scores[i]) for i in lowest for j in hardest])
    loss = STACOLoss(12, 1 - k1 / 4, k2 / 8, lr=1e-12, lr_outer=1e-12, lr_weight=1e-9).double()
    each, nu = [], []
    for i in range(4):
        losses = sorted((PAIRS["squared_hinge"].value(scores[j] - scores[i]) for j in range(4, 12)), reverse=True)
        each.append(np.mean(losses[:k2]))
        nu.append((losses[k2] + losses[k2 - 1]) / 2 if k2 < 8 else losses[-1] - 0.1)  # any number between will do
    with torch.no_grad():
        loss.threshold.memory.values[:4] = torch.tensor(nu)
        loss.weight.memory.values[:4] = torch.tensor([float(i in lowest) for i in range(4)])
        loss.outer.memory.values[0] = sorted(each, reverse=True)[k1 - 1]
    leaf = torch.tensor(scores, requires_grad=True)
    value = loss(leaf, labels, rows)
    assert float(value.detach()) == pytest.approx(exact, rel=1e-6)
    expected = np.zeros(12)
    for i in lowest:
        for j in hardest:
            slope = PAIRS["squared_hinge"].slope(scores[j] - scores[i]) / k1 / k2
            expected[j] += slope
            expected[i] -= slope
    close(torch.autograd.grad(value, leaf)[0], expected, rtol=1e-6, atol=1e-7)
    assert float(loss.eval()(leaf, labels).detach()) == pytest.approx(exact)


def test_the_weight_of_a_positive_that_is_ranked_badly_rises() -> None:
    # The printed minus of step 6 would lower it, and the hardest positives would count least.
    loss = STACOLoss(4, 0.5, 0.5, lr=0.01, lr_outer=0.01, lr_weight=0.05)
    scores = torch.tensor([-2.0, 3.0, 0.0, 0.5], requires_grad=True)
    for _ in range(60):
        loss(scores, torch.tensor([1, 1, 0, 0]), torch.arange(4))
    hard, easy = (float(loss.weight.memory.values[i]) for i in (0, 1))
    assert hard == 1.0
    assert hard > easy


def test_a_tie_with_the_threshold_does_not_count_as_above_it() -> None:
    loss = SOPALoss(3, 0.5, lr=0.1, surrogate=surrogates.hinge).double()
    with torch.no_grad():
        loss.risk.dual.memory.values[0] = 1.0  # l = 1 of both pairs exactly
    scores = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    value = loss(scores, torch.tensor([1, 0, 0]), torch.arange(3))
    assert float(value.detach()) == 1.0
    assert not torch.autograd.grad(value, scores)[0].any()
    close(loss.risk.dual.memory.values[0], 1.0 - 0.1)
