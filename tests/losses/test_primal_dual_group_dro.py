"""PrimalDualGroupDROLoss: Eq. 6.18 by stochastic mirror ascent."""

from __future__ import annotations

import math

import pytest
import torch
from grouped import OPTIMUM, batch, bisected, means, per_sample, train, worst_third

from guidestar.losses import PrimalDualGroupDROLoss


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0])
def test_stochastic_mirror_ascent(alpha) -> None:
    k, lr = 6, 0.3
    loss = PrimalDualGroupDROLoss(k, alpha, lr).double()
    p = [1 / k] * k
    for step in range(8):
        losses, group = batch(step, groups=((0, 1, 2), (3, 1, 4), (0, 5, 4))[step % 3])
        found = means(losses, group)
        factor = k / len(found)
        output = loss(losses, group)
        expected = factor * sum(p[g] * float(x.detach()) for g, x in found.items())
        assert float(output.detach()) == pytest.approx(expected, rel=1e-9)
        weight = {g: factor * p[g] for g in found}
        torch.testing.assert_close(
            torch.autograd.grad(output, losses)[0], per_sample(weight, group), rtol=1e-9, atol=1e-10
        )
        gain = [factor * float(found[g].detach()) if g in found else 0.0 for g in range(k)]
        p = bisected([x * math.exp(lr * h) for x, h in zip(p, gain, strict=True)], 1 / (alpha * k))
        torch.testing.assert_close(loss.group_weights.values().tolist(), p, rtol=1e-9, atol=1e-10)


def test_with_all_groups_and_fixed_losses_p_becomes_the_worst_share() -> None:
    loss = PrimalDualGroupDROLoss(4, 0.5, 0.1).double()
    values = torch.tensor([1.0, 4.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    for _ in range(300):
        value = loss(values, torch.arange(4))
    torch.testing.assert_close(value.detach(), torch.tensor(3.5, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_a_weight_that_vanished_comes_back() -> None:
    loss = PrimalDualGroupDROLoss(2, 0.1, 1.0)
    for _ in range(30):
        loss(torch.tensor([10.0, 0.0], requires_grad=True), torch.tensor([0, 1]))
    for _ in range(60):
        loss(torch.tensor([0.0, 10.0], requires_grad=True), torch.tensor([0, 1]))
    assert loss.group_weights.values().tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


def test_errors() -> None:
    with pytest.raises(ValueError, match="`alpha` is a share"):
        PrimalDualGroupDROLoss(3, 2.0)
    with pytest.raises(ValueError, match=r"`lr` must be a positive number. Found 0"):
        PrimalDualGroupDROLoss(3, 0.5, 0)
    with pytest.raises(IndexError, match=r"`group` must lie in \[0, 3\). Found 3"):
        PrimalDualGroupDROLoss(3, 0.5)(torch.ones(1), torch.tensor([3]))


@pytest.mark.slow
def test_two_of_six_groups_a_batch_come_near_the_optimum() -> None:
    found = train(PrimalDualGroupDROLoss(6, 1 / 3, 0.01).double(), lr=0.05)
    assert worst_third(found) < OPTIMUM + 0.01
