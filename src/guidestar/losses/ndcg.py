"""NDCG and top-K NDCG by the tracked rank of each relevant item: SONG and K-SONG."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.losses.top_k_ndcg import Inclusion, TopKLists
from guidestar.ranking.queries import (
    Anchors,
    QueryBatch,
    check_top_k,
    gains,
    list_sizes,
    mean_over,
    needed_index,
    of_queries,
    query_batch,
)
from guidestar.ranking.queries import ideal_dcg as ideal_dcg_of
from guidestar.ranking.rows import row_means
from guidestar.ranking.strata import item_weights, strata, stratified_means
from guidestar.schedules import Schedule
from guidestar.state import Counter
from guidestar.surrogates import squared_hinge
from guidestar.tracking import Tracker


class NDCGLoss(Loss):
    r"""Minus the NDCG of lists of items, one a query; with `top_k`, minus the NDCG of the first K places.

    $F = \frac1N \sum_q \frac{1}{Z_q} \sum_{i \in S_q^+} \iota_{q,i} \frac{1 - 2^{y_{q,i}}}{\log_2(N_q u_{q,i} + 1)}$,
    with $u_{q,i}$ the running average (rate gamma) of $\frac{1}{|B_q|} \sum_{j \in B_q} \ell(s_j - s_i)$

    - $N_q u_{q,i}$ is the surrogate of the rank of item i; the mean is over all items of the list, i itself included;
    - $\ell$ = `surrogate`, of the step function 1[t >= 0];
    - $y$ = `relevance`; an item is relevant if it is above 0;
    - $N_q$ = `query_sizes`, $Z_q$ = `ideal_dcg`, $|S_q^+|$ = `relevant_sizes`;
    - $\iota_{q,i}$ = `inclusion`, how much the item is among the top K = `top_k`; 1 without.

    Lists may be whole (the default: sizes and ideal DCG are the batch's) or sampled: then pass those of the data
    (`guidestar.ranking.queries.ideal_dcg` computes $Z_q$ from whole lists), and `relevant_sizes` if the relevant
    items are sampled too; the sum over them is scaled up to all. If relevant and other items are sampled separately
    (`guidestar.samplers.QuerySampler`), `stratified=True` gives each its share of the list in place of the plain mean,
    in which the relevant ones weigh too much. Pre-train with `ListwiseCrossEntropyLoss`.

    Equations:
        6.34, 6.35 (`over_pairs=True`), 6.36, 6.37; Alg. 33. SONG, K-SONG.

    Args:
        num_rows: number of (query, item) pairs that have a row of memory; 1 is enough with gamma = 1.
        gamma: averaging rate in (0, 1] or a schedule; 1 keeps nothing, right when lists are whole.
        surrogate: a function of the tensor of differences, positive at 0.
        top_k: K; a list of K items or fewer is among the top K as a whole.
        inclusion: `RankInclusion()` (6.36) or `ThresholdInclusion(num_queries)` (6.37); needed with `top_k`.
        over_pairs: divide by the number of relevant pairs (6.35, 6.36, step 9 of Alg. 33) and not by that of
            queries (6.34). With queries the value is minus an NDCG: -1 is perfect with the step function.
        stratified: the inner mean weighs relevant and other items by their numbers in the data, and item i as one
            (`guidestar.ranking.strata`); needs `query_sizes` and `relevant_sizes`. False is the mean of Alg. 33.

    Shapes:
        `scores`, `relevance` `[Q, M]`, `index` int64 `[Q, M]` (looked at for relevant items only), `mask` bool `[Q]`
        (queries) or `[Q, M]` (items; lists of different lengths), `query_sizes`, `relevant_sizes`, `ideal_dcg` `[Q]`,
        `query_index` int64 `[Q]` (for `ThresholdInclusion`) -> scalar.

    State:
        `tracker.memory.values` float32 `[num_rows]`, nothing with gamma = 1; that of the inclusion; `empty.count`:
        queries (over all ranks) without a relevant item, of one item or of none. They count in no mean. A query that a
        mask `[Q]` takes out is as if it were not there. Each rank has its own queries; Q must agree over the ranks.

    Value and gradient:
        the running estimate of F, and the gradient estimator of Alg. 33. In eval mode, or where gradients are off, F of
        the batch.

    Raises:
        ValueError: shapes; a setting is out of range; `index` or `query_index` is missing; on the CPU also relevance
            below 0, sizes smaller than the batch's list, an ideal DCG that is not positive.
        TypeError: scores that are not floating point, a mask that is not bool.
        IndexError: a row number on the CPU is out of range.

    Source:
        Qiu et al., "Large-scale Stochastic Optimization of NDCG Surrogates for Deep Learning with Provable
        Convergence", ICML 2022.

    Example:
        >>> loss = NDCGLoss(num_rows=6, gamma=0.5)
        >>> scores = torch.tensor([[2.0, 0.0, -3.0], [0.0, 0.5, 0.0]], requires_grad=True)
        >>> relevance = torch.tensor([[3, 0, 0], [0, 0, 0]])
        >>> loss(scores, relevance, torch.arange(6).reshape(2, 3))
        tensor(-1., grad_fn=<AddBackward0>)
        >>> loss.metrics()
        {'empty': 1.0}
    """

    def __init__(
        self,
        num_rows: int = 1,
        *,
        gamma: float | Schedule = 0.9,
        surrogate: Callable[[Tensor], Tensor] = squared_hinge,
        top_k: int | None = None,
        inclusion: Inclusion | None = None,
        over_pairs: bool = False,
        stratified: bool = False,
    ) -> None:
        super().__init__()
        if not callable(surrogate):
            raise TypeError(f"`surrogate` must be a function of a tensor. Found {type(surrogate).__name__}.")
        if not float(surrogate(torch.zeros(1))) > 0:
            raise ValueError(
                "`surrogate` must be positive at 0: an item counts in its own rank, and a rank of 0 has no discount. "
                "Use a margin above 0."
            )
        if (top_k is None) != (inclusion is None):
            raise ValueError(
                "`top_k` and `inclusion` go together: top_k=10, inclusion=RankInclusion() or "
                f"ThresholdInclusion(num_queries). Found top_k={top_k} and inclusion={inclusion}."
            )
        if inclusion is not None and not isinstance(inclusion, Inclusion):
            found = inclusion.__name__ if isinstance(inclusion, type) else type(inclusion).__name__
            raise TypeError(f"`inclusion` must be an object such as RankInclusion(). Found {found}.")
        self.top_k = None if top_k is None else check_top_k(top_k)
        self.surrogate = surrogate
        self.over_pairs = over_pairs
        self.stratified = stratified
        self.tracker = Tracker(num_rows, gamma=gamma)
        self.inclusion = inclusion
        self.empty = Counter()

    def forward(
        self,
        scores: Tensor,
        relevance: Tensor,
        index: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        query_sizes: Tensor | None = None,
        relevant_sizes: Tensor | None = None,
        ideal_dcg: Tensor | None = None,
        query_index: Tensor | None = None,
    ) -> Tensor:
        """Minus the NDCG of the lists."""
        batch = query_batch(scores, relevance, mask)
        learning = self.training and torch.is_grad_enabled()
        if learning and self.tracker.memory is not None:
            index = needed_index(index, scores)
        if ideal_dcg is None and not (query_sizes is None and relevant_sizes is None):
            raise ValueError(
                "`ideal_dcg` is needed with `query_sizes` or `relevant_sizes`: the batch's lists are then parts of the "
                "lists. Compute it from whole lists by guidestar.ranking.queries.ideal_dcg."
            )
        if self.stratified and (query_sizes is None or relevant_sizes is None):
            raise ValueError(
                "`query_sizes` and `relevant_sizes` are needed with stratified=True: the numbers of all items and of all "
                "relevant items of each query in the data."
            )
        given = {"query_sizes": query_sizes, "relevant_sizes": relevant_sizes, "ideal_dcg": ideal_dcg}
        of_query = of_queries(given | {"query_index": query_index}, scores)
        anchors = batch.anchors(index if learning else None, over_ranks=learning)
        if learning:
            batch.count_idle(self.empty)
        attached = batch.scores.sum() * 0.0  # a NaN in a list without a relevant item stays visible
        if anchors.active.numel() == 0:
            return attached
        total, count = self._sums(batch, anchors, *of_query)
        return mean_over(total, count, over_ranks=learning) + attached

    def _sums(
        self,
        batch: QueryBatch,
        anchors: Anchors,
        query_sizes: Tensor | None,
        relevant_sizes: Tensor | None,
        ideal: Tensor | None,
        query_index: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The sum of F over queries, and what it is divided by."""
        active = anchors.active
        found, sizes = active.sum(-1).to(anchors.scores.dtype), batch.sizes()
        sizes = list_sizes("query_sizes", query_sizes, sizes, batch.learnable)
        relevant = list_sizes("relevant_sizes", relevant_sizes, found, batch.learnable)
        if ideal is None:
            ideal = ideal_dcg_of(torch.where(active, anchors.relevance, 0.0), self.top_k)  # the others have no gain
        ideal = torch.where(batch.learnable, _positive(ideal.to(found), batch.learnable), 1.0)

        if self.stratified:
            parts = strata(batch, relevant, sizes)
            batch = replace(batch, item_weights=item_weights(batch, parts))
            estimate = stratified_means(anchors, batch, self.surrogate, parts)
        else:
            estimate = row_means(anchors.scores, batch.scores, self.surrogate, weights=batch.weights())
        learning = self.training and torch.is_grad_enabled()  # else there may be no rows to speak of
        u = self.tracker(estimate, anchors.rows, active=active) if learning else estimate  # Alg. 33, step 6
        ranks = sizes.unsqueeze(-1) * torch.where(active, u, 1.0)  # a padded anchor may have 0, whose discount is 1/0
        values = -gains(anchors.relevance) / (ideal.unsqueeze(-1) * torch.log2(ranks + 1.0))  # Eq. 6.34, 6.35
        if self.inclusion is not None and self.top_k is not None:
            included = self.inclusion(TopKLists(self.top_k, batch, anchors, ranks, sizes, query_index))
            values = values * torch.where(sizes.unsqueeze(-1) > self.top_k, included, 1.0)  # Eq. 6.36, 6.37
        per_query = torch.where(active, values, 0.0).sum(-1)
        if relevant_sizes is not None:
            per_query = per_query * (relevant / found.clamp(min=1.0))
        # Step 7 of Alg. 33 is what autograd makes of this: the derivative of the value by u.
        return per_query.sum(), (relevant.where(batch.learnable, 0.0) if self.over_pairs else batch.learnable).sum()

    def extra_repr(self) -> str:
        return f"top_k={self.top_k}, over_pairs={self.over_pairs}, stratified={self.stratified}"


def _positive(ideal: Tensor, matters: Tensor) -> Tensor:
    if ideal.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = (matters & ~(ideal > 0)).nonzero()
        if len(wrong):
            raise ValueError(
                f"`ideal_dcg` must be positive where a query has a relevant item. Found {float(ideal[int(wrong[0])]):g} "
                f"for query {int(wrong[0])} of the batch."
            )
    return ideal
