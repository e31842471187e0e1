"""Logit-adjusted cross-entropy: the classes' frequencies as margins."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from guidestar.losses.base import Loss
from guidestar.losses.class_balanced import positive_numbers
from guidestar.losses.label_batch import check_class_weights, class_batch
from guidestar.risks.base import check_positive
from guidestar.risks.mean import Mean


class LogitAdjustedLoss(Loss):
    r"""Cross-entropy of logits that are shifted by the logarithm of the classes' frequencies.

    $-\log \frac{e^{f_y + \tau \log \pi_y}}{\sum_k e^{f_k + \tau \log \pi_k}}$

    Its minimiser is, for $\tau = 1$, best for the balanced error. The plain logits (without the shift) are the scores to
    predict with.

    - $\pi_k$ = `priors`: the classes' frequencies, or counts, which are divided by their sum.
    - $\tau$ = `tau`.

    Equations:
        none of the book: a baseline of Section 6.2.

    Args:
        priors: frequency or count of each class, all positive.
        tau: $\tau$, positive.

    Shapes:
        `logits` `[B, C]`, `labels` int64 `[B]`, `mask` bool `[B]` -> scalar. `index` is accepted for a common signature.

    State:
        none but the count of empty batches.

    Value and gradient:
        the mean over the samples, and its gradient.

    Raises:
        ValueError: a setting is out of range, shapes that do not fit, a label that is no class, priors that do not fit.
        TypeError: logits that are not floating point, labels that are.

    Source:
        Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.

    Example:
        >>> import torch
        >>> loss = LogitAdjustedLoss(priors=[0.9, 0.1])
        >>> loss(torch.zeros(1, 2), torch.tensor([1]))
        tensor(2.3026)
    """

    def __init__(self, priors: Sequence[float] | Tensor, tau: float = 1.0) -> None:
        super().__init__()
        frequencies = positive_numbers("priors", priors)
        self.tau = check_positive("tau", tau)
        self.shift = self.tau * (frequencies / frequencies.sum()).log()
        self.risk = Mean()

    def forward(
        self, logits: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The mean over the batch."""
        logits, labels, mask = class_batch(logits, labels, mask)
        adjusted = logits + check_class_weights("priors", self.shift, logits)
        return self.risk(functional.cross_entropy(adjusted, labels, reduction="none"), mask=mask)

    def extra_repr(self) -> str:
        return f"classes={len(self.shift)}, tau={self.tau}"
