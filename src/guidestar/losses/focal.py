"""The focal loss: cross-entropy that fades where the model is right already."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from guidestar.losses.base import Loss
from guidestar.losses.label_batch import binary_labels, check_class_weights, class_batch
from guidestar.risks.mean import Mean


class FocalLoss(Loss):
    r"""The focal loss, binary or of several classes.

    $-\alpha_y\, (1 - p_y)^\gamma \log p_y$

    - $p_y$: the probability of the label, by a softmax of logits `[B, C]` or a sigmoid of logits `[B]`.
    - $\gamma$ = `gamma`: 0 is the cross-entropy.
    - $\alpha_y$ = `alpha`: for logits `[B]` one number, the weight of label 1 (that of label 0 is one minus it); for
      `[B, C]` one number a class; None is no weights.

    Both $\log p_y$ and $\log(1 - p_y)$ are computed from the logits, so neither the value nor the gradient is lost, or NaN,
    where p is 0 or 1 up to rounding.

    Equations:
        none of the book: a baseline of Section 6.2.

    Args:
        gamma: $\gamma$, at least 0.
        alpha: weights of the classes.

    Shapes:
        `logits` `[B, C]`, `labels` int64 `[B]`; or `logits` `[B]`, `labels` `[B]` of 0 and 1; `mask` bool `[B]` -> scalar.
        `index` is accepted for a common signature.

    State:
        none but the count of empty batches.

    Value and gradient:
        the mean over the samples (not divided by the sum of the weights, nor by the number of positives), and its gradient.

    Raises:
        ValueError: a setting is out of range, shapes that do not fit, a label that is no class, weights that do not fit.
        TypeError: logits that are not floating point.

    Source:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.

    Example:
        >>> FocalLoss(gamma=2.0)(torch.tensor([0.0]), torch.tensor([1]))
        tensor(0.1733)
    """

    def __init__(self, gamma: float = 2.0, alpha: float | Sequence[float] | Tensor | None = None) -> None:
        super().__init__()
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"`gamma` must be at least 0 and finite. Found {gamma}.")
        self.gamma = float(gamma)
        self.alpha = None if alpha is None else _weights(alpha)
        self.risk = Mean()

    def forward(
        self, logits: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The mean over the batch."""
        if logits.ndim == 1:
            logits, positive, mask = binary_labels(logits, labels, mask)
            signed = logits * torch.full_like(logits, -1.0).masked_fill_(positive, 1.0)
            log_right, log_wrong = functional.logsigmoid(signed), functional.logsigmoid(-signed)
            weights = None if self.alpha is None else self._binary_weights(positive, logits)
        else:
            logits, labels, mask = class_batch(logits, labels, mask)
            column = labels.unsqueeze(1)
            total = torch.logsumexp(logits, -1)
            own = torch.zeros_like(logits, dtype=torch.bool).scatter(1, column, True)
            others = logits.masked_fill(own, -float("inf"))
            log_right, log_wrong = logits.gather(1, column).squeeze(1) - total, torch.logsumexp(others, -1) - total
            weights = None if self.alpha is None else self._class_weights(labels, logits)
        losses = torch.exp(self.gamma * log_wrong) * log_right
        return self.risk(-losses if weights is None else losses * -weights, mask=mask)

    def _binary_weights(self, positive: Tensor, logits: Tensor) -> Tensor:
        if not isinstance(self.alpha, float):
            raise ValueError(
                "`alpha` must be one number, the weight of label 1, for logits [B]. Found one for each class."
            )
        return torch.full_like(logits, 1.0 - self.alpha).masked_fill_(positive, self.alpha)

    def _class_weights(self, labels: Tensor, logits: Tensor) -> Tensor:
        if not isinstance(self.alpha, Tensor):
            raise ValueError(f"`alpha` must have one number for each class for logits [B, C]. Found {self.alpha}.")
        return check_class_weights("alpha", self.alpha, logits)[labels]

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}"


def _weights(alpha: float | Sequence[float] | Tensor) -> float | Tensor:
    if isinstance(alpha, int | float):
        if not 0 < alpha < 1:
            raise ValueError(f"`alpha` as one number is the weight of label 1 and must be in (0, 1). Found {alpha}.")
        return float(alpha)
    weights = torch.as_tensor(alpha, dtype=torch.float64).detach().cpu()
    if weights.ndim != 1 or not bool((weights >= 0).all()):
        raise ValueError(f"`alpha` must be numbers of at least 0, one a class. Found {weights.tolist()}.")
    return weights
