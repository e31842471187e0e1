"""AUC by the pairwise loss of positives and negatives, with any surrogate."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar import surrogates
from guidestar.losses.base import Loss
from guidestar.ranking.batch import binary_batch
from guidestar.ranking.rows import Surrogate, row_means
from guidestar.ranking.sides import check_surrogate
from guidestar.state import Counter


class PairwiseAUCLoss(Loss):
    r"""The area under the ROC curve, by a surrogate of "the negative's score is at least the positive's".

    $F = \frac{1}{|B_+|} \sum_{i \in B_+} \frac{1}{|B_-|} \sum_{j \in B_-} \ell(s_j - s_i)$; with L labels the mean over
    the labels that have both classes. No matrix of all pairs is formed where it is large: `squared`, `squared_hinge`
    and `hinge` cost O(B log B), other surrogates are computed by tiles.

    Equations:
        Section 6.4.1 (method 1: pairwise loss minimization).

    Args:
        surrogate: $\ell$, any function of a tensor of $t = s_j - s_i$; those of `guidestar.surrogates`, with another
            margin `functools.partial(squared_hinge, margin=0.5)`.

    Shapes:
        `scores` `[B]` or `[B, L]`, `labels` 0/1 in any dtype in the same shape (NaN: missing), `mask` bool `[B]` or
        `[B, L]` -> scalar. `index` is accepted for a common signature.

    State:
        none but the count of labels that lacked a class in a batch.

    Value and gradient:
        F over all ranks' pairs while it learns, of the own batch else; unbiased for batches that are sampled by class.

    Raises:
        ValueError: shapes; labels other than 0 and 1.
        TypeError: scores that are not floating point; a surrogate that is no function.

    Source:
        Gao and Zhou, "On the Consistency of AUC Pairwise Optimization", IJCAI 2015.

    Example:
        >>> loss = PairwiseAUCLoss()
        >>> loss(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1, 0, 0]))
        tensor(0.1250)
    """

    def __init__(self, surrogate: Surrogate = surrogates.squared_hinge) -> None:
        super().__init__()
        self.surrogate = check_surrogate(surrogate)
        self.empty = Counter()

    def forward(
        self, scores: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The mean over the pairs of the batch."""
        learning = self.training and torch.is_grad_enabled()
        with torch.autocast(scores.device.type, enabled=False):
            batch = binary_batch(scores, labels, index, mask, learning=learning)
            if learning and not batch.complete:
                self.empty.add(batch.lacking())
            split = batch.split()
            by_positive = row_means(split.pos, split.neg, self.surrogate, weights=split.neg_mask)
            return batch.mean_over_labels(split.mean_over_positives(by_positive))
