"""DRO over samples: Alg. 24, 6.14 and 6.16 as loops, STORM's lines, and the losses of one sample's labels."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from book_lines import Average, close, decimals, exactly, linear

from guidestar import KL, KLBall, Tracker
from guidestar.losses import (
    ABSGDLoss,
    ALDRLoss,
    ClassBalancedLoss,
    DRRhoCrossEntropyLoss,
    FocalLoss,
    LDRLoss,
    LogitAdjustedLoss,
)
from guidestar.optim import Storm
from guidestar.optim.storm import recall
from guidestar.schedules import Scent

C, D = 3, 4


def softmax(row: np.ndarray) -> np.ndarray:
    e = np.exp(row - row.max())
    return e / e.sum()


class Samples:
    """Batches of a linear classifier: features, labels, reference losses, which count."""

    def __init__(self, steps: int, *, scale: float = 1.0) -> None:
        rng = np.random.default_rng(5)
        self.w0 = rng.normal(size=(D, C))
        self.batches = []
        for step in range(steps):
            size = (6, 5, 1, 7)[step % 4]
            x, y = scale * rng.normal(size=(size, D)), rng.integers(0, C, size)
            x[-1] = x[0]
            mask = np.ones(size, dtype=bool)
            mask[: size // 3] = step % 2 == 0
            mask &= step != 6
            self.batches.append((x, y, rng.uniform(0, 1, size), mask))


def cross_entropies(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[list[float], list[np.ndarray]]:
    """Loss and gradient by w of each sample: outer(x, p - onehot)."""
    values, gradients = [], []
    for row, label in zip(x, y, strict=True):
        p = softmax(row @ w)
        values.append(-math.log(p[label]))
        gradients.append(np.outer(row, p - np.eye(C)[label]))
    return values, gradients


class Absgd:
    def __init__(self, tau: float, gamma: float) -> None:
        self.tau, self.u = tau, Average(gamma)

    def __call__(self, losses: list[float], gradients: list[np.ndarray]) -> tuple[float, np.ndarray]:
        e = [math.exp(loss / self.tau) for loss in losses]
        u = self.u(0, sum(e) / len(e))  # step 4
        return self.tau * math.log(u), sum(a / u * g for a, g in zip(e, gradients, strict=True)) / len(e)  # step 5


class Ball:
    """6.16 with tau as a second variable: both steps from (w_t, tau_t)."""

    def __init__(self, rho: float, tau: float, tau_min: float, gamma: float, lr: float) -> None:
        self.rho, self.tau, self.tau_min, self.lr, self.u = rho, tau, tau_min, lr, Average(gamma)

    def __call__(self, losses: list[float], gradients: list[np.ndarray]) -> tuple[float, np.ndarray]:
        tau = self.tau
        e = [math.exp(loss / tau) for loss in losses]
        u = self.u(0, sum(e) / len(e))
        z = sum(a / u * g for a, g in zip(e, gradients, strict=True)) / len(e)
        z_tau = math.log(u) + self.rho - sum(a / u * l / tau for a, l in zip(e, losses, strict=True)) / len(e)
        self.tau = max(self.tau_min, tau - self.lr * z_tau)
        return tau * math.log(u) + tau * self.rho, z


ROUTES = {
    "absgd": lambda: (ABSGDLoss(0.8, gamma=0.3), Absgd(0.8, 0.3)),
    "bsgd": lambda: (ABSGDLoss(0.8, gamma=1.0), Absgd(0.8, 1.0)),
    "kl": lambda: (DRRhoCrossEntropyLoss(KL(0.8, gamma=0.3)), Absgd(0.8, 0.3)),
    "ball": lambda: (
        DRRhoCrossEntropyLoss(KLBall(0.2, tau=1.5, tau_min=0.5, gamma=0.4, lr=0.6)),
        Ball(0.2, 1.5, 0.5, 0.4, 0.6),
    ),
}


@pytest.mark.parametrize("referenced", [False, True])
@pytest.mark.parametrize("name", ROUTES)
def test_algorithm_24_and_the_learnt_temperature(name: str, referenced: bool) -> None:
    samples = Samples(10)
    loss, lines = ROUTES[name]()
    loss, w, hand, velocity = loss.double(), linear(samples.w0), samples.w0.copy(), np.zeros((D, C))
    optimizer = torch.optim.SGD([w], lr=0.2, momentum=0.6)
    for x, y, reference, mask in samples.batches:
        kept = [k for k in range(len(y)) if mask[k]]
        given = torch.tensor(reference) if referenced else None
        found = loss(torch.tensor(x) @ w, torch.tensor(y), reference_losses=given, mask=torch.tensor(mask))
        losses, gradients = cross_entropies(hand, x, y)
        if referenced:
            losses = [a - b for a, b in zip(losses, reference, strict=True)]
        if kept:
            value, z = lines([losses[k] for k in kept], [gradients[k] for k in kept])
        else:
            value, z = 0.0, np.zeros((D, C))  # nothing counts: no step of u or tau
        close(found, value)
        optimizer.zero_grad()
        found.backward()
        close(w.grad, z)
        optimizer.step()
        velocity = 0.6 * velocity + z
        hand = hand - 0.2 * velocity
        close(w, hand)
    if isinstance(lines, Ball):
        close(loss.risk.dual.memory.values, [lines.tau])


def test_the_ball_is_the_worst_case_within_the_divergence() -> None:
    # 6.15 with a small tau_0, against the p of the primal: p ~ exp(l / t) with KL(p, 1/n) = rho, t by bisection.
    losses = np.array([0.3, -1.0, 2.0, 1.1, 0.4])
    for rho in (0.05, 0.4):
        low, high = 1e-3, 1e3
        for _ in range(200):
            t = math.sqrt(low * high)
            p = softmax(losses / t)
            low, high = (t, high) if (p * np.log(5 * p)).sum() > rho else (low, t)
        risk = KLBall(rho, tau=1.0, tau_min=1e-3, lr=0.4).double()
        leaf = torch.tensor(losses, requires_grad=True)
        for _ in range(3000):
            value = risk(leaf)
        close(value, p @ losses, rtol=1e-7)
        close(torch.autograd.grad(value, leaf)[0], p, rtol=1e-4)


def test_two_stages_of_tau_begin_anew_in_the_second() -> None:
    samples = Samples(8)
    loss = ABSGDLoss(0.5, gamma=0.3, first_tau=10.0, first_epochs=2).double()
    lines = [Absgd(10.0, 0.3), Absgd(0.5, 0.3)]
    for step, (x, y, _, _) in enumerate(samples.batches):
        loss.set_epoch(step // 2)
        w = linear(samples.w0)
        value, z = lines[step // 2 >= 2](*cross_entropies(samples.w0, x, y))
        found = loss(torch.tensor(x) @ w, torch.tensor(y))
        close(found, value)
        close(torch.autograd.grad(found, w)[0], z)


def test_the_logistic_loss_of_scores_is_that_of_two_logits() -> None:
    losses = [ABSGDLoss(0.7, gamma=0.5).double() for _ in range(2)]
    rng = np.random.default_rng(0)
    for _ in range(4):
        s, y = torch.tensor(rng.normal(size=6), requires_grad=True), torch.tensor(rng.integers(0, 2, 6))
        one, two = losses[0](s, y), losses[1](torch.stack([torch.zeros_like(s), s], 1), y)
        close(one, two.detach())
        close(torch.autograd.grad(one, s)[0], torch.autograd.grad(two, s)[0])


@pytest.mark.parametrize("schedule", ["constant", "scent"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_logarithm_of_u_in_sixty_digits(scale: float, schedule: str) -> None:
    # Losses up to 1e4 at tau = 0.01; afterwards an easy batch, whose weight is what the hard one left.
    tau, rate = 0.01, 0.3
    risk = KL(tau, gamma=rate if schedule == "constant" else Scent(rate)).double()
    rng = np.random.default_rng(1)
    history = []
    for step in range(5):
        history.append(scale * (rng.uniform(0, 1, 4) - 0.7 * (step % 2)))
        leaf = torch.tensor(history[-1], requires_grad=True)
        value = risk(leaf)
        close(value, exactly(_log_u, history, tau, rate, schedule == "scent") * tau, rtol=1e-12)
        (gradient,) = torch.autograd.grad(value, leaf)
        if scale == 1.0 or schedule == "constant":
            expected = [exactly(_weight, history, k, tau, rate, schedule == "scent") for k in range(4)]
            close(gradient, expected, rtol=1e-8, atol=1e-300)


def _log_u(history: list[np.ndarray], tau: float, rate: float, scent: bool) -> Decimal:
    u: Decimal | None = None
    for losses in history:
        g = sum((each / Decimal(tau)).exp() for each in decimals(losses)) / len(losses)
        a = Decimal(rate)
        if u is None:
            u = g
        else:
            u = (u + a * u * g) / (1 + a * u) if scent else (1 - a) * u + a * g  # Alg. 22, or Alg. 24
    return u.ln() if u is not None else Decimal(0)


def _weight(history: list[np.ndarray], k: int, tau: float, rate: float, scent: bool) -> Decimal:
    return (decimals(history[-1])[k] / Decimal(tau) - _log_u(history, tau, rate, scent)).exp() / len(history[-1])


@pytest.mark.parametrize("two_batches", [False, True])
def test_the_lines_of_storm_with_the_tracker_of_scst(two_batches: bool) -> None:
    # F = 2 log E exp((x - w)^2 / 4); Alg. 11 with one batch for both estimates, or two as in its analysis.
    rng = np.random.default_rng(2)
    gamma, beta, lr, w, before, u, v = 0.3, 0.2, 0.1, 0.7, 0.7, 0.0, 0.0
    weight = torch.nn.Parameter(torch.tensor(w, dtype=torch.float64))
    storm, optimizer = Storm([weight], beta=beta), torch.optim.SGD([weight], lr=lr)
    tracker = Tracker(gamma=gamma).double()

    def inner(x: torch.Tensor) -> torch.Tensor:
        return torch.exp((x - weight) ** 2 / 4).mean()

    def g(x: np.ndarray, at: float) -> float:
        return float(np.exp((x - at) ** 2 / 4).mean())

    def slope(x: np.ndarray, at: float) -> float:
        return float((np.exp((x - at) ** 2 / 4) * (at - x) / 2).mean())

    for step in range(8):
        first = rng.normal(size=3)
        second = rng.normal(size=3) if two_batches else first
        one, two = torch.tensor(first), torch.tensor(second)
        with storm.previous(tracker):
            at_before = inner(one)
            tracked = recall(tracker, inner(two)) if two_batches else tracker(at_before)
            (2 * tracked.log()).backward()
        optimizer.zero_grad()
        value = tracker(inner(one), previous=at_before.detach())
        if two_batches:
            value = value.detach() + inner(two) - inner(two).detach()  # u of the first batch, gradient of the second
        (2 * value.log()).backward()
        storm.estimate()
        optimizer.step()

        old = u
        u = (
            g(first, w)
            if step == 0
            else (1 - gamma) * u + gamma * g(first, w) + (1 - gamma) * (g(first, w) - g(first, before))
        )
        z = 2 / u * slope(second, w)
        then = old if two_batches else (1 - gamma) * old + gamma * g(first, before)
        v = z if step == 0 else (1 - beta) * v + beta * z + (1 - beta) * (z - 2 / then * slope(second, before))
        before, w = w, w - lr * v
        close(weight, w)
        close(tracker.memory.values, [u])


def test_ldr_is_the_best_weighting_of_the_margins_of_one_sample() -> None:
    rng = np.random.default_rng(3)
    f, y, lam, c = rng.normal(size=(5, 4)), rng.integers(0, 4, 5), 0.6, 0.2
    leaf = torch.tensor(f, requires_grad=True)
    value = LDRLoss(lam, c)(leaf, torch.tensor(y))
    expected, gradient = 0.0, np.zeros((5, 4))
    for i in range(5):
        z = np.array([f[i, k] - f[i, y[i]] + c * (k != y[i]) for k in range(4)])
        p = softmax(z / lam)
        expected += (p @ z - lam * (p * np.log(4 * p)).sum()) / 5
        for q in rng.dirichlet(np.ones(4), 50):  # no other weighting is better
            assert q @ z - lam * (q * np.log(4 * q)).sum() <= p @ z - lam * (p * np.log(4 * p)).sum()
        gradient[i] = (p - np.eye(4)[y[i]]) / 5
    close(value, expected)
    close(torch.autograd.grad(value, leaf)[0], gradient)


def test_aldr_steps_to_a_maximum_over_p_and_lambda() -> None:
    rng = np.random.default_rng(4)
    k, lam0, alpha, c = 4, 1.5, 1.7, 0.1
    loss = ALDRLoss(9, lam0, alpha, c).double()
    kept = dict.fromkeys(range(9), lam0)
    f, y = 2 * rng.normal(size=(9, k)), rng.integers(0, k, 9)

    def objective(z: np.ndarray, p: np.ndarray, lam: float) -> float:
        return p @ z - lam * (p * np.log(k * p)).sum() - alpha * math.log(k) / (2 * lam0) * (lam - lam0) ** 2

    before = -math.inf
    for step in range(40):
        rows = np.arange(9) if step > 3 else rng.permutation(9)[: 4 + step]
        leaf = torch.tensor(f[rows], requires_grad=True)
        found = loss(leaf, torch.tensor(y[rows]), torch.tensor(rows))
        expected, gradient = 0.0, []
        for i in rows:
            z = f[i] - f[i, y[i]] + c * (np.arange(k) != y[i])
            p = softmax(z / kept[i])
            kept[i] = lam0 - lam0 * (p * np.log(k * p)).sum() / (alpha * math.log(k))
            p = softmax(z / kept[i])
            expected += objective(z, p, kept[i]) / len(rows)
            gradient.append((p - np.eye(k)[y[i]]) / len(rows))
        close(found, expected)
        close(torch.autograd.grad(found, leaf)[0], np.stack(gradient))
        if step > 4:
            assert float(found.detach()) >= before - 1e-12  # neither step lowers it
        before = float(found.detach())
    for i in range(9):
        z = f[i] - f[i, y[i]] + c * (np.arange(k) != y[i])
        around = [objective(z, softmax(z / lam), lam) for lam in (kept[i] - 1e-3, kept[i], kept[i] + 1e-3)]
        assert max(around) == around[1]


def test_focal_class_balanced_and_logit_adjusted_by_their_papers() -> None:
    rng = np.random.default_rng(5)
    f, y, counts, s = (
        3 * rng.normal(size=(6, 3)),
        rng.integers(0, 3, 6),
        np.array([500.0, 20.0, 3.0]),
        rng.normal(size=6),
    )
    logits, labels = torch.tensor(f), torch.tensor(y)
    p = np.array([softmax(row) for row in f])
    py = p[np.arange(6), y]
    a = np.array([0.2, 0.5, 0.9])
    close(FocalLoss(1.5, alpha=a.tolist())(logits, labels), np.mean(-a[y] * (1 - py) ** 1.5 * np.log(py)))
    binary, q = y > 0, 1 / (1 + np.exp(-s))
    pt, at = np.where(binary, q, 1 - q), np.where(binary, 0.25, 0.75)
    close(FocalLoss(2.0, alpha=0.25)(torch.tensor(s), torch.tensor(binary)), np.mean(-at * (1 - pt) ** 2 * np.log(pt)))
    effective = (1 - 0.99) / (1 - 0.99**counts)
    omega = effective / effective.sum() * 3
    close(ClassBalancedLoss(counts.tolist(), 0.99)(logits, labels), np.mean(-omega[y] * np.log(py)))
    prior = counts / counts.sum()
    shifted = np.array([softmax(row) for row in f + 0.7 * np.log(prior)])
    close(LogitAdjustedLoss(counts.tolist(), 0.7)(logits, labels), np.mean(-np.log(shifted[np.arange(6), y])))


def test_what_is_masked_changes_the_number_that_the_mean_divides_by() -> None:
    f = torch.tensor(np.random.default_rng(6).normal(size=(4, 3)))
    y, mask = torch.tensor([0, 1, 2, 1]), torch.tensor([True, False, True, False])
    kept = torch.tensor([0, 2])
    f[1] = torch.nan
    for loss in (LDRLoss(), FocalLoss(), ClassBalancedLoss([5, 4, 3]), LogitAdjustedLoss([5, 4, 3]), ABSGDLoss(1.0)):
        close(loss.eval()(f, y, mask=mask), loss(f[kept], y[kept]))
