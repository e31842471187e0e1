"""List-wise cross-entropy with a tracked normaliser: what a ranking model is pre-trained with."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.ranking.queries import QueryBatch, list_sizes, mean_over, needed_index, of_queries, query_batch
from guidestar.schedules import Schedule
from guidestar.state import Counter
from guidestar.tracking import Tracker


class ListwiseCrossEntropyLoss(Loss):
    r"""Cross-entropy of each relevant item against the softmax over its list (ListNet), for lists that are sampled.

    $F = \frac{1}{|S|} \sum_{(q,i) \in S} \log N_q + v_{q,i}$ over the relevant pairs S, with $e^{v_{q,i}}$ the running
    average (rate gamma) of $\frac{1}{|B_q|} \sum_{j \in B_q} e^{s_j - s_i}$

    - $N_q$ = `query_sizes`, by default the number of items in the batch's list; it moves the value only.

    With gamma = 1 and whole lists it is the mean over the relevant items of $-\log \mathrm{softmax}(s)_i$. All of
    it is computed in log space, and what is remembered does not depend on the other items of a batch.

    Equations:
        2.47; the pre-training of Section 6.4.4.

    Args:
        num_rows: number of (query, item) pairs that have a row of memory; 1 is enough with gamma = 1.
        gamma: averaging rate in (0, 1] or a schedule; 1 keeps nothing, right when lists are whole.

    Shapes:
        `scores`, `relevance` `[Q, M]` (relevant: above 0), `index` int64 `[Q, M]` (looked at for relevant items only),
        `mask` bool `[Q]` (queries) or `[Q, M]` (items), `query_sizes` `[Q]` -> scalar.

    State:
        `tracker.memory.values` float32 `[num_rows]`, $v$; nothing with gamma = 1; `empty.count`: queries (over all
        ranks) without a relevant item, of one item or of none, which count in no mean.

    Value and gradient:
        the running estimate of F and its gradient estimator. In eval mode, or where gradients are off, F of the batch.

    Raises:
        ValueError: shapes, `gamma` out of range, `index` is missing; on the CPU also relevance below 0, sizes
            smaller than the batch's list.
        TypeError: scores that are not floating point, a mask that is not bool.
        IndexError: a row number on the CPU is out of range.

    Source:
        Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", ICML 2007, and Qiu et al.,
        "Large-scale Stochastic Optimization of NDCG Surrogates for Deep Learning with Provable Convergence", ICML 2022.

    Example:
        >>> loss = ListwiseCrossEntropyLoss(gamma=1.0)
        >>> loss(torch.tensor([[2.0, 0.0, -3.0]]), torch.tensor([[1, 0, 0]]))
        tensor(0.1328)
    """

    def __init__(self, num_rows: int = 1, gamma: float | Schedule = 0.9) -> None:
        super().__init__()
        self.tracker = Tracker(num_rows, gamma=gamma, log_space=True)
        self.empty = Counter()

    def forward(
        self,
        scores: Tensor,
        relevance: Tensor,
        index: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        query_sizes: Tensor | None = None,
    ) -> Tensor:
        """The cross-entropy of the relevant items of the lists."""
        batch = query_batch(scores, relevance, mask)
        learning = self.training and torch.is_grad_enabled()
        if learning and self.tracker.memory is not None:
            index = needed_index(index, scores)
        (query_sizes,) = of_queries({"query_sizes": query_sizes}, scores)
        anchors = batch.anchors(index if learning else None, over_ranks=learning)
        if learning:
            batch.count_idle(self.empty)
        attached = batch.scores.sum() * 0.0  # a NaN in a list without a relevant item stays visible
        if anchors.active.numel() == 0:
            return attached
        estimate = log_mean_exp(batch).unsqueeze(-1) - anchors.scores
        v = self.tracker(estimate, anchors.rows, active=anchors.active) if learning else estimate
        sizes = list_sizes("query_sizes", query_sizes, batch.sizes(), batch.learnable)
        losses = torch.where(anchors.active, v + sizes.log().unsqueeze(-1), 0.0)  # Eq. 2.47
        return mean_over(losses.sum(), anchors.active.sum(), over_ranks=learning) + attached


def log_mean_exp(batch: QueryBatch) -> Tensor:
    """log of the mean of exp(score) over the items of each list, `[Q]`; a list without items has 0.

    Example:
        >>> log_mean_exp(query_batch(torch.zeros(1, 3), torch.ones(1, 3)))
        tensor([0.])
    """
    if batch.mask is None:
        return torch.logsumexp(batch.scores, -1) - batch.sizes().log()
    kept = batch.mask | ~batch.mask.any(-1, keepdim=True)
    return torch.logsumexp(torch.where(kept, batch.scores, -float("inf")), -1) - kept.sum(-1).to(batch.scores).log()
