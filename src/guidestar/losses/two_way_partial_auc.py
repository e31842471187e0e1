"""Two-way partial AUC: a risk over the positives of the risks over their negatives, with any two risks."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.ranking.rows import Surrogate
from guidestar.ranking.sides import both_sides, check_surrogate, negatives_risk, positives_risk
from guidestar.risks.base import Risk, check_risk
from guidestar.state import Counter
from guidestar.surrogates import squared_hinge


class TwoWayPartialAUCLoss(Loss):
    r"""The area under the ROC curve at small false positive and large true positive rates.

    $F(w) = \mathrm{outer}_{i \in S_+}\big( \mathrm{inner}_{j \in S_-} \ell(s_j - s_i) \big)$

    - $s$ = `scores`, $\ell$ = `surrogate`, non-decreasing.
    - inner = `inner`: over the negatives of a positive. `TopK(beta)` or `CVaR(beta, num_rows=n)`: FPR in [0, beta].
    - outer = `outer`: over the positives. `TopK(1 - alpha)` or `CVaR(1 - alpha)`: TPR in [alpha, 1], since the positives
      with the largest losses are those with the lowest scores.

    `TopK` in `TopK` is Eq. 6.29 of the batch, `CVaR` in `CVaR` the problem of `STACOLoss`, `KL` in `KL` is `SOTAsLoss`.

    Equations:
        6.29 to 6.33.

    Args:
        inner: the risk over the negatives; with memory, it has one row a positive.
        outer: the risk over the positives; with memory, it has one row a label.
        surrogate: a function of $s_j - s_i$, see `guidestar.surrogates`; another margin with `functools.partial`.

    Shapes:
        as `PartialAUCLoss`: `scores` and `labels` `[B]` or `[B, L]`, `index` int64 `[B]` or `[B, L]`, `mask` -> scalar.
        With L labels, the mean over those that have both classes in the batch.

    State:
        that of the risks, and `empty`: how many labels had one class only in a batch.

    Value and gradient:
        the outer risk's estimate, and its gradient. A label with one class only contributes nothing and leaves the
        memory as it is; a batch of nothing else is a zero. In training the ranks' scores make one batch.

    Raises:
        ValueError: labels other than 0 and 1, shapes that do not fit, `index` missing for a risk with many rows.
        TypeError: `inner` or `outer` is no risk, `surrogate` no function, scores are not floating point.
        IndexError: a row is out of a memory's range: too few for the samples (inner), or for the labels (outer).

    Source:
        Zhu et al., "When AUC Meets DRO: Optimizing Partial AUC for Deep Learning with Non-Convex Convergence
        Guarantee", ICML 2022.

    Example:
        >>> from guidestar import TopK
        >>> loss = TwoWayPartialAUCLoss(TopK(0.5), TopK(0.5))
        >>> loss(torch.tensor([2.0, 1.0, 1.5, 0.0]), torch.tensor([1, 1, 0, 0]))
        tensor(2.2500)
    """

    def __init__(self, inner: Risk, outer: Risk, surrogate: Surrogate = squared_hinge) -> None:
        super().__init__()
        self.inner = check_risk(inner)
        self.outer = check_risk(outer)
        self.surrogate = check_surrogate(surrogate)
        self.empty = Counter()

    def forward(
        self, scores: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The objective of the batch."""
        learning = self.training and torch.is_grad_enabled()
        sides = both_sides(scores, labels, index, mask, learning=learning, empty=self.empty)
        losses = negatives_risk(self.inner, sides, self.surrogate)  # Eq. 6.30
        return sides.batch.mean_over_labels(positives_risk(self.outer, sides, losses))  # Eq. 6.31
