"""STACO: two-way partial AUC as a min-max problem over thresholds and weights of the positives."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.duals import Dual
from guidestar.losses.base import Loss
from guidestar.ranking.rows import Surrogate, row_hinge_means
from guidestar.ranking.sides import Sides, both_sides, check_surrogate, negatives_risk, positives_risk
from guidestar.risks.base import check_positive, check_share
from guidestar.risks.cvar import TopK
from guidestar.state import Counter, distinct
from guidestar.surrogates import squared_hinge


class STACOLoss(Loss):
    r"""The two-way partial AUC at FPR in [0, beta] and TPR in [alpha, 1], by its min-max form (STACO).

    $\min_{w, \nu, \nu'} \max_{y \in [0,1]^{n_+}} \; \nu' + \frac{1}{(1 - \alpha) n_+} \sum_{i \in S_+} y_i \Big[
    \frac{1}{\beta n_-} \sum_{j \in S_-} [\ell(s_j - s_i) - \nu_i]_+ + \nu_i - \nu' \Big]$

    - $\alpha$ = `alpha`, $\beta$ = `beta`: $k_1 = n_+ (1 - \alpha)$ positives and $k_2 = n_- \beta$ negatives count.
    - $\nu_i$: the threshold over the negatives of positive i, with step size `lr`.
    - $\nu'$: the threshold over the positives, one a label, with step size `lr_outer`.
    - $y_i$: how much positive i counts, with step size `lr_weight`: $[\cdot]_+ = \max_{y \in [0,1]} y\,\cdot$ makes the
      outer CVaR linear in what a batch estimates. It ascends (the minus in step 6 of Alg. 31 as printed is an error),
      and the new y is what the steps of $\nu$ and $\nu'$ and the gradient use.

    This is the problem below Eq. 6.32 divided by $(1 - \alpha) \beta = k_1 k_2 / n_+ n_-$: at the saddle point the mean
    loss over the $k_1 k_2$ pairs of Eq. 6.29 itself. In Alg. 31, $z_t$ is $(1 - \alpha) \beta$ times the gradient here,
    $\eta_2$ = `lr_weight` / beta, $\eta_1$ = `lr` / beta for $\nu_i$ and `lr_outer` / ((1 - alpha) beta) for $\nu'$.

    Equations:
        6.29, 6.32; Alg. 31 (STACO).

    Args:
        num_rows: number of samples n; each memory of the positives has `num_rows * num_labels` rows.
        alpha: $\alpha$, the smallest true positive rate, in [0, 1).
        beta: $\beta$, the largest false positive rate, in (0, 1].
        lr: step size of $\nu_i$, in units of the surrogate loss.
        lr_outer: step size of $\nu'$, in units of the surrogate loss.
        lr_weight: step size of $y_i$.
        surrogate: $\ell$, non-decreasing.
        num_labels: number of labels L; each has its own $\nu'$.

    Shapes:
        as `PartialAUCLoss`: `scores` and `labels` `[B]` or `[B, L]`, `index` int64 `[B]` or `[B, L]`, `mask` -> scalar.

    State:
        `threshold.memory.values` ($\nu_i$, 0 at the start) and `weight.memory.values` ($y_i$, 1 - alpha at the start:
        all positives count alike, as one-way) float32
        `[num_rows * num_labels]`, `outer.memory.values` ($\nu'$, 0 at the start) float32 `[num_labels]`.

    Value and gradient:
        the min-max objective at the thresholds before their step and the weights after theirs, and its gradient. In eval
        mode, or where gradients are off, Eq. 6.29 of the batch itself (`TopK` of `TopK`), for which no index is needed:
        other data may be evaluated. A label with one class only contributes nothing and leaves the memory as it is.

    Raises:
        ValueError, TypeError, IndexError: as `TwoWayPartialAUCLoss`; `alpha`, `beta`, a step size or `num_rows` out of
            range; `index` missing.

    Source:
        Zhou et al., "Stochastic Primal-Dual Double Block-Coordinate for Two-way Partial AUC Maximization", TMLR 2025.

    Example:
        >>> loss = STACOLoss(num_rows=4, alpha=0.5, beta=0.5)
        >>> scores, labels = torch.tensor([2.0, 1.0, 1.5, 0.0]), torch.tensor([1, 1, 0, 0])
        >>> loss(scores, labels, torch.tensor([0, 1, 2, 3]))
        tensor(1.7625)
        >>> loss.eval()(scores, labels)
        tensor(2.2500)
    """

    def __init__(
        self,
        num_rows: int,
        alpha: float,
        beta: float,
        *,
        lr: float = 0.1,
        lr_outer: float = 0.1,
        lr_weight: float = 0.1,
        surrogate: Surrogate = squared_hinge,
        num_labels: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= alpha < 1:
            raise ValueError(f"`alpha` is the smallest true positive rate and must be in [0, 1). Found {alpha}.")
        self.alpha = float(alpha)
        self.beta = check_share("beta", beta)
        for name, step in (("lr", lr), ("lr_outer", lr_outer), ("lr_weight", lr_weight)):
            check_positive(name, step)
        rows = num_rows * num_labels
        self.threshold = Dual(rows, lr=lr)
        self.weight = Dual(rows, init=1.0 - self.alpha, lr=lr_weight, minimum=0.0, maximum=1.0, maximise=True)
        self.outer = Dual(num_labels, lr=lr_outer)
        self.top_negatives = TopK(beta)
        self.top_positives = TopK(1.0 - self.alpha)
        self.surrogate = check_surrogate(surrogate)
        self.num_labels = num_labels
        self.empty = Counter()

    def forward(
        self, scores: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The objective of the batch; thresholds and weights take a step."""
        learning = self.training and torch.is_grad_enabled()
        sides = both_sides(scores, labels, index, mask, learning=learning, empty=self.empty, num_labels=self.num_labels)
        values = self._min_max(sides) if learning else self._in_batch(sides)
        return sides.batch.mean_over_labels(values)

    def _min_max(self, sides: Sides) -> Tensor:
        """The min-max objective of each label, `[L]`."""
        pos, rows, active, top = sides.pos, sides.rows, sides.active, 1.0 - self.alpha
        threshold, weight, duals_of_labels = self.threshold, self.weight, self.outer
        # Both memories have the same rows: one look at the index is enough.
        rows = None if rows is None else threshold.memory.on_device(rows)
        single = rows is not None and distinct(rows.reshape(-1))
        labels = duals_of_labels.memory.on_device(sides.labels)
        nu = threshold.values(rows, checked=True).to(pos.dtype)
        outer = duals_of_labels.values(labels, checked=True).to(pos.dtype)
        excess, slope = row_hinge_means(pos, sides.neg, self.surrogate, nu, weights=sides.weights)
        inner = torch.add(nu - outer.unsqueeze(1), excess, alpha=1.0 / self.beta)
        weight.move(inner, rows, active, checked=True, distinct=single)  # Alg. 31, step 6
        y = weight.values(rows, checked=True).to(pos.dtype).expand(pos.shape)
        threshold.move(y * (1.0 + slope / self.beta), rows, active, checked=True, distinct=single)  # Alg. 31, step 6
        by_label = 1.0 - sides.positive_mean(y) / top
        duals_of_labels.move(by_label, labels, sides.learnable, checked=True)  # Alg. 31, step 9
        return outer + sides.positive_mean(y * inner) / top  # Eq. 6.32, divided by (1 - alpha) beta

    def _in_batch(self, sides: Sides) -> Tensor:
        losses = negatives_risk(self.top_negatives, sides, self.surrogate)
        return positives_risk(self.top_positives, sides, losses)  # Eq. 6.29

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}, num_labels={self.num_labels}"
