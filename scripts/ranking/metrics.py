"""The metrics of binary tasks, from `guidestar.evaluation.ranking`."""

from __future__ import annotations

import numpy as np
import torch

from guidestar.evaluation.ranking import auc, average_precision, partial_auc, two_way_partial_auc

#: False positive rates up to this belong to the partial area; the two-way area also leaves the easiest positives out.
PARTIAL_FPR = 0.3
TWO_WAY_FPR = 0.5
TWO_WAY_TPR = 0.5
TITLES = {
    "auroc": "AUROC",
    "ap": "AP",
    "pauc": f"pAUC (FPR ≤ {PARTIAL_FPR})",
    "tpauc": f"TPAUC (FPR ≤ {TWO_WAY_FPR}, TPR ≥ {TWO_WAY_TPR})",
}


def ranking_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The four metrics; 1 is perfect, and the partial areas are divided by their largest value, not standardised.

    Args:
        scores: `[n]`, larger for positives.
        labels: `[n]`, 0 or 1, both of which occur.

    Raises:
        ValueError: a score is not finite.

    Example:
        >>> ranking_metrics(np.array([0.1, 0.6, 0.5, 0.8]), np.array([0, 0, 1, 1]))["tpauc"]
        0.0
    """
    if not np.isfinite(scores).all():
        raise ValueError("the training diverged: a score is not finite")
    found, truth = torch.from_numpy(scores), torch.from_numpy(labels)
    return {
        "auroc": auc(found, truth),
        "ap": average_precision(found, truth),
        "pauc": partial_auc(found, truth, PARTIAL_FPR, standardised=False),
        "tpauc": two_way_partial_auc(found, truth, TWO_WAY_TPR, TWO_WAY_FPR),
    }
