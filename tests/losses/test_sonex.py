"""SONEXLoss: Eq. 6.19 and Alg. 25 line by line."""

from __future__ import annotations

import pytest
import torch
from grouped import OPTIMUM, TIGHT, batch, means, per_sample, train, worst_third

from guidestar import CVaR, GroupMean
from guidestar.losses import GroupDROLoss, SONEXLoss


def f(t: float, eps: float) -> float:
    return max(t - eps / 2, 0.0) if t >= eps else (t * t / (2 * eps) if t > 0 else 0.0)


def slope(t: float, eps: float) -> float:
    return 1.0 if t >= eps else (t / eps if t > 0 else 0.0)


@pytest.mark.parametrize("smoothing", [0.5, 0.01])
@pytest.mark.parametrize("gamma", [1.0, 0.3])
def test_algorithm_25(gamma, smoothing) -> None:
    alpha, lr, nu, u = 0.4, 0.2, 0.0, {}
    loss = SONEXLoss(6, alpha, gamma=gamma, smoothing=smoothing, lr=lr).double()
    for step in range(7):
        losses, group = batch(step, groups=((0, 1, 2), (3, 1, 4), (0, 5, 4))[step % 3])
        found = means(losses, group)
        for g, value in found.items():  # step 6
            u[g] = (1 - gamma) * u[g] + gamma * float(value.detach()) if g in u else float(value.detach())
        b = len(found)
        weight = {g: slope(u[g] - nu, smoothing) / b for g in found}  # step 10
        value = sum(f(u[g] - nu, smoothing) for g in found) / b + alpha * nu
        output = loss(losses, group)
        assert float(output.detach()) == pytest.approx(value, rel=1e-10)
        (gradient,) = torch.autograd.grad(output, losses)
        torch.testing.assert_close(gradient, per_sample(weight, group), **TIGHT)
        nu -= lr * (alpha - sum(weight.values()))  # steps 9 and 11
        assert float(loss.risk.dual.values()) == pytest.approx(nu, rel=1e-10, abs=1e-12)


def test_the_correction_of_msvr_with_the_losses_at_the_weights_before() -> None:
    # The published code's two estimates are the same tensor, so that its correction is 0.
    gamma, prime, u = 0.25, 0.8, {}
    loss = SONEXLoss(4, 0.5, gamma=gamma, gamma_prime=prime, smoothing=0.1, lr=1e-9).double()
    for step in range(5):
        losses, group = batch(step)
        before = losses.detach() + 0.5 * torch.sin(torch.arange(8.0, dtype=torch.float64) + step)
        now, then = means(losses, group), means(before, group)
        for g, value in now.items():
            new = float(value.detach())
            u[g] = (1 - gamma) * u[g] + gamma * new + prime * (new - float(then[g])) if g in u else new
        loss(losses, group, previous_losses=before)
        kept, seen = loss.groups.tracker.remembered()
        assert {g: pytest.approx(float(kept[g]), rel=1e-10) for g in range(4) if seen[g]} == u


def test_with_all_groups_it_is_cvar_times_alpha_and_group_dro() -> None:
    losses, group = batch(0, size=40)
    one = SONEXLoss(4, 0.5, gamma=1.0, smoothing=0.2, lr=0.1).double()
    other = GroupDROLoss(CVaR(0.5, lr=0.05, smoothing=0.2), GroupMean(4, gamma=1.0)).double()
    for _ in range(3):
        left, right = one(losses, group), 0.5 * other(losses, group)
        torch.testing.assert_close(left, right, **TIGHT)
        torch.testing.assert_close(*(torch.autograd.grad(x, losses)[0] for x in (left, right)), **TIGHT)


