"""CVaR and TopK: Eq. 6.17, 6.19, 6.116, 6.117, Algorithm 25 (steps 6, 9, 10), Algorithm 20."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linprog

import guidestar as gs


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("nu", [0.0, -0.5, 0.75])
def test_full_batch_equals_the_objective_and_so_does_nu(alpha, nu) -> None:
    losses = torch.randn(9, dtype=torch.float64).requires_grad_()
    threshold = torch.tensor(nu, dtype=torch.float64, requires_grad=True)
    objective = torch.relu(losses - threshold).sum() / (alpha * 9) + threshold  # Eq. 6.117
    slope, nu_slope = torch.autograd.grad(objective, (losses, threshold))
    risk = gs.CVaR(alpha, lr=0.125).double()
    risk.dual.memory.values.fill_(nu)
    value = risk(losses)
    torch.testing.assert_close(value, objective, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.autograd.grad(value, losses)[0], slope, rtol=1e-10, atol=1e-10)
    assert float(risk.dual.values()) == pytest.approx(nu - 0.125 * float(nu_slope), abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.125, 1.0])
def test_the_smoothed_hinge_is_the_envelope(smoothing) -> None:
    losses = (2 * torch.randn(12, dtype=torch.float64)).requires_grad_()
    nu = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    t = losses - nu
    f = torch.where(t >= smoothing, t - smoothing / 2, torch.where(t > 0, t.square() / (2 * smoothing), 0.0 * t))
    objective = f.mean() / 0.25 + nu
    slope, nu_slope = torch.autograd.grad(objective, (losses, nu))
    risk = gs.CVaR(0.25, lr=0.125, smoothing=smoothing).double()
    risk.dual.memory.values.fill_(0.25)
    value = risk(losses)
    torch.testing.assert_close(value, objective, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.autograd.grad(value, losses)[0], slope, rtol=1e-10, atol=1e-10)
    assert float(risk.dual.values()) == pytest.approx(0.25 - 0.125 * float(nu_slope), abs=1e-12)


def test_algorithm_25() -> None:
    # K groups, k of them count: Eq. 6.19 is alpha times the risk here, so z_nu and z_w are alpha times these gradients.
    groups, alpha, epsilon, gamma, eta = 4, 0.5, 0.5, 0.25, 0.25
    tracker = gs.Tracker(groups, gamma=gamma).double()
    risk = gs.CVaR(alpha, lr=eta * alpha, smoothing=epsilon).double()
    rng = torch.Generator().manual_seed(0)
    u: dict[int, float] = {}
    nu = 0.0
    for _ in range(5):
        batch = torch.randperm(groups, generator=rng)[:2]
        losses = (torch.randn(2, 3, generator=rng, dtype=torch.float64) + 0.5).requires_grad_()
        z_nu, z_w = 0.0, []
        for position, i in enumerate(batch.tolist()):
            g = float(losses[position].detach().sum()) / 3
            u[i] = (1 - gamma) * u[i] + gamma * g if i in u else g  # step 6
            f_slope = min(max((u[i] - nu) / epsilon, 0.0), 1.0)
            z_nu += -f_slope / 2  # step 9
            z_w.append([f_slope / 3 / 2] * 3)  # step 10
        z_nu += alpha
        value = risk(tracker(losses.mean(-1), batch))
        slope = torch.autograd.grad(value, losses)[0]
        torch.testing.assert_close(alpha * slope, torch.tensor(z_w, dtype=torch.float64), rtol=1e-12, atol=1e-12)
        nu -= eta * z_nu  # step 11
        assert float(risk.dual.values()) == pytest.approx(nu, abs=1e-12)


def test_nu_converges_to_the_quantile_with_small_batches() -> None:
    rng = torch.Generator().manual_seed(0)
    data = torch.randn(1000, generator=rng)
    risk, average = gs.CVaR(0.2, lr=0.01), 0.0
    for step in range(4000):
        risk(data[torch.randint(1000, (8,), generator=rng)].requires_grad_())
        average += float(risk.dual.values()) / 2000 if step >= 2000 else 0.0
    assert average == pytest.approx(float(data.quantile(0.8)), abs=0.05)
    exact = data.topk(200).values.mean()
    risk.dual.memory.values.fill_(float(data.quantile(0.8)))
    torch.testing.assert_close(risk.eval()(data), exact, atol=1e-3, rtol=0)
    assert float(gs.TopK(0.2)(data)) == pytest.approx(float(exact), rel=1e-6)


def test_the_value_is_an_upper_bound() -> None:
    losses = torch.randn(20, dtype=torch.float64)
    for nu in torch.linspace(-2, 2, 9):
        risk = gs.CVaR(0.3).double()
        risk.dual.memory.values.fill_(float(nu))
        assert risk(losses) >= gs.TopK(0.3)(losses) - 1e-12


def test_many_rows_have_their_own_threshold() -> None:
    risk = gs.CVaR(0.5, num_rows=3, lr=0.125)
    risk(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), torch.tensor([2, 0]))
    assert risk.dual.values(torch.arange(3)).tolist() == [-0.125, 0.0, 0.125]
    with pytest.raises(ValueError, match="`index` is needed: there are 3 rows"):
        risk(torch.ones(2, 2))


def worst_case(losses: list[float], alpha: float) -> float:
    """max p . losses over the simplex with p_j <= 1 / (alpha m)."""
    m = len(losses)
    bound = max(1 / (alpha * m), 1 / m)
    return -linprog([-each for each in losses], A_eq=[[1.0] * m], b_eq=[1.0], bounds=[(0, min(bound, 1.0))] * m).fun


@pytest.mark.parametrize("alpha", [0.05, 1 / 7, 0.2, 0.33, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["distinct", "ties", "equal"])
def test_top_k_is_the_linear_programme(alpha, kind) -> None:
    losses = {
        "distinct": torch.randn(7, dtype=torch.float64),
        "ties": torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64),
        "equal": torch.full((7,), 1.5, dtype=torch.float64),
    }[kind]
    risk = gs.TopK(alpha)
    assert float(risk(losses)) == pytest.approx(worst_case(losses.tolist(), alpha), abs=1e-10)
    weights = risk.weights(losses)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(weights.max()) <= min(1 / (alpha * 7), 1.0) + 1e-12
    assert float((weights * losses).sum()) == pytest.approx(float(risk(losses)), abs=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.33, 0.6, 1.0])
def test_top_k_of_masked_rows(alpha) -> None:
    losses = torch.randn(3, 7, dtype=torch.float64)
    mask = torch.tensor([[True] * 7, [True, False] * 3 + [True], [False] * 6 + [True]])
    found = gs.TopK(alpha)(losses, mask=mask)
    for row in range(3):
        assert float(found[row]) == pytest.approx(worst_case(losses[row, mask[row]].tolist(), alpha), abs=1e-10)


def test_top_k_is_the_mean_of_the_top_k() -> None:
    losses = torch.randn(30, dtype=torch.float64)  # 0.1 * 30 is 3.0000000000000004
    torch.testing.assert_close(gs.TopK(0.1)(losses), losses.topk(3).values.mean(), rtol=1e-14, atol=0)
    assert int((gs.TopK(0.1).weights(losses) > 0).sum()) == 3
    assert int((gs.TopK(0.1).weights(losses, mask=torch.ones(30, dtype=torch.bool)) > 0).sum()) == 3
    assert int((gs.TopK(0.1).weights(losses.float(), mask=torch.ones(30, dtype=torch.bool)) > 0).sum()) == 3


def test_a_share_of_one_is_the_mean_and_a_small_one_the_largest() -> None:
    losses = torch.randn(9, dtype=torch.float64)
    torch.testing.assert_close(gs.TopK(1.0)(losses), losses.mean())
    torch.testing.assert_close(gs.TopK(1e-6)(losses), losses.max())
    risk = gs.CVaR(1.0).double()
    risk.dual.memory.values.fill_(float(losses.min()) - 1)
    torch.testing.assert_close(risk(losses), losses.mean())


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1, math.nan])
def test_bad_settings(alpha) -> None:
    for risk in (gs.CVaR, gs.TopK):
        with pytest.raises(ValueError, match=r"`alpha` is a share and must be in \(0, 1\]"):
            risk(alpha)
    with pytest.raises(ValueError, match=r"`smoothing` must be 0 \(the hinge\) or positive. Found -1"):
        gs.CVaR(0.5, smoothing=-1.0)
    with pytest.raises(ValueError, match="`lr` must be positive"):
        gs.CVaR(0.5, lr=0.0)
