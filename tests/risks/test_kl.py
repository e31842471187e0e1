"""KL: Eq. 6.10 to 6.14, 6.118, 6.119, Algorithm 24."""

from __future__ import annotations

import math

import pytest
import torch

import guidestar as gs


def grad(output, *inputs):
    return torch.autograd.grad(output, inputs)


@pytest.mark.parametrize("tau", [0.1, 1.0, 7.0])
def test_full_batch_equals_the_objective(tau) -> None:
    losses = torch.randn(9, dtype=torch.float64).requires_grad_()
    written_out = tau * torch.log(torch.exp(losses / tau).mean())  # Eq. 6.11
    value = gs.KL(tau)(losses)
    torch.testing.assert_close(value, written_out, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(grad(value, losses), grad(written_out, losses), rtol=1e-10, atol=1e-10)


def test_it_is_the_penalized_worst_case() -> None:
    # Eq. 6.10: no p gives more than the value, and the weights attain it.
    losses, tau = torch.randn(6, dtype=torch.float64), 0.7
    risk = gs.KL(tau)

    def penalized(p: torch.Tensor) -> torch.Tensor:
        return (p * losses).sum(-1) - tau * (p * torch.log(6 * p)).sum(-1)

    p = torch.distributions.Dirichlet(torch.ones(6, dtype=torch.float64)).sample((2000,)).clamp(min=1e-12)
    assert (penalized(p) <= risk(losses) + 1e-12).all()
    weights = risk.weights(losses)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(penalized(weights), risk(losses), rtol=1e-12, atol=1e-12)


def test_limits_in_tau() -> None:
    losses = torch.tensor([0.3, -1.0, 2.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(gs.KL(1e7)(losses), losses.mean(), atol=1e-6, rtol=0)
    torch.testing.assert_close(gs.KL(1e-3)(losses), losses.max() - 1e-3 * math.log(4), atol=1e-12, rtol=0)
    torch.testing.assert_close(gs.KL(1e-3).weights(losses), torch.tensor([0.0, 0, 1, 0], dtype=torch.float64))


@pytest.mark.parametrize("gamma", [0.125, 0.75])
def test_algorithm_24(gamma) -> None:
    rng = torch.Generator().manual_seed(1)
    risk, tau, u = gs.KL(0.5, gamma=gamma).double(), 0.5, None
    for _ in range(6):
        losses = torch.randn(5, generator=rng, dtype=torch.float64).requires_grad_()
        g = sum(math.exp(float(each) / tau) for each in losses.detach()) / 5  # step 3
        u = g if u is None else (1 - gamma) * u + gamma * g  # step 4
        z = torch.tensor([math.exp(float(each) / tau) / u / 5 for each in losses.detach()], dtype=torch.float64)
        value = risk(losses)
        assert float(value.detach()) == pytest.approx(tau * math.log(u), abs=1e-12)
        torch.testing.assert_close(grad(value, losses)[0], z, rtol=1e-12, atol=1e-12)  # step 5
        assert float(risk.tracker.memory.values) == pytest.approx(math.log(u), abs=1e-12)


def test_equation_6_14_line_by_line() -> None:
    # Losses at which exp(loss / tau) overflows in float64.
    rng = torch.Generator().manual_seed(2)
    tau, gamma = 0.25, 0.375
    risk, v = gs.KL(tau, gamma=gamma).double(), None
    for shift in (1e4, -1e4, 1e4 + 1.0, 3.0):
        losses = torch.randn(5, generator=rng, dtype=torch.float64) + shift
        top = float(losses.max())
        log_mean = math.log(sum(math.exp((float(each) - top) / tau) for each in losses) / 5) + top / tau
        if v is None:
            v = log_mean
        else:
            b, q = math.log(1 - gamma) + v, math.log(gamma) + log_mean
            v = max(b, q) - math.log(1 / (1 + math.exp(-abs(b - q))))
        value = risk(losses.requires_grad_())
        assert float(value.detach()) == pytest.approx(tau * v, rel=1e-13)
        expected = torch.exp(losses.detach() / tau - v) / 5
        torch.testing.assert_close(grad(value, losses)[0], expected, rtol=1e-10, atol=1e-300)


def test_many_rows_remember_separately() -> None:
    risk, tau = gs.KL(0.5, 3, gamma=0.25).double(), 0.5
    first, second = torch.randn(2, 2, 4, dtype=torch.float64)
    risk(first, torch.tensor([0, 2]))
    value = risk(second, torch.tensor([2, 1]))
    u = [torch.exp(rows / tau).mean(-1) for rows in (first, second)]
    expected = tau * torch.log(torch.stack([0.75 * u[0][1] + 0.25 * u[1][0], u[1][1]]))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_an_easier_batch_than_before_gets_smaller_weights() -> None:
    risk = gs.KL(1.0, gamma=0.5)
    assert float(risk.weights(torch.ones(4)).sum()) == pytest.approx(1.0)
    risk(torch.full((4,), 2.0))
    assert float(risk.weights(torch.zeros(4)).sum()) == pytest.approx(1 / (0.5 * math.exp(2.0) + 0.5), rel=1e-5)


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_tau(tau) -> None:
    with pytest.raises(ValueError, match="`tau` must be a positive number"):
        gs.KL(tau)


def test_bad_inputs() -> None:
    with pytest.raises(ValueError, match=r"`gamma` must be in \(0, 1\]"):
        gs.KL(1.0, gamma=0.0)
    with pytest.raises(ValueError, match="`index` is needed: the tracker has 3 rows and the estimate 2"):
        gs.KL(1.0, 3, gamma=0.5)(torch.ones(2, 4))
    with pytest.raises(ValueError, match="`losses` must have at least one dimension"):
        gs.KL(1.0)(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"`mask` must broadcast to the shape of `losses`, \(4,\). Found \(3,\)"):
        gs.KL(1.0)(torch.ones(4), mask=torch.ones(3, dtype=torch.bool))


def train(gamma: float) -> float:
    """Minimise tau log mean exp(loss / tau) of 0.5 (w - a_i)^2 - b_i with batches of two; the last w's mean."""
    rng = torch.Generator().manual_seed(0)
    anchors, tau = torch.tensor([0.0] * 18 + [4.0, 4.0]), 0.5
    w = torch.zeros((), requires_grad=True)
    risk, mean = gs.KL(tau, gamma=gamma), 0.0
    steps = 2500
    for step in range(steps):
        batch = torch.randint(20, (2,), generator=rng)
        # The cap keeps the weights' variance within what 2500 steps can average.
        (slope,) = torch.autograd.grad(
            risk(torch.nn.functional.huber_loss(w.expand(2), anchors[batch], reduction="none") * 0.25), w
        )
        with torch.no_grad():
            w -= 0.02 * slope
        mean += float(w.detach()) / (steps // 2) if step >= steps // 2 else 0.0
    return mean


def test_the_tracked_estimator_reaches_the_optimum_where_the_mini_batch_stalls() -> None:
    anchors = torch.tensor([0.0] * 18 + [4.0, 4.0], dtype=torch.float64)
    grid = torch.linspace(0, 4, 4001, dtype=torch.float64)
    losses = (
        torch.nn.functional.huber_loss(grid.unsqueeze(1).expand(-1, 20), anchors.expand(4001, -1), reduction="none")
        * 0.25
    )
    optimum = float(grid[gs.KL(0.5)(losses).argmin()])
    tracked, mini_batch = train(0.02), train(1.0)
    assert abs(tracked - optimum) < 0.1
    assert abs(mini_batch - optimum) > 0.25
