"""SONXLoss: Alg. 16 of the book for the hinge."""

from __future__ import annotations

import pytest
import torch
from grouped import OPTIMUM, TIGHT, batch, means, per_sample, train, worst_third

from guidestar.losses import SONXLoss


def test_subgradients_of_the_hinge_over_tracked_groups() -> None:
    alpha, lr, gamma, nu, u = 0.5, 0.3, 0.25, 0.0, {}
    loss = SONXLoss(5, alpha, gamma=gamma, lr=lr).double()
    for step in range(7):
        losses, group = batch(step, groups=((0, 1, 2), (3, 1, 4))[step % 2])
        found = means(losses, group)
        for g, value in found.items():
            u[g] = (1 - gamma) * u[g] + gamma * float(value.detach()) if g in u else float(value.detach())
        weight = {g: float(u[g] > nu) / len(found) for g in found}
        output = loss(losses, group)
        value = sum(max(u[g] - nu, 0.0) for g in found) / len(found) + alpha * nu
        assert float(output.detach()) == pytest.approx(value, rel=1e-10)
        torch.testing.assert_close(torch.autograd.grad(output, losses)[0], per_sample(weight, group), **TIGHT)
        nu -= lr * (alpha - sum(weight.values()))
    assert float(loss.loss.risk.dual.values()) == pytest.approx(nu, rel=1e-10)


def test_errors_are_those_of_sonex() -> None:
    with pytest.raises(ValueError, match="`alpha` is a share"):
        SONXLoss(3, 1.5)
    with pytest.raises(IndexError, match=r"`group` must lie in \[0, 3\). Found -1"):
        SONXLoss(3, 0.5)(torch.ones(1), torch.tensor([-1]))


@pytest.mark.slow
def test_two_of_six_groups_a_batch_come_near_the_optimum() -> None:
    found = train(SONXLoss(6, 1 / 3, gamma=0.1, lr=0.1).double(), lr=0.2)
    assert worst_third(found) < OPTIMUM + 0.01
