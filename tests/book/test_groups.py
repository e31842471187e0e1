"""Group DRO: Alg. 25, 16, 18, 6.18 and the update of Sagawa et al. as loops over a linear regression, and 6.17 solved."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from book_lines import Average, close, linear

from guidestar import KL, CVaR, GroupMean, TopK
from guidestar.losses import (
    ALEXRLoss,
    GroupDROLoss,
    OnlineGroupDROLoss,
    PrimalDualGroupDROLoss,
    SONEXLoss,
    SONXLoss,
)

K, D = 5, 3
COUNTS = np.array([400.0, 90.0, 30.0, 12.0, 5.0])


class Batches:
    """Some groups, unequal numbers of samples of each; masks take out samples and whole groups."""

    def __init__(self, steps: int) -> None:
        rng = np.random.default_rng(8)
        self.w0 = rng.normal(size=D)
        self.steps = []
        for step in range(steps):
            groups = rng.permutation(K)[: 2 + step % 3]
            group = np.concatenate([np.full(1 + int(rng.integers(0, 3)), g) for g in groups])
            group = rng.permutation(group)
            x, y = rng.normal(size=(len(group), D)), rng.normal(size=len(group)) + group / 3
            mask = np.ones(len(group), dtype=bool)
            if step % 3 == 2:
                mask[group == groups[0]] = False
                mask[int(np.flatnonzero(group == groups[1])[0])] = False
            if step == 5:
                mask[:] = False
            self.steps.append((x, y, group, rng.uniform(0, 0.5, len(group)), mask))


def means(w: np.ndarray, x: np.ndarray, y: np.ndarray, group: np.ndarray, mask: np.ndarray, reference: np.ndarray):
    """Mean excess loss (x w - y)^2 / 2 - reference of each group of the batch, and its gradient by w."""
    found = {}
    for g in sorted(set(group[mask].tolist())):
        rows = [k for k in range(len(group)) if group[k] == g and mask[k]]
        error = x[rows] @ w - y[rows]
        found[g] = (float(np.mean(error**2 / 2 - reference[rows])), error @ x[rows] / len(rows))
    return found


def smooth(t: float, eps: float) -> float:
    return t - eps / 2 if t >= eps and t > 0 else (t * t / (2 * eps) if t > 0 else 0.0)


def slope(t: float, eps: float) -> float:
    return 1.0 if t >= eps and t > 0 else (t / eps if t > 0 else 0.0)


class Sonex:
    def __init__(self, alpha: float, gamma: float, eps: float, lr: float, prime: float | None = None) -> None:
        self.alpha, self.gamma, self.eps, self.lr, self.prime = alpha, gamma, eps, lr, prime
        self.u, self.nu = {}, 0.0

    def __call__(self, now: dict, then: dict | None) -> tuple[float, np.ndarray]:
        for g, (value, _) in now.items():  # step 6; with MSVR its correction (methods.md, 15)
            if g not in self.u:
                self.u[g] = value
                continue
            prime = 1 - self.gamma if self.prime is None else self.prime
            correction = 0.0 if then is None else prime * (value - then[g][0])
            self.u[g] = (1 - self.gamma) * self.u[g] + self.gamma * value + correction
        weight = {g: slope(self.u[g] - self.nu, self.eps) for g in now}
        value = sum(smooth(self.u[g] - self.nu, self.eps) for g in now) / len(now) + self.alpha * self.nu
        z = sum(weight[g] * gradient for g, (_, gradient) in now.items()) / len(now)  # step 10
        self.nu -= self.lr * (self.alpha - sum(weight.values()) / len(now))  # steps 9, 11
        return value, z


class Alexr:
    def __init__(self, alpha: float, dual_lr: float, lr: float, theta: float) -> None:
        self.alpha, self.dual_lr, self.lr, self.theta = alpha, dual_lr, lr, theta
        self.y, self.nu, self.nu_before = [1.0] * K, 0.0, 0.0

    def __call__(self, now: dict, then: dict | None) -> tuple[float, np.ndarray]:
        for g, (value, _) in now.items():
            inner = value - self.nu
            if then is not None:
                inner += self.theta * (inner - (then[g][0] - self.nu_before))
            self.y[g] = min(max(self.y[g] + self.dual_lr * inner, 0.0), 1.0)
        value = sum(self.y[g] * (each - self.nu) for g, (each, _) in now.items()) / len(now) + self.alpha * self.nu
        z = sum(self.y[g] * gradient for g, (_, gradient) in now.items()) / len(now)
        self.nu_before = self.nu
        self.nu -= self.lr * (self.alpha - sum(self.y[g] for g in now) / len(now))
        return value, z


class PrimalDual:
    """Mirror ascent on p; onto the simplex with p <= 1 / (alpha K) by trying every set of groups at the bound."""

    def __init__(self, alpha: float, lr: float) -> None:
        self.cap, self.lr, self.p = max(1 / (alpha * K), 1 / K), lr, np.full(K, 1 / K)

    def __call__(self, now: dict, then: dict | None) -> tuple[float, np.ndarray]:
        scale = K / len(now)
        value = scale * sum(self.p[g] * each for g, (each, _) in now.items())
        z = scale * sum(self.p[g] * gradient for g, (_, gradient) in now.items())
        h = np.zeros(K)
        for g, (each, _) in now.items():
            h[g] = scale * each
        self.p = self.project(self.p * np.exp(self.lr * h))
        return value, z

    def project(self, r: np.ndarray) -> np.ndarray:
        """argmin KL(q || r) over the capped simplex: of all candidates of the KKT system the best feasible one."""
        best, found = math.inf, r
        for size in range(K + 1):
            for capped in combinations(range(K), size):
                free = [g for g in range(K) if g not in capped]
                left = 1 - size * self.cap
                if left < -1e-12 or (not free and abs(left) > 1e-9):
                    continue
                q = np.full(K, self.cap)
                if free:
                    q[free] = max(left, 0.0) * r[free] / r[free].sum()
                if q.max() > self.cap + 1e-12:
                    continue
                divergence = float((q * np.log(np.maximum(q, 1e-300) / r)).sum())
                if divergence < best:
                    best, found = divergence, q
        return found


class Online:
    def __init__(self, lr: float, adjustment: float) -> None:
        self.lr, self.c, self.q = lr, adjustment, np.full(K, 1 / K)

    def __call__(self, now: dict, then: dict | None) -> tuple[float, np.ndarray]:
        for g, (value, _) in now.items():
            self.q[g] *= math.exp(self.lr * (value + self.c / math.sqrt(COUNTS[g])))
        self.q /= self.q.sum()
        value = sum(self.q[g] * each for g, (each, _) in now.items())
        return value, sum(self.q[g] * gradient for g, (_, gradient) in now.items())


ROUTES = {
    "sonex": lambda: (SONEXLoss(K, 0.4, gamma=0.3, smoothing=0.3, lr=0.2), Sonex(0.4, 0.3, 0.3, 0.2)),
    "sonex of batches": lambda: (SONEXLoss(K, 0.6, gamma=1.0, smoothing=0.1, lr=0.2), Sonex(0.6, 1.0, 0.1, 0.2)),
    "sonx": lambda: (SONXLoss(K, 0.4, gamma=0.3, lr=0.2), Sonex(0.4, 0.3, 0.0, 0.2)),
    "primal-dual": lambda: (PrimalDualGroupDROLoss(K, 0.4, lr=0.3), PrimalDual(0.4, 0.3)),
    "primal-dual, the worst group": lambda: (PrimalDualGroupDROLoss(K, 0.1, lr=0.3), PrimalDual(0.2, 0.3)),
    "primal-dual, all groups": lambda: (PrimalDualGroupDROLoss(K, 1.0, lr=0.3), PrimalDual(1.0, 0.3)),
    "online": lambda: (OnlineGroupDROLoss(K, lr=0.4), Online(0.4, 0.0)),
    "online, adjusted": lambda: (
        OnlineGroupDROLoss(K, lr=0.4, adjustment=2.0, counts=COUNTS.tolist()),
        Online(0.4, 2.0),
    ),
    "alexr": lambda: (ALEXRLoss(K, 0.4, dual_lr=0.5, lr=0.2), Alexr(0.4, 0.5, 0.2, 1.0)),
}
WITH_PREVIOUS = {
    "sonex": lambda: (
        SONEXLoss(K, 0.4, gamma=0.3, smoothing=0.3, lr=0.2, gamma_prime=0.8),
        Sonex(0.4, 0.3, 0.3, 0.2, 0.8),
    ),
    "sonx": lambda: (SONXLoss(K, 0.4, gamma=0.3, lr=0.2), Sonex(0.4, 0.3, 0.0, 0.2)),
    "alexr": lambda: (ALEXRLoss(K, 0.4, dual_lr=0.5, lr=0.2, theta=0.7), Alexr(0.4, 0.5, 0.2, 0.7)),
}


@pytest.mark.parametrize("name", ROUTES)
def test_twelve_steps(name: str) -> None:
    walk(*ROUTES[name](), previous=False)


@pytest.mark.parametrize("name", WITH_PREVIOUS)
def test_twelve_steps_with_the_losses_at_the_weights_before(name: str) -> None:
    walk(*WITH_PREVIOUS[name](), previous=True)


def walk(loss: torch.nn.Module, lines: object, *, previous: bool) -> None:
    batches = Batches(12)
    loss, w, hand, hand_before = loss.double(), linear(batches.w0), batches.w0.copy(), None
    optimizer = torch.optim.SGD([w], lr=0.1)
    for x, y, group, reference, mask in batches.steps:
        losses = (torch.tensor(x) @ w - torch.tensor(y)) ** 2 / 2
        losses = torch.where(torch.tensor(mask), losses, torch.nan)
        extra = {}
        then = None
        if previous and hand_before is not None:
            extra["previous_losses"] = torch.tensor((x @ hand_before - y) ** 2 / 2)
            then = means(hand_before, x, y, group, mask, reference)
        found = loss(
            losses, torch.tensor(group), reference_losses=torch.tensor(reference), mask=torch.tensor(mask), **extra
        )
        now = means(hand, x, y, group, mask, reference)
        value, z = lines(now, then) if now else (0.0, np.zeros(D))
        close(found, value)
        optimizer.zero_grad()
        found.backward()
        close(w.grad, z)
        optimizer.step()
        hand_before, hand = hand, hand - 0.1 * z
        close(w, hand)


@pytest.mark.parametrize("risk", ["top", "kl", "cvar"])
def test_a_risk_of_all_known_groups(risk: str) -> None:
    batches, gamma, u, nu = Batches(9), 0.4, Average(0.4), 0.0
    made = {"top": TopK(0.5), "kl": KL(0.6), "cvar": CVaR(0.5, lr=0.2, smoothing=0.1)}[risk]
    loss = GroupDROLoss(made, GroupMean(K, gamma=gamma)).double()
    for x, y, group, reference, mask in batches.steps:
        w = linear(batches.w0)
        losses = (torch.tensor(x) @ w - torch.tensor(y)) ** 2 / 2
        found = loss(losses, torch.tensor(group), reference_losses=torch.tensor(reference), mask=torch.tensor(mask))
        now = means(batches.w0, x, y, group, mask, reference)
        if not now:
            close(found, 0.0)
            continue
        for g, (value, _) in now.items():
            u(g, value)
        known = u.u
        m = len(known)
        if risk == "top":
            order, share, weight = sorted(known, key=lambda g: -known[g]), 0.5 * m, {}
            for place, g in enumerate(order):
                weight[g] = min(max(share - place, 0.0), 1.0) / share
            value = sum(weight[g] * known[g] for g in known)
        elif risk == "kl":
            e = {g: math.exp(known[g] / 0.6) for g in known}
            weight = {g: e[g] / sum(e.values()) for g in known}
            value = 0.6 * math.log(sum(e.values()) / m)
        else:
            weight = {g: slope(known[g] - nu, 0.1) / m / 0.5 for g in known}
            value = nu + sum(smooth(known[g] - nu, 0.1) for g in known) / m / 0.5
            nu -= 0.2 * (1 - sum(weight.values()))
        close(found, value)
        close(torch.autograd.grad(found, w)[0], sum(weight[g] * gradient for g, (_, gradient) in now.items()))


@pytest.mark.parametrize("name", ["sonex", "sonx", "alexr", "primal-dual", "cvar"])
def test_all_of_them_reach_the_minimum_of_6_17(name: str) -> None:
    # One weight and five groups of one sample: the minimum of the mean of the two worst losses, on a grid of 1e-4.
    x, y = np.array([1.0, 1.0, 1.0, -0.5, 2.0]), np.array([0.0, 1.0, 3.0, 1.0, 1.0])
    grid = np.linspace(-1, 3, 40001)
    worst = np.sort((np.outer(grid, x) - y) ** 2 / 2, axis=1)[:, -2:].mean(1)
    best = grid[worst.argmin()]
    loss = {
        "sonex": lambda: SONEXLoss(K, 0.4, gamma=0.8, smoothing=0.01, lr=0.04),
        "sonx": lambda: SONXLoss(K, 0.4, gamma=0.8, lr=0.04),
        "alexr": lambda: ALEXRLoss(K, 0.4, dual_lr=0.1, lr=0.05),
        "primal-dual": lambda: PrimalDualGroupDROLoss(K, 0.4, lr=0.02),
        "cvar": lambda: GroupDROLoss(CVaR(0.4, lr=0.04), GroupMean(K, gamma=0.8)),
    }[name]().double()
    w = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step / 50))
    generator, tail = torch.Generator().manual_seed(0), []
    for step in range(800):
        rows = torch.randperm(K, generator=generator)[:3]
        losses = (torch.tensor(x)[rows] * w - torch.tensor(y)[rows]) ** 2 / 2
        optimizer.zero_grad()
        loss(losses, rows).backward()
        optimizer.step()
        scheduler.step()
        if step >= 500:
            tail.append(float(w.detach()))
    assert np.mean(tail) == pytest.approx(best, abs=0.08)
