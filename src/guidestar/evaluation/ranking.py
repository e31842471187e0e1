r"""How well scores rank: AUC, average precision, partial areas of one and of two sides, and NDCG.

Binary metrics take one score a sample, higher for the positive class (logits or probabilities: only the order counts),
and 0/1 labels, as tensors, arrays or lists; they are exact in the presence of ties, and come from scikit-learn
(`pip install "guidestar[sklearn]"`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidestar.errors import UserError
from guidestar.evaluation.groups import Values


def auc(scores: Values, labels: Values) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order, a tie as a half.

    Args:
        scores: `[n]`.
        labels: `[n]`, 0/1 numbers or bool.

    Raises:
        UserError: shapes, a NaN score, labels that are not 0/1, or only one class.
        ImportError: scikit-learn is not installed.

    Example:
        >>> auc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
        0.875
    """
    scores, labels = _binary(scores, labels)
    return float(_sklearn_metrics().roc_auc_score(labels.numpy(), scores.numpy()))


def average_precision(scores: Values, labels: Values) -> float:
    r"""Average precision: $\sum_n (R_n - R_{n-1}) P_n$ over the thresholds, without interpolation.

    Args:
        scores: `[n]`.
        labels: `[n]`, 0/1 numbers or bool.

    Raises:
        UserError: as in `auc`.
        ImportError: scikit-learn is not installed.

    Example:
        >>> round(average_precision(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1])), 4)
        0.8333
    """
    scores, labels = _binary(scores, labels)
    return float(_sklearn_metrics().average_precision_score(labels.numpy(), scores.numpy()))


def partial_auc(scores: Values, labels: Values, max_fpr: float, *, standardised: bool = True) -> float:
    r"""Area under the ROC curve up to a false positive rate of $\beta$, standardised or normalised.

    With A the area over FPR in $[0, \beta]$:

    - standardised (McClish; what scikit-learn's `roc_auc_score(max_fpr=...)` gives): $\frac12 \left(1 +
      \frac{A - \beta^2/2}{\beta - \beta^2/2}\right)$, 0.5 for chance and 1 for perfect scores;
    - plain: $A / \beta$, $\beta/2$ for chance and 1 for perfect scores; what partial AUC losses optimise a surrogate of.

    Args:
        scores: `[n]`.
        labels: `[n]`, 0/1 numbers or bool.
        max_fpr: beta in (0, 1].
        standardised: which of the two.

    Raises:
        UserError: as in `auc`, or `max_fpr` is out of range.
        ImportError: scikit-learn is not installed.

    Example:
        >>> scores, labels = torch.tensor([0.1, 0.6, 0.5, 0.8]), torch.tensor([0, 0, 1, 1])
        >>> round(partial_auc(scores, labels, 0.5), 4), partial_auc(scores, labels, 0.5, standardised=False)
        (0.6667, 0.5)
    """
    _share("max_fpr", max_fpr)
    scores, labels = _binary(scores, labels)
    if not standardised:
        return _area(scores, labels, 0.0, max_fpr)
    return float(_sklearn_metrics().roc_auc_score(labels.numpy(), scores.numpy(), max_fpr=max_fpr))


def two_way_partial_auc(scores: Values, labels: Values, min_tpr: float, max_fpr: float) -> float:
    r"""Area under the ROC curve above a true positive rate of $\alpha$ and up to a false positive rate of $\beta$.

    $\frac{1}{(1-\alpha)\beta} \int_0^\beta [\mathrm{TPR}(f) - \alpha]_+ df$: the plain normalised area, from 0 to 1. If
    $n_+(1-\alpha)$ and $n_-\beta$ are whole, it is the AUC of the lowest positives and the highest negatives of these
    numbers (where nothing is tied at their boundaries).

    Args:
        scores: `[n]`.
        labels: `[n]`, 0/1 numbers or bool.
        min_tpr: alpha in [0, 1).
        max_fpr: beta in (0, 1].

    Raises:
        UserError: as in `auc`, or a rate is out of range.
        ImportError: scikit-learn is not installed.

    Example:
        >>> two_way_partial_auc(torch.tensor([0.1, 0.6, 0.5, 0.8]), torch.tensor([0, 0, 1, 1]), 0.5, 1.0)
        0.5
    """
    _share("max_fpr", max_fpr)
    if not 0 <= min_tpr < 1:
        raise UserError(f"`min_tpr` must be in [0, 1). Found {min_tpr}.")
    scores, labels = _binary(scores, labels)
    return _area(scores, labels, min_tpr, max_fpr)


