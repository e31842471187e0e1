"""SOTA-s: two-way partial AUC through KL-regularized risks over negatives and positives."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.ranking.rows import Surrogate
from guidestar.ranking.sides import both_sides, check_surrogate, negatives_risk, positives_risk
from guidestar.risks.base import check_positive
from guidestar.risks.kl import KL
from guidestar.schedules import Schedule
from guidestar.state import Counter
from guidestar.surrogates import squared_hinge


class SOTAsLoss(Loss):
    r"""The two-way partial AUC with soft weights on hard negatives and on hard positives (SOTA-s).

    $F(w) = \tau_1 \log\Big(\frac{1}{n_+} \sum_{i \in S_+} g_i^{\tau_2 / \tau_1}\Big), \qquad
    g_i = \frac{1}{n_-} \sum_{j \in S_-} \exp\frac{\ell(s_j - s_i)}{\tau_2}$

    - $\tau_2$ = `tau_inner`: temperature over the negatives; the smaller, the lower the false positive rates that count.
    - $\tau_1$ = `tau_outer`: temperature over the positives; the smaller, the higher the true positive rates that count.
    - $u_i$, with rate $\gamma_0$ = `gamma_inner`: the running average of $g_i$.
    - $v$, with rate $\gamma_1$ = `gamma_outer`: that of the mean of $u_i^{\tau_2/\tau_1}$ over a batch's positives.

    Three levels, each an average of mini-batch estimates: a `KL` of `KL`s, which is Alg. 32 exactly. Both averages are
    kept as logarithms. It is `TwoWayPartialAUCLoss(KL(tau_inner, num_rows, gamma_inner), KL(tau_outer, 1, gamma_outer))`.

    Equations:
        6.33; Alg. 32 (SOTA-s, SOTAs).

    Args:
        num_rows: number of samples n; the inner memory has `num_rows * num_labels` rows.
        tau_inner, tau_outer: temperatures, positive, in units of the surrogate loss.
        gamma_inner, gamma_outer: averaging rates in (0, 1] or schedules; 1 is the mini-batch estimate and keeps nothing.
        surrogate: $\ell$, non-decreasing.
        num_labels: number of labels L; each has its own v.

    Shapes:
        as `PartialAUCLoss`: `scores` and `labels` `[B]` or `[B, L]`, `index` int64 `[B]` or `[B, L]`, `mask` -> scalar.

    State:
        `inner.tracker.memory.values` float32 `[num_rows * num_labels]`: log u; `outer.tracker.memory.values` float32
        `[num_labels]`: log v; +inf before the first visit, with which they are the batch's estimates.

    Value and gradient:
        $\tau_1 \log v$, the running estimate of F, and $\frac{1}{B_+ B_-} \sum_{ij} p_{ij} \nabla \ell_{ij}$ with
        $p_{ij} = \exp(\ell_{ij} / \tau_2)\, u_i^{\tau_2 / \tau_1 - 1} / v$. In eval mode, or where gradients are off, F
        of the batch.

    Raises:
        ValueError, TypeError, IndexError: as `TwoWayPartialAUCLoss`; a temperature, a rate or `num_rows` out of range.

    Source:
        Zhu et al., "When AUC Meets DRO: Optimizing Partial AUC for Deep Learning with Non-Convex Convergence
        Guarantee", ICML 2022.

    Example:
        >>> loss = SOTAsLoss(num_rows=4, tau_inner=1.0, tau_outer=1.0, gamma_inner=0.5, gamma_outer=0.5)
        >>> scores, labels = torch.tensor([2.0, 1.0, 1.5, 0.0]), torch.tensor([1, 1, 0, 0])
        >>> loss(scores, labels, torch.tensor([0, 1, 2, 3]))
        tensor(1.1609)
    """

    def __init__(
        self,
        num_rows: int,
        tau_inner: float = 1.0,
        tau_outer: float = 1.0,
        *,
        gamma_inner: float | Schedule = 0.9,
        gamma_outer: float | Schedule = 0.9,
        surrogate: Surrogate = squared_hinge,
        num_labels: int = 1,
    ) -> None:
        super().__init__()
        self.inner = KL(check_positive("tau_inner", tau_inner), num_rows * num_labels, gamma_inner)
        self.outer = KL(check_positive("tau_outer", tau_outer), num_labels, gamma_outer)
        self.surrogate = check_surrogate(surrogate)
        self.num_labels = num_labels
        self.empty = Counter()

    def forward(
        self, scores: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The objective of the batch."""
        learning = self.training and torch.is_grad_enabled()
        sides = both_sides(scores, labels, index, mask, learning=learning, empty=self.empty, num_labels=self.num_labels)
        losses = negatives_risk(self.inner, sides, self.surrogate)  # Alg. 32, step 5
        return sides.batch.mean_over_labels(positives_risk(self.outer, sides, losses))  # Alg. 32, step 8

    def extra_repr(self) -> str:
        return f"num_labels={self.num_labels}"
