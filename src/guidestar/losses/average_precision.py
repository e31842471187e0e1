"""Average precision and, over labels, mAP: SOAP."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.ranking.rows import Surrogate, row_sums
from guidestar.ranking.sides import Sides, both_sides, check_surrogate
from guidestar.schedules import Schedule
from guidestar.state import Counter, may_look
from guidestar.surrogates import squared_hinge
from guidestar.tracking import Tracker

#: Up to so many pairs of a positive and any sample both ranks are sums over the rows of one matrix.
ONE_MATRIX = 1 << 13


class AveragePrecisionLoss(Loss):
    r"""The area under the precision-recall curve, by a running average of each positive's rank (SOAP).

    $F(w) = \frac{1}{n_+} \sum_{i \in S_+} -\frac{g_{1,i}}{g_{2,i}}, \qquad
    g_{1,i} = \frac{1}{n} \sum_{j \in S_+} \ell(s_j - s_i), \quad g_{2,i} = \frac{1}{n} \sum_{j \in S} \ell(s_j - s_i)$

    - $s$ = `scores`: the model's output for a sample, one for each label.
    - $\ell$ = `surrogate` of $1[s_j \ge s_i]$, so that $n g_{1,i}$ stands for the rank of positive i among the positives
      (i itself included) and $n g_{2,i}$ for its rank among all. The ratio is the precision at the score of i.
    - $u_i = (u_{i,1}, u_{i,2})$, with rate $\gamma$ = `gamma`: the running averages of both over the batches that hold
      i. The ratio of two mini-batch means is biased however many batches there are; that of two running averages is not
      in the long run.

    With L labels, the mean over those that have both classes in the batch: mAP.

    Equations:
        6.22; Alg. 28 (SOAP).

    Args:
        num_rows: number of samples n; the memory has `num_rows * num_labels` rows.
        gamma: averaging rate in (0, 1] or a schedule; 1 is the mini-batch estimate and keeps nothing.
        surrogate: $\ell$, non-decreasing.
        num_labels: number of labels L.

    Shapes:
        `scores` `[B]` or `[B, L]`, `labels` 0/1 (NaN: missing) in the same shape, `index` int64 `[B]` (the memory row
        of (sample, label) is then `index * L + label`) or `[B, L]` (memory rows as they are, such as those of
        `guidestar.ranking.positive_rows`, of which only the positives' count), `mask` bool `[B]` or `[B, L]` -> scalar.

    State:
        `tracker.memory.values` float32 `[num_rows * num_labels, 2]`: u, +inf before the first visit, with which it is
        the batch's estimate; nothing with gamma = 1. `empty`: how many labels had one class only in a batch.

    Value and gradient:
        minus the running estimate of the average precision, in [-1, 0], and Alg. 28's $\frac{1}{B_+ B} \sum_{ij}
        \frac{u_{i,1} - u_{i,2} 1[y_j = 1]}{u_{i,2}^2} \nabla \ell_{ij}$. Where $u_{i,2} = 0$ (a surrogate that is 0 at 0,
        such as a hinge without margin, and nothing ranks near i), the precision is 1 and its gradient 0. In eval mode, or
        where gradients are off, F of the batch. A label with one class only contributes nothing and leaves the memory as
        it is; a batch of nothing else is a zero. In training the ranks' scores make one batch.

    Raises:
        ValueError: labels other than 0 and 1, shapes that do not fit, `index` missing, `gamma` or `num_rows` out of
            range.
        TypeError: `surrogate` is no function, scores are not floating point.
        IndexError: a row of a positive is out of the memory's range.

    Source:
        Qi et al., "Stochastic Optimization of Areas Under Precision-Recall Curves with Provable Convergence", NeurIPS
        2021.

    Example:
        >>> loss = AveragePrecisionLoss(num_rows=3, gamma=0.5)
        >>> scores, labels = torch.tensor([2.0, 1.5, 0.0]), torch.tensor([1, 0, 0])
        >>> loss(scores, labels, torch.tensor([0, 1, 2]))
        tensor(-0.8000)
    """

    def __init__(
        self,
        num_rows: int,
        *,
        gamma: float | Schedule = 0.9,
        surrogate: Surrogate = squared_hinge,
        num_labels: int = 1,
    ) -> None:
        super().__init__()
        self.tracker = Tracker(num_rows * num_labels, shape=(2,), gamma=gamma)
        self.surrogate = check_surrogate(surrogate)
        self.num_labels = num_labels
        self.empty = Counter()

    def forward(
        self, scores: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The objective of the batch."""
        learning = self.training and torch.is_grad_enabled()
        sides = both_sides(scores, labels, index, mask, learning=learning, empty=self.empty, num_labels=self.num_labels)
        average = rank_means(sides, self.surrogate)
        if learning:
            average = self.tracker(average, sides.rows, active=sides.active)  # Alg. 28, step 5
        return sides.mean(-precision(*average.unbind(-1)))  # Eq. 6.22

    def extra_repr(self) -> str:
        return f"num_labels={self.num_labels}"


def rank_means(sides: Sides, surrogate: Surrogate) -> Tensor:
    """g_1 and g_2 of each positive, `[L, P, 2]`: its surrogate rank among the positives, and among all, over n."""
    few = sides.pos.numel() * (sides.pos.shape[-1] + sides.neg.shape[-1]) <= ONE_MATRIX
    if few and sides.active is None and sides.counted is None:
        pairs = surrogate(torch.cat([sides.pos, sides.neg], -1).unsqueeze(-2) - sides.pos.unsqueeze(-1))
        above_positives = pairs[..., : sides.pos.shape[-1]].sum(-1)
        return torch.stack([above_positives, pairs.sum(-1)], -1) / pairs.shape[-1]
    among_positives = row_sums(sides.pos, sides.pos, surrogate, weights=sides.active)
    among_negatives = row_sums(sides.pos, sides.neg, surrogate, weights=sides.counted)
    counts = (sides.batch.positive | sides.batch.negative).sum(-1, keepdim=True).clamp(min=1)
    return torch.stack([among_positives, among_positives + among_negatives], -1) / counts.unsqueeze(-1)


def precision(above_positives: Tensor, above: Tensor) -> Tensor:
    """The ratio of two surrogate ranks; 1, without gradient, where both are 0.

    Example:
        >>> precision(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0]))
        tensor([0.2500, 1.0000])
    """
    if may_look(above) and above.numel() and above.detach().amin().item() > 0:
        return above_positives / above
    alone = above == 0
    return torch.where(alone, 1.0, above_positives) / torch.where(alone, 1.0, above)