def test_of_the_known_groups_only_those_in_the_batch_count_but_group_dro_takes_all() -> None:
    one = SONEXLoss(4, 0.5, gamma=0.5, smoothing=0.0, lr=0.1).double()
    other = GroupDROLoss(CVaR(0.5, lr=0.05), GroupMean(4, gamma=0.5)).double()
    everything = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64, requires_grad=True)
    for loss in (one, other):
        loss(everything, torch.arange(4))
    nu = float(one.risk.dual.values())
    two = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    left, right = one(two, torch.tensor([1, 2])), other(two, torch.tensor([1, 2]))
    assert float(left.detach()) == pytest.approx((2.0 - nu + 3.0 - nu) / 2 + 0.5 * nu)
    assert float(right.detach()) == pytest.approx((1.0 + 2.0 + 3.0 + 4.0 - 4 * nu) / 4 / 0.5 + nu)
    # The documented factor B1 / (K alpha) between the two gradients: 2 of 4 groups, alpha 1/2.
    gradients = [torch.autograd.grad(x, two)[0] for x in (left, right)]
    torch.testing.assert_close(gradients[1], gradients[0] * 2 / (4 * 0.5), **TIGHT)


def test_the_excess_over_a_reference() -> None:
    losses, group = batch(1)
    reference = torch.rand(8, dtype=torch.float64)
    one, other = (SONEXLoss(4, 0.5, gamma=0.5).double() for _ in range(2))
    left = one(losses, group, reference_losses=reference, previous_losses=losses.detach() + 1)
    right = other(losses - reference, group, previous_losses=losses.detach() + 1 - reference)
    torch.testing.assert_close(left, right, **TIGHT)


def test_one_group_and_groups_of_one_sample() -> None:
    loss = SONEXLoss(1, 1.0, gamma=0.5, smoothing=0.0, lr=0.1)
    assert float(loss(torch.tensor([2.0, 4.0]), torch.tensor([0, 0]))) == 3.0
    loss = SONEXLoss(5, 0.4, gamma=0.5, smoothing=0.0, lr=0.1)
    assert float(loss(torch.tensor([2.0, 4.0]), torch.tensor([1, 4]))) == 3.0


def test_a_group_never_seen_counts_neither_in_value_nor_in_nu() -> None:
    few, many = (SONEXLoss(k, 0.5, gamma=0.5, smoothing=0.1, lr=0.1) for k in (2, 50))
    for step in range(3):
        losses, group = batch(step, groups=(0, 1))
        torch.testing.assert_close(few(losses, group), many(losses, group))
    assert torch.equal(few.risk.dual.memory.values, many.risk.dual.memory.values)


def test_errors() -> None:
    loss = SONEXLoss(3, 0.5)
    with pytest.raises(IndexError, match=r"`group` must lie in \[0, 3\). Found 3"):
        loss(torch.ones(2), torch.tensor([0, 3]))
    with pytest.raises(TypeError, match=r"`group` must hold the number of each loss's group, int64. Found dtype"):
        loss(torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match=r"`losses` and `group` must both have shape \[m\]"):
        loss(torch.ones(2), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"`previous_losses` must have the shape of `losses`, \(2,\).*Found \(3,\)"):
        loss(torch.ones(2), torch.tensor([0, 1]), previous_losses=torch.ones(3))
    with pytest.raises(ValueError, match=r"`reference_losses` must have the shape"):
        loss(torch.ones(2), torch.tensor([0, 1]), reference_losses=torch.ones(3))
    with pytest.raises(ValueError, match=r"`alpha` is a share and must be in \(0, 1\]. Found 0"):
        SONEXLoss(3, 0)
    with pytest.raises(ValueError, match=r"`lr` must be a positive number. Found -1"):
        SONEXLoss(3, 0.5, lr=-1)
    with pytest.raises(ValueError, match=r"`smoothing` must be 0"):
        SONEXLoss(3, 0.5, smoothing=-1.0)
    with pytest.raises(ValueError, match=r"`num_groups` must be at least 1. Found 0"):
        SONEXLoss(0, 0.5)


@pytest.mark.slow
def test_two_of_six_groups_a_batch_reach_the_optimum_and_the_risk_of_single_batches_does_not() -> None:
    tracked, without = (
        train(SONEXLoss(6, 1 / 3, gamma=gamma, smoothing=0.1, lr=0.1).double(), lr=0.2) for gamma in (0.1, 1.0)
    )
    # Within the batch: the worst third of two groups is the worse of the two, whichever they are.
    within = train(lambda losses, group: torch.stack(list(means(losses, group).values())).max())
    gaps = [worst_third(w) - OPTIMUM for w in (tracked, without, within)]
    assert 0 <= gaps[0] < 0.01
    assert gaps[1] > 0.1
    assert gaps[2] > 0.1
