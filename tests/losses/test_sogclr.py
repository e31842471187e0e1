"""SogCLRLoss: Alg. 34 line by line, for one tower (Fig. 6.21) and for two."""

from __future__ import annotations

import math

import pytest
import torch
from written_out import TIGHT, Track, estimator, features, one_tower, robust, same_value_and_gradients, two_towers

from guidestar.losses import SogCLRLoss

STEPS = [[0, 1, 2, 3, 4], [3, 8, 0, 5, 1], [8, 4, 3, 2, 7]]
both_paths = pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])


@both_paths
@pytest.mark.parametrize("gamma", [0.9, 0.1])
@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_algorithm_34_with_two_towers(tiled, gamma, eps) -> None:
    loss = SogCLRLoss(9, 0.3, gamma, eps=eps, two_towers=True, tiled=tiled).double()
    tracks = [Track(gamma, {}), Track(gamma, {})]
    for step, index in enumerate(STEPS):
        image, text, *_ = features(step)
        made = [
            estimator(side, 0.3, track, index, eps=eps, shifted=False)
            for side, track in zip(two_towers(image, text), tracks, strict=True)
        ]
        found = loss(image, text, torch.tensor(index))
        assert float(found.detach()) == pytest.approx(made[0][0] + made[1][0], rel=1e-10)
        expected = torch.autograd.grad(made[0][1] + made[1][1], [image, text])
        for left, right in zip(torch.autograd.grad(found, [image, text]), expected, strict=True):
            torch.testing.assert_close(left, right, **TIGHT)
        for risk, track in zip((loss.loss.image_risk, loss.loss.text_risk), tracks, strict=True):
            memory, seen = risk.tracker.remembered()
            assert {row: pytest.approx(math.exp(memory[row]), rel=1e-10) for row in range(9) if seen[row]} == track.u


@both_paths
def test_algorithm_34_with_two_views(tiled) -> None:
    loss = SogCLRLoss(9, 0.3, 0.25, eps=0.1, tiled=tiled).double()
    track = Track(0.25, {})
    for step, index in enumerate(STEPS):
        first, second, *_ = features(step)
        value, gradient, _ = estimator(one_tower(first, second), 0.3, track, index * 2, eps=0.1, shifted=False)
        found = loss(first, second, torch.tensor(index))
        assert float(found.detach()) == pytest.approx(value, rel=1e-10)
        expected = torch.autograd.grad(gradient, [first, second])
        for left, right in zip(torch.autograd.grad(found, [first, second]), expected, strict=True):
            torch.testing.assert_close(left, right, **TIGHT)


@both_paths
def test_the_memory_is_that_of_figure_6_21(tiled) -> None:
    # u[ind] = (u1 + u2) / 2 with each view's own average, from rows that all have been seen.
    loss = SogCLRLoss(5, 0.3, 0.25, tiled=tiled).double()
    first, second, *_ = features(0)
    loss(first, second, torch.arange(5))
    u = loss.loss.risk.tracker.memory.values.exp().clone()
    first, second, *_ = features(1)
    h, n = torch.cat([first, second]).detach(), 5
    loss(first, second, torch.arange(5))
    for i in range(n):
        views = []
        for a in (i, i + n):
            others = [b for b in range(2 * n) if b % n != i]
            g = sum(math.exp(float(h[a] @ h[b]) / 0.3) for b in others) / (2 * (n - 1))
            views.append((1 - 0.25) * float(u[i]) + 0.25 * g)
        assert float(loss.loss.risk.tracker.memory.values[i].exp()) == pytest.approx(sum(views) / 2, rel=1e-10)


@both_paths
@pytest.mark.parametrize("two", [False, True])
def test_gamma_of_one_is_the_objective_6_43_of_the_batch(tiled, two) -> None:
    first, second, *_ = features(3)
    loss = SogCLRLoss(9, 0.3, 1.0, two_towers=two, tiled=tiled)
    sides = two_towers(first, second) if two else [one_tower(first, second)]
    expected = sum(robust(side, 0.3, negatives_only=True) for side in sides)
    same_value_and_gradients(loss(first, second), expected, [first, second])
    assert not [tensor for name, tensor in loss.state_dict().items() if not name.endswith("count")]


def test_bytes_of_state() -> None:
    for two, directions in ((False, 1), (True, 2)):
        state = SogCLRLoss(1000, two_towers=two).state_dict()
        size = sum(t.numel() * t.element_size() for name, t in state.items() if not name.endswith("count"))
        assert size == 4 * 1000 * directions


# Twelve pairs in six couples: the other of the couple is a negative with l = x, the ten others have l = -x / 4. The
# global objective has its minimum where e^(x / tau) = 10 / 4 e^(-x / 4 tau). Of the mini-batches of four, 3 of 11 have
# the other of an anchor's couple: their mean loss has its minimum where (r - 1/2) / (r + 2) = 2 / 3, r = e^(5 x / 4 tau).
TAU = 0.2
GLOBAL, MINI_BATCH = TAU * math.log(2.5) / 1.25, TAU * math.log(5.5) / 1.25


def similarities(x: torch.Tensor) -> torch.Tensor:
    couple = torch.arange(12) // 2
    return torch.where(couple.unsqueeze(1) == couple, x, -x / 4) * (1 - torch.eye(12, dtype=torch.float64))


def train(gamma: float, steps: int = 2000) -> torch.Tensor:
    """Stochastic gradient descent with mini-batches of four; the mean over the second half of the steps."""
    rng = torch.Generator().manual_seed(0)
    loss = SogCLRLoss(12, TAU, gamma, two_towers=True).double()
    x = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    total = torch.zeros((), dtype=torch.float64)
    for step in range(steps):
        rows = torch.randperm(12, generator=rng)[:4]
        value = loss(torch.eye(12, dtype=torch.float64)[rows], similarities(x)[rows], rows)
        x = (x - 0.03 * torch.autograd.grad(value, x)[0]).detach().requires_grad_()
        total = total + x.detach() * (2 * step >= steps)
    return total / (steps / 2)


def test_small_batches_reach_the_global_optimum_and_the_mini_batch_loss_does_not() -> None:
    objective = SogCLRLoss(12, TAU, 1.0, two_towers=True)
    ends = {gamma: train(gamma) for gamma in (0.05, 1.0)}
    assert float(ends[0.05]) == pytest.approx(GLOBAL, abs=0.01)
    assert float(ends[1.0]) == pytest.approx(MINI_BATCH, abs=0.03)
    images = torch.eye(12, dtype=torch.float64)
    least = objective(images, similarities(torch.tensor(GLOBAL, dtype=torch.float64)))
    gaps = {gamma: float(objective(images, similarities(x)) - least) for gamma, x in ends.items()}
    assert 0 <= gaps[0.05] < gaps[1.0] / 10
