"""Extreme classification: Alg. 26 as a loop over features and class weights, with its compared methods."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from book_lines import close, decimals, exactly

from guidestar.losses import ExtremeClassificationLoss
from guidestar.networks import ClassWeights
from guidestar.schedules import Scent

N, K, D = 12, 6, 3


def draws(steps: int) -> list[tuple[list[int], list[int]]]:
    """Rows and their labels; labels repeat within a batch, and rows come again."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, K, N)
    rows = [rng.permutation(N)[: 5 + step % 3].tolist() for step in range(steps)]
    return [(each, labels[each].tolist()) for each in rows]


class Lines:
    """Steps 5 to 8 of Alg. 26 for features h and weights w: the value, and Z of every class."""

    def __init__(self, kind: str, rate: float) -> None:
        self.kind, self.rate, self.nu = kind, rate, dict.fromkeys(range(N), 0.0) if kind == "asgd" else {}

    def move(self, row: int, g: float) -> tuple[float, float]:
        """The new nu, and this sample's part of the value."""
        a, old = self.rate, self.nu.get(row)
        if self.kind == "asgd":
            new = self.nu[row] - a * (1 - math.exp(-self.nu[row]) * g)
            return new, math.exp(-new) * g + new - 1
        if old is None or self.kind == "bsgd":
            new = math.log(g)
        elif self.kind == "scent":
            new = old + math.log(1 + a * g) - math.log(1 + a * math.exp(old))
        else:  # SOX: a constant rate on u = e^nu, with the book's alpha = gamma e^-nu and gamma = a / (1 - a)
            alpha = a / (1 - a) * math.exp(-old)
            new = old + math.log(1 + alpha * g) - math.log(1 + alpha * math.exp(old))
        return new, new

    def __call__(self, h: np.ndarray, w: np.ndarray, rows: list[int], y: list[int]) -> tuple[float, np.ndarray]:
        b, value, z = len(rows), 0.0, np.zeros_like(w)
        for i, row in enumerate(rows):
            others = [j for j in range(b) if j != i]  # the multiset of labels without this sample's one
            e = {j: math.exp((w[y[j]] - w[y[i]]) @ h[row]) for j in others}
            g = sum(e.values()) / (b - 1)
            new, part = self.move(row, g)
            self.nu[row] = new
            value += part / b
            for j in others:
                weight = e[j] * math.exp(-new) / (b - 1) / b  # step 8, with nu after its step
                z[y[j]] += weight * h[row]
                z[y[i]] -= weight * h[row]
        return value, z


