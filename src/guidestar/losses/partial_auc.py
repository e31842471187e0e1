"""Partial AUC: a risk over the negatives of each positive, with any risk."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.ranking.rows import Surrogate
from guidestar.ranking.sides import both_sides, check_surrogate, negatives_risk
from guidestar.risks.base import Risk, check_risk
from guidestar.state import Counter
from guidestar.surrogates import squared_hinge


class PartialAUCLoss(Loss):
    r"""The area under the ROC curve at small false positive rates: for each positive a risk over its negatives.

    $F(w) = \frac{1}{n_+} \sum_{i \in S_+} \mathrm{risk}_{j \in S_-} \big(\ell(s_j - s_i)\big)$

    - $s$ = `scores`: the model's output for a sample, one for each label.
    - $\ell$ = `surrogate`, non-decreasing, so that the negatives with the largest losses are those with the largest
      scores, the ones below the false positive rate in question.
    - risk = `risk`: `TopK(beta)` the negatives within FPR [0, beta] of the batch alone (the mini-batch baseline of
      Fig. 6.12), `CVaR(beta, num_rows=n)` the same with a threshold for each positive that is learnt over the batches
      (`SOPALoss`), `KL(tau, n, gamma)` soft weights (`SOPAsLoss`), `Mean()` the whole AUC.

    Equations:
        6.23 to 6.28.

    Args:
        risk: the risk over the negatives of a positive. With memory, it has one row a positive.
        surrogate: a function of $s_j - s_i$, see `guidestar.surrogates`; another margin with `functools.partial`.

    Shapes:
        `scores` `[B]` or `[B, L]`, `labels` 0/1 (NaN: missing) in the same shape, `index` int64 `[B]` (the memory row
        of (sample, label) is then `index * L + label`) or `[B, L]` (memory rows as they are), `mask` bool `[B]` or
        `[B, L]` -> scalar. With L labels, the mean over those that have both classes in the batch.

    State:
        that of the risk, and `empty`: how many labels had one class only in a batch.

    Value and gradient:
        the mean of the risks' estimates, and their gradient. A label with one class only contributes nothing and leaves
        the memory as it is; a batch of nothing else is a zero. In training the ranks' scores make one batch.

    Raises:
        ValueError: labels other than 0 and 1, shapes that do not fit, `index` missing for a risk with many rows.
        TypeError: `risk` is no risk, `surrogate` no function, scores are not floating point.
        IndexError: a row of a positive is out of the memory's range.

    Source:
        Zhu et al., "When AUC Meets DRO: Optimizing Partial AUC for Deep Learning with Non-Convex Convergence
        Guarantee", ICML 2022.

    Example:
        >>> from guidestar import TopK
        >>> loss = PartialAUCLoss(TopK(0.5))
        >>> loss(torch.tensor([2.0, 1.5, 0.0]), torch.tensor([1, 0, 0]))
        tensor(0.2500)
    """

    def __init__(self, risk: Risk, surrogate: Surrogate = squared_hinge) -> None:
        super().__init__()
        self.risk = check_risk(risk)
        self.surrogate = check_surrogate(surrogate)
        self.empty = Counter()

    def forward(
        self, scores: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The objective of the batch."""
        learning = self.training and torch.is_grad_enabled()
        sides = both_sides(scores, labels, index, mask, learning=learning, empty=self.empty)
        return sides.mean(negatives_risk(self.risk, sides, self.surrogate))  # Eq. 6.23
