"""The two ways in which `NDCGLoss` decides softly whether an item is among the top K of its list."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from guidestar.duals import Dual
from guidestar.ranking.queries import Anchors, QueryBatch
from guidestar.risks.base import check_positive
from guidestar.schedules import Schedule
from guidestar.state import Stateful
from guidestar.surrogates import smoothed_hinge_slope
from guidestar.tracking import Tracker


@dataclass(frozen=True)
class TopKLists:
    """What an inclusion is decided from.

    Attributes:
        top_k: K.
        batch: the lists.
        anchors: their relevant items, `[Q, P]`.
        ranks: the surrogate of the rank of each anchor, N_q u_{q,i}, `[Q, P]`.
        sizes: N_q, `[Q]`.
        query_index: rows of the queries, int64 `[Q]`, or None.
    """

    top_k: int
    batch: QueryBatch
    anchors: Anchors
    ranks: Tensor
    sizes: Tensor
    query_index: Tensor | None


class Inclusion(Stateful, ABC):
    """How much each anchor is among the top K of its list: `inclusion(lists) -> [Q, P]`."""

    @abstractmethod
    def forward(self, lists: TopKLists) -> Tensor:
        """The inclusion of each anchor, `[Q, P]`."""


class RankInclusion(Inclusion):
    r"""An item is among the top K if its rank is K or less: $\psi((K - N_q u_{q,i}) / T)$.

    - $\psi$ = `psi`: a non-decreasing surrogate of the step function; T = `temperature`, in ranks.

    Its gradient takes part. The squared hinge gives a rank that is several times too large at the start, where the
    sigmoid is flat for a small T: choose T of the size of K or larger.

    Equations:
        6.36 (Approach 1).

    Args:
        temperature: T, positive.
        psi: any function of a tensor.

    State:
        none: the rank is the one that `NDCGLoss` tracks.

    Raises:
        ValueError: `temperature` is not positive.

    Example:
        >>> import torch
        >>> from guidestar.losses.ndcg import NDCGLoss
        >>> loss = NDCGLoss(gamma=1.0, top_k=2, inclusion=RankInclusion(temperature=2.0))
        >>> loss(torch.tensor([[2.0, 0.0, -3.0]]), torch.tensor([[1, 0, 0]]))
        tensor(-0.6225)
    """

    def __init__(self, temperature: float = 1.0, *, psi: Callable[[Tensor], Tensor] = torch.sigmoid) -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.psi = psi

    def forward(self, lists: TopKLists) -> Tensor:
        """The inclusion of each anchor, `[Q, P]`."""
        return self.psi((lists.top_k - lists.ranks) / self.temperature)  # Eq. 6.36

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


class ThresholdInclusion(Inclusion):
    r"""An item is among the top K if its score exceeds a threshold of its query: $\psi((s_{q,i} - \lambda_q) / T)$.

    $\lambda_q$, the (K + 1)-th largest score, solves $\min_\lambda \frac{K+\varepsilon}{N_q} \lambda +
    \frac{\rho}{2} \lambda^2 + \frac{1}{N_q} \sum_j h(s_j - \lambda)$ (Lemma 6.3), and takes a gradient step a batch:
    $\lambda_q \leftarrow \lambda_q - \eta' \big( \frac{K+\varepsilon}{N_q} + \rho \lambda_q - \frac{1}{|B_q|}
    \sum_{j \in B_q} h'(s_j - \lambda_q) \big)$; the new one enters $\psi$.

    - h = the hinge $[\cdot]_+$, or with `smoothing` its Nesterov smoothing; $\rho$ = `regularisation`;
    - $\eta'$ = `lr`; $\varepsilon$ = `eps`; T = `temperature`, in scores; $\psi$ = `psi`.

    By default the gradient of $\psi$ is ignored, as the book does in practice. `full_gradient=True` takes it, through
    $\lambda_q(w)$ as well: $\nabla \lambda_q = \overline{h'' \nabla s} / (\rho + \overline{h''})$, with the
    denominator averaged over the steps.

    Equations:
        6.37 (Approach 2), Lemma 6.3 and the update after 6.37. K-SONG.

    Args:
        num_queries: number of rows, one a query of the data.
        lr: step size of the thresholds, in scores: it should cross the range of the scores in some tens of visits.
        temperature: T, positive.
        eps: $\varepsilon$ in (0, 1).
        smoothing: of the hinge; 0 is the hinge itself.
        regularisation: $\rho$, 0 or more.
        full_gradient: needs `smoothing` and `regularisation` to be positive.
        gamma: averaging rate or schedule of the second derivative.
        init: the thresholds before the first step.
        psi: any function of a tensor.

    Shapes:
        the loss's `query_index` int64 `[Q]` gives the rows.

    State:
        `dual.memory.values` float32 `[num_queries]`; with `full_gradient` and gamma < 1 also
        `curvature.memory.values` `[num_queries]`. Ranks exchange the rows they step.

    Value and gradient:
        the inclusion; lists of K items or fewer take no step. In eval mode, or where gradients are off, $\lambda_q$ is
        the solution within the batch's list, so that queries that have no row can be evaluated.

    Raises:
        ValueError: a setting is out of range, `query_index` is missing in training.
        IndexError: a row number on the CPU is out of range.

    Source:
        Qiu et al., "Large-scale Stochastic Optimization of NDCG Surrogates for Deep Learning with Provable
        Convergence", ICML 2022. The update after 6.37 prints a plus before the mean of the indicators, with which
        every threshold falls for ever; the derivative of Lemma 6.3's objective, and this code, have a minus.

    Example:
        >>> import torch
        >>> from guidestar.losses.ndcg import NDCGLoss
        >>> loss = NDCGLoss(gamma=1.0, top_k=1, inclusion=ThresholdInclusion(num_queries=5, lr=0.5))
        >>> scores = torch.tensor([[2.0, 0.0, -3.0]], requires_grad=True)
        >>> value = loss(scores, torch.tensor([[1, 0, 0]]), query_index=torch.tensor([4]))
        >>> loss.inclusion.dual.values(torch.tensor([4]))
        tensor([-0.0833])
    """

    def __init__(
        self,
        num_queries: int,
        *,
        lr: float = 0.1,
        temperature: float = 1.0,
        eps: float = 0.5,
        smoothing: float = 0.0,
        regularisation: float = 0.0,
        full_gradient: bool = False,
        gamma: float | Schedule = 0.9,
        init: float = 0.0,
        psi: Callable[[Tensor], Tensor] = torch.sigmoid,
    ) -> None:
        super().__init__()
        if not 0 < eps < 1:
            raise ValueError(f"`eps` must be in (0, 1), so that the threshold is a single score. Found {eps}.")
        for name, value in (("smoothing", smoothing), ("regularisation", regularisation)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` must be 0 (none) or positive, and finite. Found {value}.")
        if full_gradient and not (smoothing > 0 and regularisation > 0):
            raise ValueError(
                "`full_gradient` needs `smoothing` and `regularisation` to be positive: the threshold has no derivative "
                f"otherwise. Found {smoothing} and {regularisation}; 0.01 and 0.0001 are the paper's."
            )
        self.temperature = check_positive("temperature", temperature)
        self.eps, self.smoothing, self.regularisation = float(eps), float(smoothing), float(regularisation)
        self.psi = psi
        self.dual = Dual(num_queries, lr=lr, init=init)
        self.curvature = Tracker(num_queries, gamma=gamma) if full_gradient else None

    def forward(self, lists: TopKLists) -> Tensor:
        """The inclusion of each anchor, `[Q, P]`."""
        if not (self.training and torch.is_grad_enabled()):
            threshold = self._within_the_list(lists)
        elif lists.query_index is None:
            raise ValueError(
                "`query_index` is needed: each query has its own threshold. Pass the row number of each query, [Q]."
            )
        else:
            threshold = self._step(lists, lists.query_index)
        if self.curvature is not None:
            return self.psi((lists.anchors.scores - threshold.unsqueeze(-1)) / self.temperature)  # Eq. 6.37
        with torch.no_grad():
            return self.psi((lists.anchors.scores - threshold.unsqueeze(-1)) / self.temperature)

    def _step(self, lists: TopKLists, rows: Tensor) -> Tensor:
        """The thresholds after their step, `[Q]`; with the gradient that they have as functions of the scores."""
        scores = lists.batch.scores
        moves = lists.batch.learnable & (lists.sizes > lists.top_k)  # a shorter list is all top K: no minimum
        before = self.dual.values(rows).to(scores)
        slope = smoothed_hinge_slope(scores.detach() - before.unsqueeze(-1), self.smoothing)
        gradient = self._share(lists) + self.regularisation * before - lists.batch.mean(slope)  # Lemma 6.3
        self.dual.move(gradient, rows, moves)
        threshold = self.dual.values(rows).to(scores)
        if self.curvature is None:
            return threshold
        above = scores.detach() - threshold.unsqueeze(-1)
        second = ((above > 0) & (above < self.smoothing)).to(scores.dtype) / self.smoothing
        curvature = self.curvature(lists.batch.mean(second), rows, active=moves)
        change = lists.batch.mean(second * (scores - scores.detach()))  # zero, with the gradient of the scores
        return threshold + change / (self.regularisation + curvature)

    def _share(self, lists: TopKLists) -> Tensor:
        return (lists.top_k + self.eps) / lists.sizes

    def _within_the_list(self, lists: TopKLists) -> Tensor:
        """The largest score above which there is no more than the share of the items."""
        scores, mask, weights = lists.batch.scores.detach(), lists.batch.mask, lists.batch.weights()
        weights = torch.ones_like(scores) if weights is None else weights
        order = (scores if mask is None else torch.where(mask, scores, -float("inf"))).argsort(-1, descending=True)
        above = weights.gather(-1, order).cumsum(-1) / weights.sum(-1, keepdim=True)
        place = (above <= self._share(lists).unsqueeze(-1)).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        return scores.gather(-1, order.gather(-1, place)).squeeze(-1)

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, eps={self.eps}, smoothing={self.smoothing}, "
            f"regularisation={self.regularisation}, full_gradient={self.curvature is not None}"
        )
