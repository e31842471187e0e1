"""GroupDROLoss: a risk over the groups' running means."""

from __future__ import annotations

import pytest
import torch
from grouped import TIGHT, batch, means, per_sample

from guidestar import KL, CVaR, DRRho, GroupMean, Mean, TopK
from guidestar.losses import GroupDROLoss


def test_the_mean_of_the_worst_groups() -> None:
    losses, group = batch(0, size=30)
    loss = GroupDROLoss(TopK(0.5), GroupMean(4, gamma=1.0))
    found = means(losses, group)
    worst = sorted(found, key=lambda g: -float(found[g].detach()))[:2]
    expected = (found[worst[0]] + found[worst[1]]) / 2
    output = loss(losses, group)
    torch.testing.assert_close(output, expected, **TIGHT)
    left, right = (torch.autograd.grad(x, losses)[0] for x in (output, expected))
    torch.testing.assert_close(left, right, **TIGHT)


def test_the_soft_maximum_of_the_groups() -> None:
    losses, group = batch(1, size=30)
    found = torch.stack(list(means(losses, group).values()))
    output = GroupDROLoss(KL(0.5), GroupMean(4, gamma=1.0))(losses, group)
    torch.testing.assert_close(output, 0.5 * (found / 0.5).exp().mean().log(), **TIGHT)


def test_groups_that_are_not_in_the_batch_are_remembered() -> None:
    gamma, u = 0.25, {}
    loss = GroupDROLoss(Mean(), GroupMean(6, gamma=gamma)).double()
    for step in range(5):
        losses, group = batch(step, groups=((0, 1, 2), (3, 1, 4))[step % 2])
        found = means(losses, group)
        for g, value in found.items():
            u[g] = (1 - gamma) * u[g] + gamma * float(value.detach()) if g in u else float(value.detach())
        output = loss(losses, group)
        assert float(output.detach()) == pytest.approx(sum(u.values()) / len(u), rel=1e-10)  # group 5 is never seen
        weight = {g: 1 / len(u) for g in found}
        torch.testing.assert_close(torch.autograd.grad(output, losses)[0], per_sample(weight, group), **TIGHT)


def test_with_a_reference_it_is_drrho_over_groups() -> None:
    one = GroupDROLoss(CVaR(0.5, lr=0.1), GroupMean(4, gamma=0.5)).double()
    other = DRRho(CVaR(0.5, lr=0.1), groups=GroupMean(4, gamma=0.5)).double()
    for step in range(4):
        losses, group = batch(step)
        reference = torch.rand(8, dtype=torch.float64)
        mask = torch.arange(8) != 3
        left = one(losses, group, reference_losses=reference, mask=mask)
        right = other(losses, reference, group, mask)
        assert torch.equal(left, right)
        assert torch.equal(*(torch.autograd.grad(x, losses)[0] for x in (left, right)))


def test_errors() -> None:
    with pytest.raises(TypeError, match=r"`groups` must be a GroupMean\(num_groups\). Found int"):
        GroupDROLoss(Mean(), 3)
    with pytest.raises(TypeError, match=r"`risk` must be a risk"):
        GroupDROLoss(Mean, GroupMean(3))
    loss = GroupDROLoss(Mean(), GroupMean(3))
    with pytest.raises(IndexError, match=r"`group` must lie in \[0, 3\). Found 3"):
        loss(torch.ones(2), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"`reference_losses` must have the shape"):
        loss(torch.ones(2), torch.tensor([0, 1]), reference_losses=torch.ones(1))
