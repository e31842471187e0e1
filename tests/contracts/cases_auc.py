"""Cases of the losses over all pairs of a positive and a negative."""

from __future__ import annotations

import functools

import torch
from guidestar_contract_cases import Batch, Case, generator

from guidestar import losses, surrogates


def binary(seed: int) -> Batch:
    """Scores and labels of six samples; each half has both classes without its first or last."""
    scores = torch.randn(6, generator=generator(seed))
    return Batch(scores, {"labels": torch.tensor([1, 0, 1, 0, 1, 0])})


def several_labels(seed: int) -> Batch:
    """Three labels, one of which is missing for a sample."""
    scores = torch.randn(6, 3, generator=generator(seed))
    labels = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 1, torch.nan]])
    return Batch(scores, {"labels": labels})


CASES = [
    Case(losses.PairwiseAUCLoss, "squared hinge", lambda: losses.PairwiseAUCLoss(), binary, 0),
    Case(
        losses.PairwiseAUCLoss,
        "hinge, labels",
        lambda: losses.PairwiseAUCLoss(functools.partial(surrogates.hinge, margin=0.5)),
        several_labels,
        0,
    ),
    Case(losses.PairwiseAUCLoss, "logistic", lambda: losses.PairwiseAUCLoss(surrogates.logistic), binary, 0),
]
