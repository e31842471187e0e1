"""Cases of the objectives over groups, and of the losses of logits and labels."""

from __future__ import annotations

import torch
from guidestar_contract_cases import ROWS, Batch, Case, generator

from guidestar import CVaR, GroupMean, TopK, losses

GROUPS = 4


def grouped(seed: int) -> Batch:
    """Losses, and the group of each; every group that a test masks an entry of has another."""
    rng = generator(seed)
    group = torch.tensor([0, 1, 1, 0, 2, 1] if seed % 2 else [3, 0, 0, 3, 1, 1])
    return Batch(torch.randn(6, generator=rng) + 2.0, {"group": group})


def steered(seed: int) -> Batch:
    """The same, and reference losses."""
    return grouped(seed).with_extra(reference_losses=0.25 * torch.rand(6, generator=generator(seed + 50)))


def moved(seed: int) -> Batch:
    """The same, and the losses of the same samples at other weights."""
    batch = steered(seed)
    return batch.with_extra(previous_losses=batch.values + 0.1 * torch.randn(6, generator=generator(seed + 60)))


def labelled(seed: int) -> Batch:
    """Logits and labels."""
    rng = generator(seed)
    return Batch(torch.randn(6, 3, generator=rng), {"labels": torch.randint(3, (6,), generator=rng)})


def labelled_rows(seed: int) -> Batch:
    """The same, and row numbers."""
    rng = generator(seed + 70)
    return labelled(seed).with_extra(index=torch.randperm(ROWS, generator=rng)[:6])


def binary(seed: int) -> Batch:
    """Logits of one class against the rest."""
    rng = generator(seed)
    return Batch(torch.randn(6, generator=rng), {"labels": torch.tensor([1, 0, 0, 1, 0, 1])})


def sonex(**settings) -> losses.SONEXLoss:
    return losses.SONEXLoss(GROUPS, 0.5, gamma=0.5, smoothing=0.5, lr=0.125, **settings)


def online() -> losses.OnlineGroupDROLoss:
    return losses.OnlineGroupDROLoss(GROUPS, lr=0.25, adjustment=1.0, counts=[4, 9, 16, 25])


OVER = losses.GroupDROLoss
CASES = [
    Case(OVER, "CVaR", lambda: OVER(CVaR(0.5, lr=0.125), GroupMean(GROUPS, 0.5)), steered, 4 * GROUPS + 4),
    Case(OVER, "TopK, mini-batch", lambda: OVER(TopK(0.5), GroupMean(GROUPS, 1.0)), grouped, 0),
    Case(losses.SONEXLoss, "", sonex, steered, 4 * GROUPS + 4),
    Case(losses.SONEXLoss, "previous", lambda: sonex(gamma_prime=0.9), moved, 4 * GROUPS + 4),
    Case(losses.SONXLoss, "", lambda: losses.SONXLoss(GROUPS, 0.5, gamma=0.5, lr=0.125), moved, 4 * GROUPS + 4),
    Case(losses.ALEXRLoss, "", lambda: losses.ALEXRLoss(GROUPS, 0.5, lr=0.125), steered, 4 * GROUPS + 8),
    Case(losses.ALEXRLoss, "previous", lambda: losses.ALEXRLoss(GROUPS, 0.5, lr=0.125), moved, 4 * GROUPS + 8),
    Case(
        losses.PrimalDualGroupDROLoss,
        "",
        lambda: losses.PrimalDualGroupDROLoss(GROUPS, 0.6, lr=0.25),
        steered,
        4 * GROUPS,
    ),
    Case(losses.OnlineGroupDROLoss, "", online, steered, 4 * GROUPS),
    Case(losses.LDRLoss, "", lambda: losses.LDRLoss(0.5), labelled, 0),
    Case(losses.ALDRLoss, "", lambda: losses.ALDRLoss(ROWS, 0.5), labelled_rows, 4 * ROWS),
    Case(losses.FocalLoss, "", lambda: losses.FocalLoss(1.5, [1.0, 2.0, 0.5]), labelled, 0),
    Case(losses.FocalLoss, "binary", lambda: losses.FocalLoss(0.5, 0.25), binary, 0),
    Case(losses.ClassBalancedLoss, "", lambda: losses.ClassBalancedLoss([50, 20, 5], 0.9), labelled, 0),
    Case(losses.LogitAdjustedLoss, "", lambda: losses.LogitAdjustedLoss([50, 20, 5]), labelled, 0),
]
