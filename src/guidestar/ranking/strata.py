"""Lists whose relevant and other items were sampled separately: what each item stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from guidestar.ranking.queries import Anchors, QueryBatch, list_sizes
from guidestar.ranking.rows import row_sums


class Strata(NamedTuple):
    """The numbers of relevant and of other items, `[Q]` each: in the batch's list, and in the data."""

    relevant: Tensor
    others: Tensor
    all_relevant: Tensor
    all_others: Tensor


def strata(batch: QueryBatch, relevant_sizes: Tensor, query_sizes: Tensor) -> Strata:
    """The strata of the lists.

    Raises:
        ValueError: on the CPU, a size that is smaller than what the batch's list has.
    """
    relevant = (batch.relevance > 0).sum(-1).to(batch.scores.dtype)
    others = (batch.sizes() - relevant).clamp(min=0.0)
    all_relevant = list_sizes("relevant_sizes", relevant_sizes, relevant, batch.learnable)
    sizes = list_sizes("query_sizes", query_sizes, all_relevant + others, batch.learnable)
    return Strata(relevant, others, all_relevant, sizes - all_relevant)


def item_weights(batch: QueryBatch, parts: Strata) -> Tensor:
    r"""How many items of the data each stands for, `[Q, M]`: $n_+/r$ if relevant, $(N - n_+)/o$ if not, 0 if masked.

    If only one kind is in the list, its items stand for all; in a list without items each has 1.
    """
    whole = parts.all_relevant + parts.all_others
    relevant = torch.where(parts.others > 0, parts.all_relevant, whole) / parts.relevant.clamp(min=1.0)
    others = torch.where(parts.relevant > 0, parts.all_others, whole) / parts.others.clamp(min=1.0)
    return _spread(batch, relevant, others)


def stratified_means(
    anchors: Anchors, batch: QueryBatch, surrogate: Callable[[Tensor], Tensor], parts: Strata
) -> Tensor:
    r"""Estimate of the mean over the whole list of surrogate(s_j - s_i), `[Q, P]`, without bias for a relevant item i.

    $\frac1N \big( \ell(0) + \frac{n_+ - 1}{r - 1} \sum_{j \ne i, y_j > 0} \ell(s_j - s_i) + \frac{N - n_+}{o}
    \sum_{y_j = 0} \ell(s_j - s_i) \big)$ with r relevant and o other items in the list: item i is there for sure, and
    stands for itself only. If it is the only relevant one, the others stand for all that remain; if there are no others,
    the relevant ones do.
    """
    size = parts.all_relevant + parts.all_others
    remaining = size - 1.0
    beside = (parts.relevant - 1.0).clamp(min=1.0)
    relevant = torch.where(parts.others > 0, parts.all_relevant - 1.0, remaining) / beside
    relevant = torch.where(parts.relevant > 1, relevant, 1.0)
    others = torch.where(parts.relevant > 1, parts.all_others, remaining) / parts.others.clamp(min=1.0)
    sums = row_sums(anchors.scores, batch.scores, surrogate, weights=_spread(batch, relevant, others))
    itself = surrogate(anchors.scores.new_zeros(1))
    return (sums + itself * (1.0 - relevant).unsqueeze(-1)) / size.clamp(min=1.0).unsqueeze(-1)


def _spread(batch: QueryBatch, relevant: Tensor, others: Tensor) -> Tensor:
    """One number for the relevant items of a list, one for the others, 0 where masked (1 in a list without items)."""
    weights = torch.where(batch.relevance > 0, relevant.unsqueeze(-1), others.unsqueeze(-1))
    if batch.mask is None:
        return weights
    weights = torch.where(batch.mask, weights, 0.0)
    return torch.where(batch.mask.any(-1, keepdim=True), weights, 1.0)
