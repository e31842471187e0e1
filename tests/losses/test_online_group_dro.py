"""OnlineGroupDROLoss: the algorithm of Sagawa et al., with the adjustment on q alone."""

from __future__ import annotations

import math

import pytest
import torch
from grouped import TIGHT, batch, means, per_sample

from guidestar.losses import OnlineGroupDROLoss

COUNTS = [100, 25, 4, 400, 9, 1]


@pytest.mark.parametrize("c", [0.0, 2.0])
def test_exponentiated_gradient(c) -> None:
    k, lr = 6, 0.3
    loss = OnlineGroupDROLoss(k, lr=lr, adjustment=c, counts=COUNTS).double()
    q = [1 / k] * k
    for step in range(8):
        losses, group = batch(step, groups=((0, 1, 2), (3, 1, 4), (0, 5, 4))[step % 3])
        kept = losses.detach().clone()
        found = means(losses, group)
        raised = [
            x * math.exp(lr * (float(found[g].detach()) + c / math.sqrt(COUNTS[g]))) if g in found else x
            for g, x in enumerate(q)
        ]
        q = [x / sum(raised) for x in raised]
        output = loss(losses, group)
        # The official code has the adjustment in the loss as well, and would return more.
        expected = sum(q[g] * float(x.detach()) for g, x in found.items())
        assert float(output.detach()) == pytest.approx(expected, rel=1e-10)
        weight = {g: q[g] for g in found}
        torch.testing.assert_close(torch.autograd.grad(output, losses)[0], per_sample(weight, group), **TIGHT)
        torch.testing.assert_close(loss.group_weights.values().tolist(), q, **TIGHT)
        assert torch.equal(losses.detach(), kept)


def test_a_small_group_weighs_more_at_equal_losses() -> None:
    loss = OnlineGroupDROLoss(2, lr=0.1, adjustment=5.0, counts=torch.tensor([400, 4]))
    loss(torch.ones(2, requires_grad=True), torch.tensor([0, 1]))
    expected = torch.softmax(0.1 * torch.tensor([1 + 5 / 20, 1 + 5 / 2]), 0)
    torch.testing.assert_close(loss.group_weights.values(), expected)


def test_groups_that_are_absent_keep_their_weight_up_to_the_sum() -> None:
    loss = OnlineGroupDROLoss(4, lr=1.0, adjustment=3.0, counts=[1, 1, 1, 1])
    loss(torch.tensor([2.0], requires_grad=True), torch.tensor([1]))
    q = loss.group_weights.values()
    assert torch.equal(q[[0, 2, 3]], q[0].expand(3))
    assert float(q[1] / q[0]) == pytest.approx(math.exp(2.0 + 3.0), rel=1e-5)


def test_it_finds_the_worst_group() -> None:
    loss = OnlineGroupDROLoss(3, lr=0.5)
    for _ in range(60):
        value = loss(torch.tensor([1.0, 3.0, 2.0], requires_grad=True), torch.arange(3))
    assert float(value.detach()) == pytest.approx(3.0, abs=1e-5)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`counts` is needed with `adjustment`"):
        OnlineGroupDROLoss(3, adjustment=1.0)
    for bad in ([1, 2], [1, 2, 0], [1, 2, float("nan")]):
        with pytest.raises(ValueError, match=r"`counts` must have one positive number for each of the 3 groups"):
            OnlineGroupDROLoss(3, adjustment=1.0, counts=bad)
    with pytest.raises(ValueError, match=r"`adjustment` must be at least 0"):
        OnlineGroupDROLoss(3, adjustment=-1.0, counts=[1, 1, 1])
    with pytest.raises(ValueError, match=r"`lr` must be a positive number"):
        OnlineGroupDROLoss(3, lr=0.0)
    with pytest.raises(IndexError, match=r"`group` must lie in \[0, 3\). Found -2"):
        OnlineGroupDROLoss(3)(torch.ones(1), torch.tensor([-2]))
