"""LDR: the worst case over distributions of the label, which tolerates labels that are wrong."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.losses.label_batch import class_batch
from guidestar.risks.base import check_positive
from guidestar.risks.mean import Mean


class LDRLoss(Loss):
    r"""Label-distributionally robust loss with the KL divergence (LDR-KL).

    $\psi_\lambda(x, y) = \max_{p \in \Delta_K} \sum_k p_k \big(f_k - f_y + c\,1[k \ne y]\big) - \lambda \mathrm{KL}(p, 1/K)
    = \lambda \log \frac1K \sum_k \exp\frac{f_k - f_y + c\,1[k \ne y]}{\lambda}$

    - $\lambda$ = `lam`: towards 0 the multi-class hinge of Crammer and Singer (the largest margin error); 1 with c = 0 is
      the cross-entropy (less log K); towards infinity the mean margin error, which is symmetric and hence robust to labels
      that are wrong.
    - $c$ = `margin`.

    The released code first divides logits by their mean absolute value, or passes them through a softplus. That changes
    the objective (its value no longer depends on the logits' scale) and is left out: normalise the logits in the model if
    you want it.

    Equations:
        6.11 with the classes of one sample in the place of the samples.

    Args:
        lam: $\lambda$, positive.
        margin: c, at least 0.

    Shapes:
        `logits` `[B, C]`, `labels` int64 `[B]`, `mask` bool `[B]` -> scalar. `index` is accepted for a common signature.

    State:
        none but the count of empty batches.

    Value and gradient:
        the mean of $\psi_\lambda$ over the samples, and its gradient.

    Raises:
        ValueError: a setting is out of range, shapes that do not fit, a label that is no class.
        TypeError: logits that are not floating point, labels that are.

    Source:
        Zhu et al., "Label Distributionally Robust Losses for Multi-class Classification: Consistency, Robustness and
        Adaptivity", ICML 2023.

    Example:
        >>> loss = LDRLoss(lam=1.0, margin=0.0)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor(-0.5662)
    """

    def __init__(self, lam: float = 1.0, margin: float = 0.1) -> None:
        super().__init__()
        self.lam = check_positive("lam", lam)
        self.margin = check_margin(margin)
        self.risk = Mean()

    def forward(
        self, logits: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The mean over the batch."""
        logits, labels, mask = class_batch(logits, labels, mask)
        errors = margin_errors(logits, labels, self.margin) / self.lam
        return self.risk(self.lam * (torch.logsumexp(errors, -1) - math.log(logits.shape[1])), mask=mask)

    def extra_repr(self) -> str:
        return f"lam={self.lam}, margin={self.margin}"


def check_margin(margin: float) -> float:
    """`margin`, if it is at least 0 and finite.

    Raises:
        ValueError: it is not.

    Example:
        >>> check_margin(0.5)
        0.5
    """
    if not 0 <= margin < float("inf"):
        raise ValueError(f"`margin` must be at least 0 and finite. Found {margin}.")
    return float(margin)


def margin_errors(logits: Tensor, labels: Tensor, margin: float) -> Tensor:
    """f_k - f_y + margin for each other class k, and 0 for the label's own, `[B, C]`.

    Example:
        >>> margin_errors(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), 0.5)
        tensor([[ 0.0000, -1.5000]])
    """
    column = labels.unsqueeze(1)
    others = torch.arange(logits.shape[1], device=logits.device) != column
    return logits - logits.gather(1, column) + margin * others.to(logits.dtype)