@dataclass(frozen=True)
class NDCG:
    """What `ndcg_at_k` finds.

    Attributes:
        mean: over the queries that have a relevant item; NaN if none has.
        per_query: float64, one a query in ascending order of `queries`; NaN where there is no relevant item.
        queries: the numbers of the queries.
        excluded: how many queries have no relevant item.
    """

    mean: float
    per_query: Tensor
    queries: Tensor
    excluded: int


def ndcg_at_k(
    scores: Values, relevance: Values, query: Values | None = None, *, k: int | None = None, mask: Values | None = None
) -> NDCG:
    r"""NDCG of each query, and its mean: gains $2^y - 1$, discounts $1 / \log_2(\mathrm{rank} + 1)$, over the first k ranks.

    Items with equal scores share the mean of their discounts, as in scikit-learn's `ndcg_score` (which has the gains
    as labels, and no lists of different lengths). Lists shorter than k are whole.

    Args:
        scores: `[n]`, items of all queries in any order, or `[Q, M]`, a list a row.
        relevance: shape of `scores`, numbers of 0 (not relevant) or more.
        query: `[n]`, the query of each item, whole numbers; None with `[Q, M]`.
        k: 1 or more; None is the whole list.
        mask: bool, shape of `scores`; items where it is false do not exist.

    Raises:
        UserError: shapes, a NaN score, relevance that is negative or NaN, no item, `k` below 1.

    Example:
        >>> found = ndcg_at_k(torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]), torch.tensor([[0, 1, 0], [0, 0, 0]]))
        >>> round(found.mean, 4), found.excluded
        (0.6309, 1)
    """
    if k is not None and k < 1:
        raise UserError(f"`k` must be at least 1, or None for the whole list. Found {k}.")
    scores, relevance, number = _lists(scores, relevance, query, mask)
    queries, of = torch.unique(number, return_inverse=True)
    gains = torch.exp2(relevance) - 1.0
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(of[order], stable=True)]
    discounts = _discounts(of[order], k)
    # Ties: the mean discount of the items that have the same query and score.
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[1:] = (of[order][1:] != of[order][:-1]) | (scores[order][1:] != scores[order][:-1])
    tied = starts.cumsum(0) - 1
    shared = torch.zeros_like(discounts).scatter_add_(0, tied, discounts) / torch.bincount(tied, minlength=len(tied))
    best = torch.argsort(gains, descending=True, stable=True)
    best = best[torch.argsort(of[best], stable=True)]
    zeros = torch.zeros(len(queries), dtype=torch.float64)
    found = zeros.scatter_add(0, of[order], gains[order] * shared[tied])
    ideal = zeros.scatter_add(0, of[best], gains[best] * _discounts(of[best], k))
    per_query = torch.where(ideal > 0, found / ideal, torch.nan)
    counted = per_query[ideal > 0]
    mean = float(counted.mean()) if len(counted) else float("nan")
    return NDCG(mean, per_query, queries, len(queries) - len(counted))


def _discounts(query: Tensor, k: int | None) -> Tensor:
    """The discount of each item, given the sorted queries of the items."""
    counts = torch.bincount(query)
    rank = torch.arange(len(query)) - (counts.cumsum(0) - counts)[query]
    discounts = 1.0 / torch.log2(rank.double() + 2.0)
    return discounts if k is None else torch.where(rank < k, discounts, 0.0)


