"""Cross-entropy under a risk, steered by a reference model's losses when they are given."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from guidestar.losses.base import Loss
from guidestar.losses.label_batch import class_batch
from guidestar.risks.base import Risk, check_risk
from guidestar.risks.excess import excess
from guidestar.state import math_dtype


class DRRhoCrossEntropyLoss(Loss):
    r"""Classification with a risk of (cross-entropy minus the reference's cross-entropy).

    $F = \mathrm{risk}_j\big(-\log \mathrm{softmax}(f(x_j))_{y_j} - \ell_{ref,j}\big)$; without reference losses the
    second term is 0 and this is plain DRO (ABSGD with `KL`), or ERM with `Mean`.

    Equations:
        6.11, 6.113, 6.114, 6.118; Alg. 24 with the RHO loss.

    Args:
        risk: the risk over the samples.

    Shapes:
        `logits` `[B, C]`, `labels` int64 `[B]`, `reference_losses` `[B]`, `mask` bool `[B]` -> scalar. `index` is
        accepted for a common signature: the risk over samples is one row and needs none.

    State:
        that of the risk.

    Value and gradient:
        the risk's running estimate of the objective; gradient by the logits.

    Raises:
        ValueError: shapes do not fit, a label that is no class (mask such samples out).
        TypeError: logits that are not floating point, labels that are.

    Example:
        >>> import torch
        >>> from guidestar import KL
        >>> loss = DRRhoCrossEntropyLoss(KL(tau=1.0))
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]], requires_grad=True)
        >>> loss(logits, torch.tensor([0, 0]), reference_losses=torch.tensor([0.1, 2.0]))
        tensor(0.0782, grad_fn=<MulBackward0>)
    """

    def __init__(self, risk: Risk) -> None:
        super().__init__()
        self.risk = check_risk(risk)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        index: Tensor | None = None,
        *,
        reference_losses: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The steered risk of the batch."""
        logits, labels, mask = class_batch(logits, labels, mask)
        losses = sample_cross_entropy(logits, labels)
        if reference_losses is not None:
            losses = excess(losses, reference_losses)
        return self.risk(losses, mask=mask)


def sample_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, in float32 at least.

    Args:
        logits: `[B, C]`.
        labels: int64 `[B]`.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> import torch
        >>> sample_cross_entropy(torch.zeros(1, 2), torch.tensor([1]))
        tensor([0.6931])
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"`logits` must be [B, C] and `labels` [B]. Found {tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    return functional.cross_entropy(logits.to(math_dtype(logits)), labels, reduction="none")
