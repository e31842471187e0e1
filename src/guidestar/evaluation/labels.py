"""A binary metric over many labels, some of which may be missing: mean AUC, mAP and the like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from guidestar.errors import UserError
from guidestar.evaluation.groups import Values
from guidestar.evaluation.ranking import as_tensor


@dataclass(frozen=True)
class PerLabel:
    """What `per_label` finds.

    Attributes:
        mean: over the labels that have both classes; NaN if none has.
        per_label: float64 `[L]`; NaN where a label lacks a class.
        excluded: how many labels lack a class.
    """

    mean: float
    per_label: Tensor
    excluded: int


def per_label(
    metric: Callable[..., float], scores: Values, labels: Values, *settings: float, **named: float | bool
) -> PerLabel:
    """`metric(scores, labels, ...)` of each label, over the samples whose label is known, and its mean over labels.

    With `auc` the mean AUC over tasks, with `average_precision` mAP.

    Args:
        metric: `auc`, `average_precision`, `partial_auc`, `two_way_partial_auc`, or any function like them.
        scores: `[n, L]`, one column a label.
        labels: `[n, L]`, 0/1; NaN where a label is missing.
        settings, named: what else the metric takes, such as `max_fpr`.

    Raises:
        UserError: shapes; what the metric raises for the samples of a label.

    Example:
        >>> from guidestar.evaluation import auc
        >>> nan = float("nan")
        >>> labels = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [nan, 1.0, 0.0]])
        >>> found = per_label(auc, torch.tensor([[0.1, 0.5, 0.2], [0.9, 0.6, 0.1], [0.3, 0.7, 0.4]]), labels)
        >>> found.mean, found.excluded
        (0.75, 1)
    """
    scores, labels = as_tensor(scores).detach().cpu(), as_tensor(labels).detach().cpu()
    if scores.ndim != 2 or labels.shape != scores.shape:
        raise UserError(
            f"`scores` and `labels` must both have shape [n, L]. Found {list(scores.shape)} and {list(labels.shape)}."
        )
    found = torch.full((scores.shape[1],), float("nan"), dtype=torch.float64)
    for column in range(scores.shape[1]):
        truth = labels[:, column]
        known = ~truth.isnan() if truth.is_floating_point() else torch.ones_like(truth, dtype=torch.bool)
        truth = truth[known]
        if (truth == 1).any() and (truth == 0).any():
            found[column] = metric(scores[known, column], truth, *settings, **named)
    counted = found[~found.isnan()]
    mean = float(counted.mean()) if len(counted) else float("nan")
    return PerLabel(mean, found, len(found) - len(counted))
