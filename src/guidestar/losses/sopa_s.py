"""SOPA-s: one-way partial AUC through a KL-regularized risk over the negatives of each positive."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.ranking.rows import Surrogate
from guidestar.ranking.sides import both_sides, check_surrogate, negatives_risk
from guidestar.risks.kl import KL
from guidestar.schedules import Schedule
from guidestar.state import Counter
from guidestar.surrogates import squared_hinge


class SOPAsLoss(Loss):
    r"""The partial AUC with soft weights on the hard negatives of each positive (SOPA-s).

    $F(w) = \frac{1}{n_+} \sum_{i \in S_+} \tau \log\Big(\frac{1}{n_-} \sum_{j \in S_-}
    \exp\frac{\ell(s_j - s_i)}{\tau}\Big)$

    - $\tau$ = `tau`: temperature; the smaller, the fewer negatives count: the whole AUC for tau to infinity, each
      positive against its hardest negative for tau to 0.
    - $u_i$, with rate $\gamma$ = `gamma`: the running average of the mean of exp over the batches that hold i, kept as
      its logarithm, which neither overflows nor vanishes.

    It is `PartialAUCLoss(KL(tau, num_rows, gamma))`.

    Equations:
        6.27, 6.28; Alg. 30 (SOPA-s, SOPAs).

    Args:
        num_rows: number of samples n; the memory has `num_rows * num_labels` rows.
        tau: $\tau$, positive, in units of the surrogate loss.
        gamma: averaging rate in (0, 1] or a schedule; 1 is the mini-batch estimate and keeps nothing.
        surrogate: $\ell$, non-decreasing.
        num_labels: number of labels L.

    Shapes:
        as `PartialAUCLoss`: `scores` and `labels` `[B]` or `[B, L]`, `index` int64 `[B]` or `[B, L]`, `mask` -> scalar.

    State:
        `risk.tracker.memory.values` float32 `[num_rows * num_labels]`: log u, +inf before the first visit, with which
        it is the batch's estimate; nothing with gamma = 1.

    Value and gradient:
        the running estimate of F over the positives of the batch, and $\frac{1}{B_+ B_-} \sum_{ij} p_{ij} \nabla
        \ell_{ij}$ with $p_{ij} = \exp(\ell_{ij} / \tau) / u_i$. In eval mode, or where gradients are off, F of the batch.

    Raises:
        ValueError, TypeError, IndexError: as `PartialAUCLoss`; `tau`, `gamma` or `num_rows` out of range.

    Source:
        Zhu et al., "When AUC Meets DRO: Optimizing Partial AUC for Deep Learning with Non-Convex Convergence
        Guarantee", ICML 2022.

    Example:
        >>> loss = SOPAsLoss(num_rows=3, tau=1.0, gamma=0.5)
        >>> scores, labels = torch.tensor([2.0, 1.5, 0.0]), torch.tensor([1, 0, 0])
        >>> loss(scores, labels, torch.tensor([0, 1, 2]))
        tensor(0.1328)
    """

    def __init__(
        self,
        num_rows: int,
        tau: float = 1.0,
        *,
        gamma: float | Schedule = 0.9,
        surrogate: Surrogate = squared_hinge,
        num_labels: int = 1,
    ) -> None:
        super().__init__()
        self.risk = KL(tau, num_rows * num_labels, gamma)
        self.surrogate = check_surrogate(surrogate)
        self.num_labels = num_labels
        self.empty = Counter()

    def forward(
        self, scores: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The objective of the batch."""
        learning = self.training and torch.is_grad_enabled()
        sides = both_sides(scores, labels, index, mask, learning=learning, empty=self.empty, num_labels=self.num_labels)
        return sides.mean(negatives_risk(self.risk, sides, self.surrogate))  # Eq. 6.28

    def extra_repr(self) -> str:
        return f"num_labels={self.num_labels}"
