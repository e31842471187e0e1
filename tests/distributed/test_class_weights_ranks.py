"""ClassWeights on two ranks: each has its own copy, and both do what one process does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guidestar.losses import ExtremeClassificationLoss
from guidestar.networks import ClassWeights

LABELS = [torch.tensor([3, 11, 3, 0, 7, 8]), torch.tensor([3, 2, 8, 8, 8, 1]), torch.tensor([0, 5, 3, 9, 0, 11])]


def make(**settings) -> ClassWeights:
    torch.manual_seed(0)
    return ClassWeights(12, 5, lr=0.5, std=0.7, **settings)


def test_two_ranks_equal_one(two_ranks) -> None:
    def run(rank: int | None) -> tuple[Tensor, list[Tensor]]:
        own = slice(None) if rank is None else slice(3 * rank, 3 * rank + 3)
        weights, loss, gradients = make(momentum=0.5), ExtremeClassificationLoss(8), []
        for step in range(3):
            h = torch.randn(6, 5, generator=torch.Generator().manual_seed(step))[own].requires_grad_()
            logits, columns = weights(h, LABELS[step][own])
            loss(logits, columns, torch.arange(6)[own]).backward()
            weights.step()
            gradients.append(h.grad)
        return weights.weight, gradients

    weight, gradients = run(None)
    for rank, found in enumerate(two_ranks(run)):
        torch.testing.assert_close(found[0], weight)
        for mine, whole in zip(found[1], gradients, strict=True):
            torch.testing.assert_close(mine / 2, whole[3 * rank : 3 * rank + 3])


def test_two_ranks_need_files_of_their_own(two_ranks, tmp_path) -> None:
    def build(rank: int) -> tuple[str, str]:
        with pytest.raises(ValueError, match=r"`path` must contain \{rank\} where there are several ranks") as caught:
            make(path=tmp_path / "shared")
        return str(caught.value), make(path=tmp_path / "rank{rank}").folder.name

    assert [found[1] for found in two_ranks(build)] == ["rank0", "rank1"]