METHODS = {
    "scent": lambda: (ExtremeClassificationLoss(N, gamma=Scent(0.7)), Lines("scent", 0.7)),
    "scent by default": lambda: (ExtremeClassificationLoss(N), Lines("scent", 100.0)),
    "sox": lambda: (ExtremeClassificationLoss(N, gamma=0.3), Lines("sox", 0.3)),
    "bsgd": lambda: (ExtremeClassificationLoss(N, gamma=1.0), Lines("bsgd", 1.0)),
    "asgd": lambda: (ExtremeClassificationLoss(N, dual_lr=0.3), Lines("asgd", 0.3)),
}


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("name", METHODS)
def test_ten_steps_of_algorithm_26(name: str, momentum: float) -> None:
    rng = np.random.default_rng(4)
    h, w, v = rng.normal(size=(N, D)), rng.normal(size=(K, D)), np.zeros((K, D))
    loss, lines = METHODS[name]()
    weights, loss = ClassWeights(K, D, lr=0.5, momentum=momentum).double(), loss.double()
    weights.weight.copy_(torch.tensor(w))
    w = weights.weight.numpy().astype(np.float64)  # the matrix itself is float32
    for rows, y in draws(10):
        logits, columns = weights(torch.tensor(h[rows]), torch.tensor(y))
        found = loss(logits, columns, torch.tensor(rows))
        value, z = lines(h, w, rows, y)
        close(found, value, rtol=1e-5, atol=1e-6)
        found.backward()
        weights.step()
        for k in set(y):
            v[k] = momentum * v[k] + (1 - momentum) * z[k]  # step 9, of the classes of the batch alone
            w[k] -= 0.5 * v[k]  # step 10
        close(weights.weight, w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_dense_logits_in_float64_with_masked_samples(name: str) -> None:
    rng = np.random.default_rng(5)
    h, w = rng.normal(size=(N, D)), 2 * rng.normal(size=(K, D))
    loss, lines = METHODS[name]()
    loss = loss.double()
    for step, (rows, y) in enumerate(draws(8)):
        leaf = torch.tensor(w, requires_grad=True)
        mask = torch.ones(len(rows), dtype=torch.bool)
        mask[: step % 3] = False
        found = loss(torch.tensor(h[rows]) @ leaf.T, torch.tensor(y), torch.tensor(rows), mask=mask)
        kept = [k for k in range(len(rows)) if mask[k]]  # neither a sample nor a draw
        value, z = lines(h, w, [rows[k] for k in kept], [y[k] for k in kept])
        close(found, value)
        close(torch.autograd.grad(found, leaf)[0], z)
        w = w - 0.4 * z
    kept = loss.dual if name == "asgd" else (loss.risk.tracker if name != "bsgd" else None)
    if kept is not None:
        values = kept.memory.values.numpy()
        close([values[row] for row in lines.nu], list(lines.nu.values()))


@pytest.mark.parametrize(("alpha", "g", "old"), [(0.5, 3.0, 0.2), (20.0, 0.01, 1.5), (0.01, 40.0, -2.0)])
def test_the_closed_form_is_the_proximal_step(alpha: float, g: float, old: float) -> None:
    # Step 6 itself: the minimiser on a grid of g e^-nu + nu + D(nu, old) / alpha with D of e^-nu.
    grid = np.linspace(-6, 6, 1200001)
    bregman = np.exp(-grid) - math.exp(-old) + math.exp(-old) * (grid - old)
    best = grid[(g * np.exp(-grid) + grid + bregman / alpha).argmin()]
    loss = ExtremeClassificationLoss(2, gamma=Scent(alpha)).double()
    loss.risk.tracker.memory.values.fill_(old)
    logits = torch.tensor([[0.0, math.log(g)], [math.log(g), 0.0]], dtype=torch.float64, requires_grad=True)
    value = loss(logits, torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert float(value.detach()) == pytest.approx(best, abs=2e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [100.0, 3000.0])
def test_large_logits_in_sixty_digits(scale: float, dtype: torch.dtype) -> None:
    # LibAUC's returns 0 without a word above 88.
    alpha = 0.25
    loss = ExtremeClassificationLoss(4, gamma=Scent(alpha)).to(dtype)
    generator, history = torch.Generator().manual_seed(1), []
    y, rows = torch.tensor([0, 1, 2, 1]), torch.arange(4)
    for _ in range(5):
        logits = (scale * torch.randn(4, 3, generator=generator)).to(dtype).requires_grad_()
        history.append(logits.detach().double().numpy())
        value = loss(logits, y, rows)
        (gradient,) = torch.autograd.grad(value, logits)
        assert not gradient.isnan().any()
        expected = exactly(_nu, history, y.tolist(), alpha)
        assert float(value.detach()) == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 1e-5)


def _nu(history: list[np.ndarray], y: list[int], alpha: float) -> Decimal:
    a, total = Decimal(alpha), Decimal(0)
    for i in range(4):
        u: Decimal | None = None
        for logits in history:
            s = decimals(logits[i])
            g = sum((s[y[j]] - s[y[i]]).exp() for j in range(4) if j != i) / 3
            u = g if u is None else u * (1 + a * g) / (1 + a * u)
        total += u.ln() / 4 if u is not None else 0
    return total


def test_with_every_class_drawn_once_it_is_the_cross_entropy_less_log_k() -> None:
    rng = np.random.default_rng(6)
    s, y = torch.tensor(rng.normal(size=(5, K)), requires_grad=True), torch.tensor([0, 3, 3, 5, 1])
    loss = ExtremeClassificationLoss(5, gamma=1.0)
    value = loss(s, y, torch.arange(5), counts=torch.ones(K))
    exact = torch.nn.functional.cross_entropy(s, y) - math.log(K)
    close(value, exact.detach())
    close(torch.autograd.grad(value, s)[0], torch.autograd.grad(exact, s)[0])
