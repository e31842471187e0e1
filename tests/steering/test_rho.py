"""DRRho: Eq. 6.113 to 6.120, at every granularity."""

from __future__ import annotations

import pytest
import torch

import guidestar as gs

RISKS = {
    "Mean": lambda: gs.Mean(),
    "TopK": lambda: gs.TopK(0.3),
    "KL": lambda: gs.KL(0.5),
    "KLBall": lambda: gs.KLBall(0.25),
    "CVaR": lambda: gs.CVaR(0.5),
    "ChiSquare": lambda: gs.ChiSquare(0.5),
}


@pytest.mark.parametrize("name", RISKS)
def test_it_is_the_risk_of_the_difference(name) -> None:
    losses, reference = torch.randn(2, 7, dtype=torch.float64)
    left, right = losses.clone().requires_grad_(), losses.clone().requires_grad_()
    value, expected = gs.DRRho(RISKS[name]())(left, reference), RISKS[name]()(right - reference)
    assert torch.equal(value, expected)
    value.backward()
    expected.backward()
    assert torch.equal(left.grad, right.grad)
    assert torch.equal(gs.DRRho(RISKS[name]()).weights(losses, reference), left.grad)


def test_the_book_s_top_k() -> None:
    losses, reference = torch.randn(2, 10, dtype=torch.float64)
    expected = sorted((losses - reference).tolist(), reverse=True)[:4]
    assert float(gs.DRRho(gs.TopK(0.4))(losses, reference)) == pytest.approx(sum(expected) / 4)  # Eq. 6.116


def test_the_variance_is_that_of_the_excess_loss() -> None:
    # Eq. 6.115: a reference close to the model makes the penalty small. The radius of 6.114 is rho / n.
    n, rho = 40, 2.0
    losses = torch.rand(n, dtype=torch.float64)
    for reference in (torch.zeros(n, dtype=torch.float64), losses + 0.01 * torch.randn(n, dtype=torch.float64)):
        rho_loss = losses - reference
        expected = rho_loss.mean() + torch.sqrt(2 * rho / n * rho_loss.var(unbiased=False))
        value = gs.DRRho(gs.ChiSquare(rho / n))(losses, reference)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_learnable_samples_get_weight_and_hopeless_ones_do_not() -> None:
    weights = gs.DRRho(gs.KL(0.5)).weights(torch.tensor([0.1, 3.0, 3.0]), torch.tensor([0.1, 0.2, 3.0]))
    assert weights[1] > 0.9
    torch.testing.assert_close(weights[0], weights[2])


def test_a_constant_shift_of_the_reference_changes_no_weight() -> None:
    losses, reference = torch.randn(2, 6, dtype=torch.float64)
    for risk in (gs.KL(0.5), gs.ChiSquare(0.5), gs.TopK(0.5)):
        torch.testing.assert_close(
            gs.DRRho(risk).weights(losses, reference), gs.DRRho(risk).weights(losses, reference + 5.0)
        )


def test_tokens() -> None:
    losses, reference = torch.randn(2, 3, 5, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [2], [0]])
    reference[~mask] = float("nan")
    value = gs.DRRho(gs.TopK(0.4))(losses, reference, mask=mask)
    for row, length in enumerate((5, 2)):
        expected = gs.TopK(0.4)((losses - reference)[row, :length])
        torch.testing.assert_close(value[row], expected)
    assert value[2] == 0.0


def test_pairs_remember_by_anchor() -> None:
    steer = gs.DRRho(gs.KL(0.5, 4, gamma=0.5)).double()
    losses, reference = torch.randn(2, 2, 5, dtype=torch.float64)
    steer(losses, reference, torch.tensor([3, 1]))
    assert steer.risk.tracker.memory.seen().tolist() == [False, True, False, True]


def test_groups_follow_the_algorithm() -> None:
    # The risk is over all groups known so far, with the running means of those that the batch does not hold.
    steer = gs.DRRho(gs.KL(0.5), groups=gs.GroupMean(3, gamma=0.25)).double()
    u: dict[int, torch.Tensor] = {}
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        losses, reference = torch.randn(2, 6, generator=rng, dtype=torch.float64)
        group = torch.randint(3, (6,), generator=rng) if seed else torch.tensor([0, 0, 2, 2, 2, 0])
        losses.requires_grad_()
        fresh = {}
        for g in set(group.tolist()):
            mean = (losses - reference)[group == g].mean()
            value = 0.75 * u[g] + 0.25 * mean.detach() if g in u else mean.detach()
            fresh[g] = value + mean - mean.detach()
            u[g] = value
        levels = torch.stack([fresh.get(g, u[g]) for g in sorted(u)])
        expected = 0.5 * torch.log(torch.exp(levels / 0.5).mean())
        weights = steer.weights(losses, reference, group)
        found = steer(losses, reference, group)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        (slope,) = torch.autograd.grad(expected, losses)
        torch.testing.assert_close(torch.autograd.grad(found, losses)[0], slope, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(weights, slope, rtol=1e-12, atol=1e-12)


def test_a_batch_without_losses_leaves_groups_and_risk_alone() -> None:
    steer = gs.DRRho(gs.CVaR(0.5), groups=gs.GroupMean(2, gamma=0.5))
    steer(torch.ones(3), torch.zeros(3), torch.tensor([0, 1, 1]))
    before = {name: value.clone() for name, value in steer.state_dict().items()}
    losses = torch.ones(2, requires_grad=True)
    value = steer(losses, torch.zeros(2), torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))
    value.backward()
    assert value == 0.0
    assert losses.grad.tolist() == [0.0, 0.0]
    after = steer.state_dict()
    assert int(after.pop("risk.empty.count")) == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_bad_inputs() -> None:
    steer = gs.DRRho(gs.Mean())
    with pytest.raises(ValueError, match=r"`reference_losses` must have the shape of `losses`, \(3,\). Found \(2,\)"):
        steer(torch.ones(3), torch.ones(2))
    with pytest.raises(TypeError, match="must be floating-point"):
        steer(torch.ones(3), torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="`index` must be given with `groups`"):
        gs.DRRho(gs.Mean(), groups=gs.GroupMean(2))(torch.ones(3), torch.ones(3))
