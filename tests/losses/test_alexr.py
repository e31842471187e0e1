"""ALEXRLoss: Alg. 18 of the book for the hinge, line by line."""

from __future__ import annotations

import pytest
import torch
from grouped import OPTIMUM, TIGHT, batch, means, per_sample, train, worst_third

from guidestar.losses import ALEXRLoss


@pytest.mark.parametrize("theta", [0.0, 0.75])
def test_algorithm_18(theta) -> None:
    alpha, eta, lr = 0.4, 0.6, 0.2
    loss = ALEXRLoss(6, alpha, dual_lr=eta, lr=lr, theta=theta).double()
    y, nu, nu_before = dict.fromkeys(range(6), 1.0), 0.0, 0.0
    for step in range(8):
        losses, group = batch(step, groups=((0, 1, 2), (3, 1, 4), (0, 5, 4))[step % 3])
        before = losses.detach() + 0.5 * torch.sin(torch.arange(8.0, dtype=torch.float64) + step)
        now, then = means(losses, group), means(before, group)
        for g in now:
            inner, inner_before = float(now[g].detach()) - nu, float(then[g]) - nu_before
            y[g] = min(1.0, max(0.0, y[g] + eta * (inner + theta * (inner - inner_before))))
        weight = {g: y[g] / len(now) for g in now}
        value = sum(weight[g] * (float(now[g].detach()) - nu) for g in now) + alpha * nu
        output = loss(losses, group, previous_losses=before)
        assert float(output.detach()) == pytest.approx(value, rel=1e-10)
        torch.testing.assert_close(torch.autograd.grad(output, losses)[0], per_sample(weight, group), **TIGHT)
        nu_before, nu = nu, nu - lr * (alpha - sum(weight.values()))
        assert float(loss.nu.values()) == pytest.approx(nu, rel=1e-10)
        torch.testing.assert_close(loss.y.memory.values.tolist(), list(y.values()), **TIGHT)
    assert 0.0 < min(y.values()) < 1.0 or 0.0 in y.values()  # the projection was reached, or nearly


def test_without_previous_losses_nothing_is_extrapolated() -> None:
    one, other = ALEXRLoss(4, 0.5, dual_lr=0.3, theta=1.0).double(), ALEXRLoss(4, 0.5, dual_lr=0.3, theta=0.0).double()
    for step in range(4):
        losses, group = batch(step)
        torch.testing.assert_close(one(losses, group), other(losses, group), **TIGHT)
    assert torch.equal(one.y.memory.values, other.y.memory.values)


def test_evaluation_is_the_best_answer_at_the_nu_that_was_learnt() -> None:
    loss = ALEXRLoss(4, 0.5, lr=0.5).double()
    for step in range(3):
        loss(*batch(step))
    nu = float(loss.nu.values())
    losses, group = batch(9)
    expected = sum(max(float(x.detach()) - nu, 0.0) for x in means(losses, group).values())
    with torch.no_grad():
        found = float(loss(losses, group))
    assert found == pytest.approx(expected / len(set(group.tolist())) + 0.5 * nu, rel=1e-10)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`theta` must be in \[0, 1\] \(0 is no extrapolation\). Found 2"):
        ALEXRLoss(3, 0.5, theta=2)
    with pytest.raises(ValueError, match=r"`dual_lr` must be a positive number. Found 0"):
        ALEXRLoss(3, 0.5, dual_lr=0)
    with pytest.raises(ValueError, match="`alpha` is a share"):
        ALEXRLoss(3, 0.0)
    with pytest.raises(ValueError, match=r"`previous_losses` must have the shape of `losses`"):
        ALEXRLoss(3, 0.5)(torch.ones(2), torch.tensor([0, 1]), previous_losses=torch.ones(1))
    with pytest.raises(IndexError, match=r"`group` must lie in \[0, 3\). Found 7"):
        ALEXRLoss(3, 0.5)(torch.ones(2), torch.tensor([0, 7]))


@pytest.mark.slow
def test_two_of_six_groups_a_batch_come_near_the_optimum() -> None:
    found = train(ALEXRLoss(6, 1 / 3, dual_lr=0.03, lr=0.05).double(), lr=0.2)
    assert worst_third(found) < OPTIMUM + 0.05
