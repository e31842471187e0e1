"""Class-balanced cross-entropy: weights by the effective number of samples of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from guidestar.losses.base import Loss
from guidestar.losses.label_batch import check_class_weights, class_batch
from guidestar.risks.mean import Mean


class ClassBalancedLoss(Loss):
    r"""Cross-entropy weighted by the inverse effective number of samples of the label's class.

    $-\omega_y \log p_y, \qquad \omega_k \propto \frac{1 - \beta}{1 - \beta^{n_k}}, \quad \sum_k \omega_k = C$

    - $n_k$ = `counts`: training samples of class k.
    - $\beta$ = `beta`: 0 is no weights, towards 1 the weights are 1 / $n_k$.

    With the focal loss instead: `FocalLoss(gamma, class_balanced_weights(counts, beta))`.

    Equations:
        none of the book: a baseline of Section 6.2.

    Args:
        counts: number of training samples of each class, all positive.
        beta: $\beta$ in [0, 1).

    Shapes:
        `logits` `[B, C]`, `labels` int64 `[B]`, `mask` bool `[B]` -> scalar. `index` is accepted for a common signature.

    State:
        none but the count of empty batches.

    Value and gradient:
        the mean over the samples of the weighted cross-entropy (not divided by the sum of the batch's weights, as
        `torch.nn.CrossEntropyLoss(weight=...)` does), and its gradient.

    Raises:
        ValueError: a setting is out of range, shapes that do not fit, a label that is no class, counts that do not fit.
        TypeError: logits that are not floating point, labels that are.

    Source:
        Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.

    Example:
        >>> loss = ClassBalancedLoss(counts=[100, 1], beta=0.99)
        >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor(0.6931)
    """

    def __init__(self, counts: Sequence[float] | Tensor, beta: float = 0.999) -> None:
        super().__init__()
        self.class_weights = class_balanced_weights(counts, beta)
        self.beta = float(beta)
        self.risk = Mean()

    def forward(
        self, logits: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The mean over the batch."""
        logits, labels, mask = class_batch(logits, labels, mask)
        weights = check_class_weights("counts", self.class_weights, logits)[labels]
        return self.risk(weights * functional.cross_entropy(logits, labels, reduction="none"), mask=mask)

    def extra_repr(self) -> str:
        return f"classes={len(self.class_weights)}, beta={self.beta}"


def class_balanced_weights(counts: Sequence[float] | Tensor, beta: float = 0.999) -> Tensor:
    r"""$\omega_k \propto (1 - \beta) / (1 - \beta^{n_k})$ with sum C, float64 `[C]` on the CPU.

    Raises:
        ValueError: `beta` outside [0, 1), or counts that are not positive.

    Example:
        >>> class_balanced_weights([1, 1, 1], 0.9)
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    if not 0 <= beta < 1:
        raise ValueError(f"`beta` must be in [0, 1) (0 is no weights). Found {beta}.")
    sizes = positive_numbers("counts", counts)
    # 1 - beta^n without the rounding of beta^n near 1.
    missing = torch.ones_like(sizes) if beta == 0 else -torch.expm1(sizes * math.log(beta))
    weights = 1.0 / missing
    return weights * (len(weights) / weights.sum())


def positive_numbers(name: str, values: Sequence[float] | Tensor) -> Tensor:
    """One positive number a class, float64 `[C]` on the CPU.

    Raises:
        ValueError: they are not.

    Example:
        >>> positive_numbers("counts", [3, 1])
        tensor([3., 1.], dtype=torch.float64)
    """
    numbers = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if numbers.ndim != 1 or len(numbers) < 2 or not bool(((numbers > 0) & (numbers < float("inf"))).all()):
        raise ValueError(
            f"`{name}` must have one positive number for each of at least 2 classes. Found {numbers.tolist()}. Leave out "
            "classes without samples."
        )
    return numbers
