"""Cases of the minimax AUC loss and of extreme classification."""

from __future__ import annotations

import torch
from guidestar_contract_cases import ROWS, Batch, Case, generator

from guidestar import losses, surrogates

AUC, XMC = losses.AUCMarginLoss, losses.ExtremeClassificationLoss


def class_logits(seed: int) -> Batch:
    """Logits over five classes, some of which two samples have and one of which nobody has."""
    rng = generator(seed)
    index = torch.randperm(ROWS, generator=rng)[:6]
    return Batch(
        torch.randn(6, 5, generator=rng),
        {"labels": torch.tensor([0, 1, 3, 0, 2, 1])[torch.randperm(6, generator=rng)], "index": index},
    )


def binary(seed: int) -> Batch:
    """Scores, the first and others of positives."""
    labels = torch.tensor([1, 0, 0, 1, 0, 1]) if seed % 2 else torch.tensor([1, 1, 0, 0, 1, 0])
    return Batch(torch.randn(6, generator=generator(seed)), {"labels": labels})


def two_labels(seed: int) -> Batch:
    """Scores of two labels, one of which is missing for a sample."""
    labels = torch.stack([binary(seed).extra["labels"], binary(seed + 1).extra["labels"]], dim=1).float()
    labels[4, 1] = float("nan")
    return Batch(torch.randn(6, 2, generator=generator(seed)), {"labels": labels})


CASES = [
    Case(AUC, "margin", lambda: AUC(lr=0.5), binary, 4, learns=True),
    Case(AUC, "squared", lambda: AUC(0.5, lr=0.5, surrogate=surrogates.squared), binary, 4, learns=True),
    Case(AUC, "labels", lambda: AUC(lr=0.5, num_labels=2), two_labels, 8, learns=True),
    Case(XMC, "SCENT", lambda: XMC(ROWS), class_logits, 4 * ROWS),
    Case(XMC, "SOX", lambda: XMC(ROWS, gamma=0.5), class_logits, 4 * ROWS),
    Case(XMC, "BSGD", lambda: XMC(ROWS, gamma=1.0), class_logits, 0),
    Case(XMC, "ASGD", lambda: XMC(ROWS, dual_lr=0.125), class_logits, 4 * ROWS),
]
