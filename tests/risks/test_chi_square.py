"""ChiSquare: Eq. 6.114, 6.115 and the duals in part 1 of the methods' notes."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize, minimize_scalar

import guidestar as gs
from guidestar.risks.chi_square import ball_weights, divergence, penalty_weights

SETS = {
    "distinct": [0.3, -1.2, 2.5, 0.9, 1.1, -0.4],
    "ties at the top": [1.0, 2.0, 2.0, 0.0, -1.0, 2.0],
    "ties below": [1.0, 1.0, 3.0, 1.0, 0.0, 0.0],
    "equal": [0.7] * 6,
    "one outlier": [0.0, 0.001, -0.001, 0.0005, 100.0, 0.0],
    "far from zero": [1e4 + 1, 1e4 + 2, 1e4 + 3, 1e4 - 1, 1e4, 1e4 + 0.5],
    "two": [1.0, 0.0],
    "one": [4.0],
}
RADII = [0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 2.5, 3.0, 10.0, 1e6]
sets = pytest.mark.parametrize("losses", [torch.tensor(v, dtype=torch.float64) for v in SETS.values()], ids=SETS.keys())


def dual_ball(losses: torch.Tensor, rho: float) -> float:
    """min over nu of sqrt(1 + 2 rho) sqrt(mean [l - nu]_+^2) + nu, by golden section on a bracket that holds it."""
    spread = float(losses.max() - losses.min()) + 1e-9

    def objective(nu: float) -> float:
        return math.sqrt(1 + 2 * rho) * math.sqrt(float(torch.relu(losses - nu).square().mean())) + nu

    low = float(losses.min()) - spread * (2 + 10 / math.sqrt(rho + 1e-6))
    found = minimize_scalar(objective, bounds=(low, float(losses.max())), method="bounded", options={"xatol": 1e-11})
    return min(found.fun, objective(float(losses.max())), *(objective(float(each)) for each in losses))


def dual_penalty(losses: torch.Tensor, strength: float) -> float:
    """min over nu of mean phi*(l - nu) + nu: its slope is increasing, so bisection finds the root."""
    low, high = float(losses.min()) - 10 * strength - 1, float(losses.max()) + strength + 1
    for _ in range(200):
        nu = (low + high) / 2
        slope = 1 - float(torch.relu(1 + (losses - nu) / strength).mean())
        low, high = (nu, high) if slope < 0 else (low, nu)
    s = losses - nu
    return (
        float(torch.where(s >= -strength, s + s.square() / (2 * strength), -strength / 2 * torch.ones_like(s)).mean())
        + nu
    )


@sets
@pytest.mark.parametrize("rho", RADII)
def test_the_ball_satisfies_the_optimality_conditions(losses, rho) -> None:
    p, m = ball_weights(losses, rho), len(losses)
    scale = max(float(losses.max() - losses.min()), 1e-9)
    assert float(p.min()) >= 0.0
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-9)
    assert float(divergence(p)) <= rho + 1e-9 * max(1.0, rho)
    ties = int((losses == losses.max()).sum())
    if 1 + 2 * rho >= m / ties:
        # The ball reaches the face of the largest losses: nothing else has weight.
        assert float(p[losses == losses.max()].sum()) == pytest.approx(1.0, abs=1e-9)
    elif rho > 0:
        assert float(divergence(p)) == pytest.approx(rho, rel=1e-6)
        on = p > 1e-12
        # Stationarity: on the support p is affine in the loss with a positive slope, and off it the loss is below nu.
        slope = (p[on].max() - p[on].min()) / (losses[on].max() - losses[on].min())
        nu = losses[on].max() - p[on].max() / slope
        torch.testing.assert_close(p[on], slope * (losses[on] - nu), atol=1e-8, rtol=1e-6)
        assert (losses[~on] <= nu + 1e-7 * scale).all()
    if rho > 0:  # at 0 the dual's infimum is at minus infinity
        assert float((p * losses).sum()) == pytest.approx(dual_ball(losses, rho), abs=2e-6 * scale)


@sets
@pytest.mark.parametrize("strength", [1e-6, 0.01, 0.3, 1.0, 5.0, 1e4])
def test_the_penalty_satisfies_the_optimality_conditions(losses, strength) -> None:
    p, m = penalty_weights(losses, strength), len(losses)
    assert float(p.min()) >= 0.0
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-9)
    # Stationarity: l_j - strength (m p_j - 1) is one number nu on the support and at least the loss's own off it.
    level = losses - strength * (m * p - 1)
    on = p > 1e-9
    nu = level[on].mean()
    torch.testing.assert_close(level[on], nu.expand(int(on.sum())), atol=1e-6 * max(1.0, strength), rtol=1e-9)
    assert (level[~on] <= nu + 1e-6).all()
    value = float((p * losses).sum() - strength * divergence(p))
    assert float(gs.ChiSquare(strength, ball=False)(losses)) == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert value == pytest.approx(dual_penalty(losses, strength), rel=1e-8, abs=1e-6)


@pytest.mark.parametrize("ball", [True, False])
def test_against_a_general_solver(ball) -> None:
    losses = torch.tensor(SETS["distinct"], dtype=torch.float64)
    for rho in (0.05, 0.4, 1.5):

        def objective(p, rho=rho):
            return -float(p @ losses.numpy()) + (0.0 if ball else rho * 0.5 * float(((6 * p - 1) ** 2).mean()))

        constraints = [{"type": "eq", "fun": lambda p: p.sum() - 1}]
        if ball:
            constraints.append({"type": "ineq", "fun": lambda p, rho=rho: rho - 0.5 * ((6 * p - 1) ** 2).mean()})
        solved = minimize(
            objective,
            [1 / 6] * 6,
            bounds=[(0, 1)] * 6,
            constraints=constraints,
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert float(gs.ChiSquare(rho, ball=ball)(losses)) == pytest.approx(-solved.fun, abs=1e-6)


def test_it_is_the_variance_regularized_mean_while_no_weight_is_cut() -> None:
    # Eq. 6.115, with the radius rho / n of Eq. 6.114.
    losses, rho = torch.randn(50, dtype=torch.float64).requires_grad_(), 1.5
    risk = gs.ChiSquare(rho / 50)
    assert (risk.weights(losses) > 0).all()
    expected = losses.mean() + torch.sqrt(2 * rho / 50 * losses.var(unbiased=False))
    torch.testing.assert_close(risk(losses), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(risk(losses), losses)[0], torch.autograd.grad(expected, losses)[0], rtol=1e-10, atol=1e-12
    )


@sets
def test_a_ball_that_holds_the_simplex_gives_the_largest_loss(losses) -> None:
    assert float(gs.ChiSquare(1e6)(losses)) == pytest.approx(float(losses.max()), rel=1e-12)
    assert float(gs.ChiSquare(1e-9, ball=False)(losses)) == pytest.approx(float(losses.max()), rel=1e-6)


@sets
def test_no_ball_or_an_infinite_penalty_gives_the_mean(losses) -> None:
    torch.testing.assert_close(gs.ChiSquare(0.0)(losses), losses.mean(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gs.ChiSquare(1e12, ball=False)(losses), losses.mean(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("ball", [True, False])
def test_masked_rows_are_their_short_selves(ball) -> None:
    losses = torch.randn(4, 7, dtype=torch.float64)
    mask = torch.tensor([[True] * 7, [True, False] * 3 + [True], [False] * 6 + [True], [False] * 7])
    risk = gs.ChiSquare(0.6, ball=ball)
    value, weights = risk(losses, mask=mask), risk.weights(losses, mask=mask)
    for row in range(3):
        torch.testing.assert_close(value[row], risk(losses[row, mask[row]]), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(weights[row, mask[row]], risk.weights(losses[row, mask[row]]), rtol=1e-9, atol=1e-12)
    assert not weights[~mask].any()
    assert value[3] == 0.0


@pytest.mark.parametrize("ball", [True, False])
def test_the_value_is_differentiated_exactly(ball) -> None:
    losses = torch.randn(3, 6, dtype=torch.float64).requires_grad_()
    risk = gs.ChiSquare(0.8, ball=ball)
    torch.autograd.gradcheck(lambda x: risk(x), losses)


@pytest.mark.parametrize("ball", [True, False])
def test_the_tracked_form_at_a_given_nu_is_the_dual_objective(ball) -> None:
    losses, rho = torch.randn(9, dtype=torch.float64).requires_grad_(), 0.5
    nu = torch.tensor(-0.25, dtype=torch.float64, requires_grad=True)
    s = losses - nu
    if ball:
        objective = math.sqrt(1 + 2 * rho) * torch.relu(s).square().mean().sqrt() + nu
    else:
        objective = torch.where(s >= -rho, s + s.square() / (2 * rho), -rho / 2 * torch.ones_like(s)).mean() + nu
    slope, nu_slope = torch.autograd.grad(objective, (losses, nu))
    risk = gs.ChiSquare(rho, ball=ball, lr=0.125).double()
    risk.dual.memory.values.fill_(-0.25)
    value = risk(losses)
    torch.testing.assert_close(value, objective, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.autograd.grad(value, losses)[0], slope, rtol=1e-10, atol=1e-10)
    assert float(risk.dual.values()) == pytest.approx(-0.25 - 0.125 * float(nu_slope), abs=1e-12)


@pytest.mark.parametrize("ball", [True, False])
def test_nu_converges_to_the_exact_solution(ball) -> None:
    losses = torch.randn(30, dtype=torch.float64)
    risk = gs.ChiSquare(0.5, ball=ball, lr=0.2).double()
    for _ in range(500):
        value = risk(losses)
    torch.testing.assert_close(value, gs.ChiSquare(0.5, ball=ball)(losses), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        risk.eval().weights(losses), gs.ChiSquare(0.5, ball=ball).weights(losses), rtol=1e-5, atol=1e-7
    )


def test_the_tracked_second_moment_sees_more_than_a_small_batch() -> None:
    # With batches of two the in-batch worst case is far too low; nu and the tracked moment approach the data set's.
    rng = torch.Generator().manual_seed(0)
    data = torch.randn(400, generator=rng).square()
    exact = float(gs.ChiSquare(2.0)(data))
    risk, in_batch, tracked, small = gs.ChiSquare(2.0, lr=0.02, gamma=0.02), gs.ChiSquare(2.0), 0.0, 0.0
    for step in range(4000):
        batch = data[torch.randint(400, (2,), generator=rng)]
        value = float(risk(batch))
        if step >= 2000:
            tracked += value / 2000
            small += float(in_batch(batch)) / 2000
    assert tracked == pytest.approx(exact, rel=0.1)
    assert small < 0.7 * exact


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": -1.0}, "`rho` must be at least 0 and finite. Found -1.0"),
        ({"rho": float("inf")}, "`rho` must be at least 0 and finite"),
        ({"rho": 0.0, "ball": False}, "`rho` must be positive and finite. Found 0.0"),
        ({"rho": 1.0, "gamma": 0.5}, "belong to the tracked form, which needs a step size `lr`"),
        ({"rho": 1.0, "num_rows": 4}, "belong to the tracked form, which needs a step size `lr`"),
        ({"rho": 1.0, "lr": -1.0}, "`lr` must be positive"),
    ],
)
def test_bad_settings(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        gs.ChiSquare(**settings)
