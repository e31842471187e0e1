"""KLBall: Eq. 6.15, 6.16, 6.45 to 6.50, 6.120, Algorithm 35."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

import guidestar as gs


def written_out(losses: torch.Tensor, tau: torch.Tensor, rho: float) -> torch.Tensor:
    return tau * torch.log(torch.exp(losses / tau).mean(-1)) + tau * rho  # Eq. 6.16


@pytest.mark.parametrize("tau", [0.125, 1.0, 4.0])
def test_full_batch_equals_the_objective_and_so_does_tau(tau) -> None:
    losses = torch.randn(9, dtype=torch.float64).requires_grad_()
    risk = gs.KLBall(0.25, tau=tau, lr=0.0625, tau_min=2.0**-10).double()
    temperature = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    objective = written_out(losses, temperature, 0.25)
    slope, tau_slope = torch.autograd.grad(objective, (losses, temperature))
    value = risk(losses)
    torch.testing.assert_close(value, objective, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.autograd.grad(value, losses)[0], slope, rtol=1e-10, atol=1e-10)
    moved = max(tau - 0.0625 * float(tau_slope), 2.0**-10)
    assert float(risk.dual.values()) == pytest.approx(moved, abs=1e-12)


def test_a_predicted_temperature_gets_its_exact_gradient() -> None:
    losses = torch.randn(3, 5, dtype=torch.float64).requires_grad_()
    tau = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    risk = gs.KLBall(0.25, num_rows=3)
    before = risk.dual.values()
    value = risk(losses, torch.arange(3), tau=tau)
    expected = tau * torch.log(torch.exp(losses / tau.unsqueeze(-1)).mean(-1)) + tau * 0.25
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    for found, right in zip(
        torch.autograd.grad(value.sum(), (losses, tau)), torch.autograd.grad(expected.sum(), (losses, tau)), strict=True
    ):
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
    assert torch.equal(risk.dual.values(), before)


def test_a_masked_nan_does_not_reach_the_predicted_temperature() -> None:
    losses = torch.tensor([1.0, float("nan"), 2.0])
    tau = torch.tensor(0.5, requires_grad=True)
    gs.KLBall(0.25)(losses, mask=torch.tensor([True, False, True]), tau=tau).backward()
    assert torch.isfinite(tau.grad)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_algorithm_35(momentum) -> None:
    rng = torch.Generator().manual_seed(3)
    rho, gamma, lr, floor = 0.5, 0.25, 0.125, 0.25
    risk = gs.KLBall(
        rho, tau=1.0, tau_min=floor, per_row=True, num_rows=4, gamma=gamma, lr=lr, momentum=momentum
    ).double()
    u: dict[int, float] = {}
    tau, m = [1.0] * 4, [0.0] * 4
    for _ in range(5):
        batch = torch.randperm(4, generator=rng)[:3]
        losses = torch.randn(3, 5, generator=rng, dtype=torch.float64).requires_grad_()
        values, gradients, used = [], [], list(tau)
        for position, i in enumerate(batch.tolist()):
            row = [float(each) / tau[i] for each in losses[position].detach()]
            g = sum(math.exp(each) for each in row) / 5
            u[i] = (1 - gamma) * u[i] + gamma * g if i in u else g  # step 6
            z = -sum(math.exp(each) / u[i] * each for each in row) / 5 + math.log(u[i]) + rho  # step 7
            values.append(used[i] * math.log(u[i]) + used[i] * rho)
            gradients.append([math.exp(each) / u[i] / 5 for each in row])  # step 9
            m[i] = momentum * m[i] + (1 - momentum) * z
            tau[i] = max(tau[i] - lr * m[i], floor)  # step 10
        value = risk(losses, batch)
        torch.testing.assert_close(value.tolist(), values, rtol=1e-12, atol=1e-12)
        found = torch.autograd.grad(value.sum(), losses)[0]
        torch.testing.assert_close(found, torch.tensor(gradients, dtype=torch.float64), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(risk.dual.values(torch.arange(4)).tolist(), tau, rtol=1e-12, atol=1e-12)


def test_one_temperature_for_many_rows_moves_by_the_mean() -> None:
    # Eq. 6.49: the derivative of the mean of the rows' objectives.
    losses = torch.randn(3, 5, dtype=torch.float64)
    risk = gs.KLBall(0.25, tau=1.0, lr=0.125, num_rows=3).double()
    tau = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(written_out(losses, tau, 0.25).mean(), tau)
    risk(losses, torch.arange(3))
    assert float(risk.dual.values()) == pytest.approx(1.0 - 0.125 * float(slope), abs=1e-12)


def test_tau_converges_to_the_solution_of_its_problem() -> None:
    losses, rho = torch.randn(40, dtype=torch.float64), 0.25
    solution = minimize_scalar(
        lambda tau: float(written_out(losses, torch.tensor(tau, dtype=torch.float64), rho)),
        bounds=(0.02, 20),
        method="bounded",
        options={"xatol": 1e-10},
    )
    risk = gs.KLBall(rho, tau=2.0, lr=0.5).double()
    for _ in range(300):
        value = risk(losses)
    assert float(risk.dual.values()) == pytest.approx(solution.x, rel=1e-5)
    assert float(value) == pytest.approx(solution.fun, rel=1e-10)
    # And that is the constrained worst case (Eq. 6.15): the weights are on the edge of the ball.
    p = risk.eval().weights(losses)
    assert float((p * torch.log(40 * p)).sum()) == pytest.approx(rho, rel=1e-4)
    assert float((p * losses).sum()) == pytest.approx(solution.fun, rel=1e-6)


def test_a_ball_that_holds_everything_sends_tau_to_its_floor() -> None:
    losses = torch.tensor([0.0, 1.0, 3.0])
    risk = gs.KLBall(10.0, tau=1.0, tau_min=0.125, lr=0.5)
    for _ in range(20):
        risk(losses)
    assert float(risk.dual.values()) == 0.125
    torch.testing.assert_close(risk.eval().weights(losses), torch.tensor([0.0, 0.0, 1.0]), atol=1e-6, rtol=0)


def test_a_radius_of_zero_is_the_mean() -> None:
    losses = torch.randn(20, dtype=torch.float64)
    risk = gs.KLBall(0.0, tau=1e6)
    torch.testing.assert_close(risk(losses), losses.mean(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": -0.1}, "`rho` is the radius of a ball and must be at least 0"),
        ({"rho": float("inf")}, "at least 0 and finite. Found inf"),
        ({"rho": float("nan")}, "at least 0 and finite. Found nan"),
        ({"rho": 1.0, "tau": 0.001}, "`tau` must be at least `tau_min` = 0.01. Found 0.001"),
        ({"rho": 1.0, "tau": -1.0}, "`tau` must be a positive number"),
        ({"rho": 1.0, "tau_min": 0.0}, "`tau_min` must be a positive number"),
        ({"rho": 1.0, "lr": 0.0}, "`lr` must be positive"),
        ({"rho": 1.0, "momentum": 1.0}, r"`momentum` must be in \[0, 1\)"),
    ],
)
def test_bad_settings(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        gs.KLBall(**settings)


def test_a_temperature_a_row_needs_the_rows() -> None:
    with pytest.raises(ValueError, match="`index` is needed: every row has its own temperature"):
        gs.KLBall(0.1, per_row=True, num_rows=3)(torch.ones(3, 2))
