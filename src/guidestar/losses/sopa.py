"""SOPA: one-way partial AUC through CVaR, with a learnt threshold for each positive."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.ranking.rows import Surrogate
from guidestar.ranking.sides import both_sides, check_surrogate, negatives_risk
from guidestar.risks.base import check_share
from guidestar.risks.cvar import CVaR, TopK
from guidestar.state import Counter
from guidestar.surrogates import squared_hinge


class SOPALoss(Loss):
    r"""The partial AUC at false positive rates in [0, beta], by the dual form of CVaR (SOPA).

    $F(w, \nu) = \frac{1}{n_+} \sum_{i \in S_+} \Big\{ \nu_i + \frac{1}{\beta n_-} \sum_{j \in S_-}
    [\ell(s_j - s_i) - \nu_i]_+ \Big\}$

    - $\beta$ = `beta`: $k / n_-$, the share of the negatives that counts.
    - $\nu_i$: the threshold of positive i, which takes a step in the forward of each batch that holds i. The few
      negatives of a batch are compared with what i has met before, not with each other.

    This is Eq. 6.26 divided by $\beta = k / n_-$: at the best thresholds the mean loss over the $n_+ k$ pairs of Eq. 6.23
    itself, a number that does not shrink with beta. So $z_t$ is that of Alg. 29 divided by beta, and its step size
    $\eta_2$ is `lr` / beta.

    It is `PartialAUCLoss(CVaR(beta, num_rows=num_rows, lr=lr))`, but for evaluation.

    Equations:
        6.23 to 6.26; Alg. 29 (SOPA).

    Args:
        num_rows: number of samples n; the memory has `num_rows * num_labels` rows.
        beta: $\beta$, the largest false positive rate, in (0, 1].
        lr: step size of the thresholds, in units of the surrogate loss.
        surrogate: $\ell$, non-decreasing.
        num_labels: number of labels L.

    Shapes:
        as `PartialAUCLoss`: `scores` and `labels` `[B]` or `[B, L]`, `index` int64 `[B]` or `[B, L]`, `mask` -> scalar.

    State:
        `risk.dual.memory.values` float32 `[num_rows * num_labels]`: nu, 0 at the start.

    Value and gradient:
        F at the thresholds before their step, an upper bound of Eq. 6.23 that is tight at the best ones, and
        $\frac{1}{\beta B_+ B_-} \sum_{ij} 1[\ell_{ij} > \nu_i] \nabla \ell_{ij}$. In eval mode, or where gradients are
        off, Eq. 6.23 of the batch itself (`TopK`), for which no index is needed: other data may be evaluated.

    Raises:
        ValueError, TypeError, IndexError: as `PartialAUCLoss`; `beta`, `lr` or `num_rows` out of range.

    Source:
        Zhu et al., "When AUC Meets DRO: Optimizing Partial AUC for Deep Learning with Non-Convex Convergence
        Guarantee", ICML 2022.

    Example:
        >>> loss = SOPALoss(num_rows=3, beta=0.5, lr=0.5)
        >>> scores, labels = torch.tensor([2.0, 1.5, 0.0]), torch.tensor([1, 0, 0])
        >>> loss(scores, labels, torch.tensor([0, 1, 2]))
        tensor(0.2500)
    """

    def __init__(
        self,
        num_rows: int,
        beta: float,
        *,
        lr: float = 0.1,
        surrogate: Surrogate = squared_hinge,
        num_labels: int = 1,
    ) -> None:
        super().__init__()
        self.risk = CVaR(check_share("beta", beta), num_rows=num_rows * num_labels, lr=lr)
        self.exact = TopK(beta)
        self.surrogate = check_surrogate(surrogate)
        self.num_labels = num_labels
        self.empty = Counter()

    def forward(
        self, scores: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The objective of the batch; the thresholds of its positives take a step."""
        learning = self.training and torch.is_grad_enabled()
        sides = both_sides(scores, labels, index, mask, learning=learning, empty=self.empty, num_labels=self.num_labels)
        risk = self.risk if learning else self.exact
        return sides.mean(negatives_risk(risk, sides, self.surrogate))  # Eq. 6.26, divided by beta

    def extra_repr(self) -> str:
        return f"num_labels={self.num_labels}"
