"""Two ranks with half of the batch each take the step of one with all of it."""

from __future__ import annotations

import pytest
import torch

from guidestar import GroupMean
from guidestar.optim.jacobian import jacobian_backward

pytest.importorskip("torchjd")


def gradient(own: slice) -> tuple[torch.Tensor, torch.Tensor]:
    from torchjd.aggregation import MGDA

    rng = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(2, 8, 3, generator=rng, dtype=torch.float64)
    group = torch.tensor([0, 0, 1, 1, 1, 0, 2, 2])
    w = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    losses = (inputs[own] @ w - targets[own, 0]).square()
    means, present = GroupMean(4, gamma=1.0).in_batch(losses, group[own])
    weights = jacobian_backward(means, [w], present=present, aggregator=MGDA())
    return w.grad, weights


def test_two_ranks_equal_one(two_ranks) -> None:
    expected = gradient(slice(0, 8))
    for found in two_ranks(lambda rank: gradient(slice(4 * rank, 4 * rank + 4))):
        torch.testing.assert_close(found, expected)
