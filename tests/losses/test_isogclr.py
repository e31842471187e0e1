"""ISogCLRLoss: Alg. 35 line by line, for one tower and for two (Eq. 6.48)."""

from __future__ import annotations

import math

import pytest
import torch
from written_out import TIGHT, Track, estimator, features, one_tower, robust, same_value_and_gradients, two_towers

from guidestar.losses import ISogCLRLoss

STEPS = [[0, 1, 2, 3, 4], [3, 8, 0, 5, 1], [8, 4, 3, 2, 7]]
both_paths = pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])
RHO, LR, MIN = 0.4, 0.05, 0.25


def step_tau(tau: list[float], velocity: list[float], slopes: dict[int, float], momentum: float) -> None:
    """Line 10 of Alg. 35 by Eq. 6.2, within tau >= tau_0."""
    for row, slope in slopes.items():
        velocity[row] = momentum * velocity[row] + (1 - momentum) * slope
        tau[row] = max(MIN, tau[row] - LR * velocity[row])


@both_paths
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("gamma", [1.0, 0.25])
def test_algorithm_35_with_two_towers(tiled, momentum, gamma) -> None:
    loss = ISogCLRLoss(
        9, RHO, tau=0.3, tau_min=MIN, gamma=gamma, lr=LR, momentum=momentum, eps=0.1, two_towers=True, tiled=tiled
    ).double()
    risks = (loss.loss.image_risk, loss.loss.text_risk)
    taus, velocities, tracks = [[0.3] * 9, [0.3] * 9], [[0.0] * 9, [0.0] * 9], [Track(gamma, {}), Track(gamma, {})]
    for risk in risks:
        risk.dual.memory.values.fill_(0.3)
    moved = set()
    for step, index in enumerate(STEPS):
        image, text, *_ = features(step)
        value, gradient = 0.0, torch.zeros((), dtype=torch.float64)
        for side, tau, velocity, track in zip(two_towers(image, text), taus, velocities, tracks, strict=True):
            own = torch.tensor([tau[row] for row in index], dtype=torch.float64)
            one, z, slopes = estimator(side, own, track, index, eps=0.1, shifted=True, rho=RHO)
            value, gradient = value + one, gradient + z
            step_tau(tau, velocity, dict(zip(index, slopes, strict=True)), momentum)
            moved |= {round(t, 6) for t in tau}
        found = loss(image, text, torch.tensor(index))
        assert float(found.detach()) == pytest.approx(value, rel=1e-10)
        expected = torch.autograd.grad(gradient, [image, text])
        for left, right in zip(torch.autograd.grad(found, [image, text]), expected, strict=True):
            torch.testing.assert_close(left, right, **TIGHT)
        for risk, tau in zip(risks, taus, strict=True):
            assert risk.dual.memory.values.tolist() == pytest.approx(tau, rel=1e-10)
    assert len(moved) > 5  # some at the bound, others not


@both_paths
def test_algorithm_35_with_two_views(tiled) -> None:
    # One temperature and one u a sample: both views' estimates and slopes count with their mean.
    loss = ISogCLRLoss(9, RHO, tau=0.3, tau_min=MIN, gamma=0.25, lr=LR, eps=0.1, tiled=tiled).double()
    loss.loss.risk.dual.memory.values.fill_(0.3)
    tau, velocity, track = [0.3] * 9, [0.0] * 9, Track(0.25, {})
    for step, index in enumerate(STEPS):
        first, second, *_ = features(step)
        own = torch.tensor([tau[row] for row in index * 2], dtype=torch.float64)
        value, gradient, slopes = estimator(
            one_tower(first, second), own, track, index * 2, eps=0.1, shifted=True, rho=RHO
        )
        step_tau(tau, velocity, {row: (slopes[i] + slopes[i + 5]) / 2 for i, row in enumerate(index)}, 0.0)
        found = loss(first, second, torch.tensor(index))
        assert float(found.detach()) == pytest.approx(value, rel=1e-10)
        expected = torch.autograd.grad(gradient, [first, second])
        for left, right in zip(torch.autograd.grad(found, [first, second]), expected, strict=True):
            torch.testing.assert_close(left, right, **TIGHT)
        assert loss.loss.risk.dual.memory.values.tolist() == pytest.approx(tau, rel=1e-10)
    assert loss.metrics()["tau"] == pytest.approx(sum(tau) / 9)


@both_paths
@pytest.mark.parametrize("groups", [None, [0, 1, 0, 2, 3]], ids=["", "groups"])
@pytest.mark.parametrize("several", [False, True])
def test_the_slopes_are_the_gradient_of_the_objective_6_47(tiled, groups, several) -> None:
    first, second, *_ = features(0)
    loss = ISogCLRLoss(5, RHO, tau=0.3, gamma=1.0, lr=LR, tiled=tiled, several_positives=several).double()
    risk = loss.loss.risk
    risk.dual.memory.values += torch.arange(5) / 10
    tau = risk.dual.memory.values.clone().requires_grad_()
    side = one_tower(first, second, None, groups, None, several)
    expected = robust(side, tau.repeat(2), rho=RHO, negatives_only=True)
    before = risk.dual.memory.values.clone()
    extra = {} if groups is None else {"groups": torch.tensor(groups)}
    same_value_and_gradients(loss(first, second, torch.arange(5), **extra), expected, [first, second])
    (slope,) = torch.autograd.grad(expected, tau)
    torch.testing.assert_close((before - risk.dual.memory.values) / LR, slope * 5, rtol=1e-9, atol=1e-10)


def test_a_temperature_finds_the_minimum_of_6_46() -> None:
    # Fixed features: each tau converges to where the softmax's divergence from uniform is rho.
    first, second, *_ = (each.detach() for each in features(1))
    loss = ISogCLRLoss(5, 0.3, tau=0.5, tau_min=1e-3, gamma=1.0, lr=0.2, two_towers=True).double()
    leaf = first.requires_grad_()
    for _ in range(300):
        loss(leaf, second, torch.arange(5))
    tau = loss.loss.image_risk.dual.memory.values
    for i in range(5):
        others = torch.stack([leaf[i] @ second[j] for j in range(5) if j != i]).detach()
        p = torch.softmax(others / tau[i], 0)
        assert float((p * torch.log(4 * p)).sum()) == pytest.approx(0.3, rel=1e-3)


def test_bytes_of_state() -> None:
    def size(**settings) -> int:
        state = ISogCLRLoss(100, 0.1, **settings).state_dict()
        return sum(t.numel() * t.element_size() for name, t in state.items() if not name.endswith("count"))

    assert size(gamma=1.0) == 400
    assert size(gamma=0.5) == 800
    assert size(gamma=0.5, momentum=0.5) == 1200
    assert size(gamma=0.5, two_towers=True) == 1600


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ISogCLRLoss(4, -1.0), "`rho` is the radius of a ball and must be at least 0"),
        (lambda: ISogCLRLoss(4, 1.0, tau=0.01, tau_min=0.1), r"`tau` must be at least `tau_min` = 0\.1. Found 0\.01"),
        (lambda: ISogCLRLoss(4, 1.0, eps=math.inf), "`eps` must be at least 0 and finite. Found inf"),
        (lambda: ISogCLRLoss(4, 1.0, eps=-1.0, two_towers=True), "`eps` must be None, or at least 0 and finite"),
        (
            lambda: ISogCLRLoss(4, 1.0)(torch.eye(4), torch.eye(4)),
            "`index` is needed: every row has its own temperature",
        ),
    ],
)
def test_errors(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
