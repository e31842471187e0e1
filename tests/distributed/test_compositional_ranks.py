"""CompositionalStep on two ranks: the inner step is that of both ranks' samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from guidestar import distributed
from guidestar.losses import AUCMarginLoss
from guidestar.networks import CompositionalStep


def inner(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs.squeeze(1), labels)


def test_two_ranks_equal_one(two_ranks) -> None:
    def run(rank: int | None) -> tuple[list[Tensor], Tensor, Tensor]:
        own = slice(None) if rank is None else slice(3 * rank, 3 * rank + 3)
        torch.manual_seed(0)
        model, loss = nn.Linear(4, 1).double(), AUCMarginLoss(lr=0.5).double()
        stepped = CompositionalStep(model, inner, 0.3, gamma=0.4, first_order=True).double()
        labels, values = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)[own], []
        for step in range(3):
            x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)[own]
            value = loss(stepped(x, labels).squeeze(1), labels)
            gradients = torch.autograd.grad(value, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.1 * distributed.mean(gradient)  # what DDP does
            values.append(value.detach())
        return values, model.weight.detach(), stepped.averages()["weight"]

    one = run(None)
    for found in two_ranks(run):
        torch.testing.assert_close(found, one)
