"""Cases of the spectral risk, of stages, and of ABSGD."""

from __future__ import annotations

import torch
from guidestar_contract_cases import ROWS, Batch, Case, generator, logits, one_row, plain_rows, rows

from guidestar import KL, CVaR, KLBall, Spectral, Stages, TopK
from guidestar.losses import ABSGDLoss
from guidestar.risks import spectra


def scores(seed: int) -> Batch:
    """Scores of two classes, labels and reference losses."""
    rng = generator(seed)
    extra = {"labels": torch.randint(2, (6,), generator=rng), "reference_losses": torch.rand(6, generator=rng)}
    return Batch(torch.randn(6, generator=rng), extra)


def stages(num_rows: int = 1) -> Stages:
    """Stages with a memory in each: an average, and a threshold."""
    return Stages(KL(2.0, num_rows, gamma=0.5), CVaR(0.5, num_rows=num_rows, lr=0.125), epochs=2)


HALF = spectra.superquantile(0.5)
TABLE = torch.tensor([0.1, 0.2, 0.3, 0.4])

CASES = [
    Case(Spectral, "superquantile", lambda: Spectral(HALF), one_row, 0),
    Case(Spectral, "chi-square", lambda: Spectral(HALF, nu=0.3), one_row, 0),
    Case(Spectral, "chi-square, rows", lambda: Spectral(spectra.extremile(2.0), nu=0.3), plain_rows, 0, 2),
    Case(Spectral, "kl", lambda: Spectral(HALF, nu=0.3, penalty="kl"), one_row, 0),
    Case(Spectral, "kl, rows", lambda: Spectral(spectra.esrm(1.0), nu=0.3, penalty="kl"), plain_rows, 0, 2),
    Case(Spectral, "table, rows", lambda: Spectral(TABLE, nu=0.1), plain_rows, 0, 2),
    Case(Stages, "KL, CVaR", stages, one_row, 8, epochs=1),
    Case(Stages, "KL, CVaR, rows", lambda: stages(ROWS), rows, 8 * ROWS, 2, epochs=1),
    Case(Stages, "KLBall, TopK", lambda: Stages(KLBall(0.25, gamma=0.5), TopK(0.5), epochs=1), one_row, 8, epochs=1),
    Case(ABSGDLoss, "", lambda: ABSGDLoss(0.5, gamma=0.5), logits, 4),
    Case(ABSGDLoss, "mini-batch", lambda: ABSGDLoss(0.5, gamma=1.0), logits, 0),
    Case(ABSGDLoss, "scores", lambda: ABSGDLoss(0.5), scores, 4),
    Case(
        ABSGDLoss,
        "two stages",
        lambda: ABSGDLoss(0.5, gamma=0.5, first_tau=10.0, first_epochs=2),
        logits,
        8,
        epochs=1,
    ),
]