def _lists(
    scores: Values, relevance: Values, query: Values | None, mask: Values | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Flat scores and relevance in float64 and queries in int64, on the CPU, without what is masked."""
    scores, relevance = as_tensor(scores), as_tensor(relevance)
    query, mask = (None if given is None else as_tensor(given) for given in (query, mask))
    if query is None and scores.ndim == 2:
        query = torch.arange(len(scores), device=scores.device).unsqueeze(1).expand(scores.shape)
    if query is None or relevance.shape != scores.shape or query.shape != scores.shape:
        found = None if query is None else list(query.shape)
        raise UserError(
            "`scores` and `relevance` must be [Q, M], or [n] together with `query` [n]. Found "
            f"{list(scores.shape)}, {list(relevance.shape)} and {found}."
        )
    if query.is_floating_point():
        raise UserError(f"`query` must be whole numbers. Found {query.dtype}.")
    keep = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    if keep.dtype != torch.bool or keep.shape != scores.shape:
        raise UserError(
            f"`mask` must be bool, of the shape of `scores` {list(scores.shape)}. Found {keep.dtype}, {list(keep.shape)}."
        )
    scores, relevance, query = (part.detach().cpu()[keep.cpu()] for part in (scores, relevance, query))
    scores, relevance = scores.double(), relevance.double()
    if len(scores) == 0:
        raise UserError("`scores` must hold at least one item. Found none.")
    if scores.isnan().any():
        raise UserError(f"`scores` must not be NaN. Found {int(scores.isnan().sum())} NaN of {len(scores)} items.")
    if not (relevance >= 0).all():
        raise UserError(f"`relevance` must be 0 or more. Found {float(relevance[~(relevance >= 0)][0])}.")
    return scores, relevance, query.long()


def _binary(scores: Values, labels: Values) -> tuple[Tensor, Tensor]:
    """float64 scores and int64 labels on the CPU, with both classes."""
    scores, labels = as_tensor(scores), as_tensor(labels)
    if scores.ndim != 1 or labels.shape != scores.shape:
        raise UserError(
            f"`scores` and `labels` must both have shape [n]. Found {list(scores.shape)} and {list(labels.shape)}."
        )
    scores, labels = scores.detach().cpu().double(), labels.detach().cpu()
    if scores.isnan().any():
        raise UserError(f"`scores` must not be NaN. Found {int(scores.isnan().sum())} NaN of {len(scores)}.")
    positive = labels == 1
    other = labels[~(positive | (labels == 0))]
    if len(other):
        raise UserError(f"`labels` must be 0 or 1. Found {other[0].item()}; for labels of -1 and 1 pass (labels > 0).")
    if len(labels) == 0 or positive.all() or not positive.any():
        raise UserError(
            "`labels` must have both classes: a ranking of one class is undefined. Found "
            f"{int(positive.sum())} positives of {len(labels)} samples."
        )
    return scores, positive.long()


def _area(scores: Tensor, labels: Tensor, min_tpr: float, max_fpr: float) -> float:
    """The normalised area between the ROC curve and the line at `min_tpr`, up to `max_fpr`."""
    fpr, tpr, _ = _sklearn_metrics().roc_curve(labels.numpy(), scores.numpy(), drop_intermediate=False)
    fpr, tpr = torch.from_numpy(fpr), torch.from_numpy(tpr)
    left, right, low, high = fpr[:-1], fpr[1:], tpr[:-1], tpr[1:]
    slope = (high - low) / (right - left).clamp(min=1e-300)  # vertical pieces have no width, and count as nothing
    # Where the piece crosses the line, only its part above counts; the curve never falls.
    cross = torch.where(slope > 0, left + (min_tpr - low) / slope.clamp(min=1e-300), left)
    start = torch.where(low >= min_tpr, left, torch.where(high > min_tpr, cross, right))
    start = torch.minimum(torch.maximum(start, left), right)
    end = right.clamp(max=max_fpr)
    width = (end - start).clamp(min=0.0)
    middle = low + slope * (0.5 * (start + end) - left)
    area = torch.where(width > 0, width * (middle - min_tpr), 0.0).sum()
    return float(area / (max_fpr * (1.0 - min_tpr)))


def as_tensor(values: Values) -> Tensor:
    """`values` as a tensor, whatever they are.

    Example:
        >>> as_tensor([1, 2])
        tensor([1, 2])
    """
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise UserError(f"`{name}` must be in (0, 1]. Found {value}.")


def _sklearn_metrics() -> Any:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise ImportError(
            'AUC, average precision and partial areas need scikit-learn: pip install "guidestar[sklearn]".'
        ) from error
    return metrics
