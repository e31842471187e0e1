"""Cases of average precision and of the partial AUC, one-way and two-way."""

from __future__ import annotations

import torch
from guidestar_contract_cases import ROWS, Batch, Case, generator

from guidestar import KL, ChiSquare, CVaR, KLBall, Mean, TopK, losses
from guidestar.surrogates import logistic

LABELS = 3


def scored(seed: int) -> Batch:
    """Scores, labels and rows of six samples."""
    rng = generator(seed)
    return Batch(
        torch.randn(6, generator=rng),
        {"labels": torch.tensor([1, 0, 1, 0, 1, 0]), "index": torch.randperm(ROWS, generator=rng)[:6]},
    )


def unindexed(seed: int) -> Batch:
    """The same without rows."""
    batch = scored(seed)
    return Batch(batch.values, {"labels": batch.extra["labels"]})


def multi_label(seed: int) -> Batch:
    """Scores of three labels, one of which has one class only, and one a missing entry."""
    rng = generator(seed)
    labels = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]).float()
    labels[4, 1] = float("nan")
    return Batch(
        torch.randn(6, LABELS, generator=rng), {"labels": labels, "index": torch.randperm(ROWS, generator=rng)[:6]}
    )


AP, ONE, TWO = losses.AveragePrecisionLoss, losses.PartialAUCLoss, losses.TwoWayPartialAUCLoss
SOPA, SOPAS, SOTAS, STACO = losses.SOPALoss, losses.SOPAsLoss, losses.SOTAsLoss, losses.STACOLoss
MANY = {"num_labels": LABELS}

CASES = [
    Case(AP, "tracked", lambda: AP(ROWS, gamma=0.5), scored, 8 * ROWS),
    Case(AP, "mini-batch", lambda: AP(ROWS, gamma=1.0, surrogate=logistic), unindexed, 0),
    Case(AP, "labels", lambda: AP(ROWS, gamma=0.5, **MANY), multi_label, 8 * ROWS * LABELS),
    Case(ONE, "Mean", lambda: ONE(Mean()), unindexed, 0),
    Case(ONE, "TopK", lambda: ONE(TopK(0.5)), unindexed, 0),
    Case(ONE, "one nu", lambda: ONE(CVaR(0.5, lr=0.125, smoothing=0.25)), unindexed, 4),
    Case(ONE, "KLBall", lambda: ONE(KLBall(0.25, num_rows=ROWS, gamma=0.5)), scored, 4 * ROWS + 4),
    Case(ONE, "ChiSquare, labels", lambda: ONE(ChiSquare(0.3)), multi_label, 0),
    Case(SOPA, "", lambda: SOPA(ROWS, 0.5, lr=0.125), scored, 4 * ROWS),
    Case(SOPA, "labels", lambda: SOPA(ROWS, 0.5, lr=0.125, **MANY), multi_label, 4 * ROWS * LABELS),
    Case(SOPAS, "tracked", lambda: SOPAS(ROWS, 0.5, gamma=0.5), scored, 4 * ROWS),
    Case(SOPAS, "labels", lambda: SOPAS(ROWS, 0.5, gamma=0.5, **MANY), multi_label, 4 * ROWS * LABELS),
    Case(TWO, "TopK", lambda: TWO(TopK(0.5), TopK(0.5)), unindexed, 0),
    Case(TWO, "CVaR", lambda: TWO(CVaR(0.5, num_rows=ROWS), CVaR(0.5), surrogate=logistic), scored, 4 * ROWS + 4),
    Case(TWO, "KL, Mean, labels", lambda: TWO(KL(0.5, ROWS * LABELS, 0.5), Mean()), multi_label, 4 * ROWS * LABELS),
    Case(SOTAS, "", lambda: SOTAS(ROWS, 0.5, 2.0, gamma_inner=0.5, gamma_outer=0.25), scored, 4 * ROWS + 4),
    Case(SOTAS, "labels", lambda: SOTAS(ROWS, 0.5, gamma_inner=0.5, **MANY), multi_label, 4 * LABELS * (ROWS + 1)),
    Case(STACO, "", lambda: STACO(ROWS, 0.5, 0.5), scored, 8 * ROWS + 4),
    Case(STACO, "labels", lambda: STACO(ROWS, 0.5, 0.5, **MANY), multi_label, 4 * LABELS * (2 * ROWS + 1)),
]
