"""Logit distillation: match a teacher's softened class probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from guidestar.losses.base import Loss
from guidestar.risks.base import as_mask, check_positive
from guidestar.risks.mean import Mean
from guidestar.state import math_dtype


class DistillationLoss(Loss):
    r"""The temperature-softened Kullback-Leibler divergence from the teacher.

    $\frac{T^2}{B} \sum_j \mathrm{KL}\big(\mathrm{softmax}(r_j / T) \,\|\, \mathrm{softmax}(f_j / T)\big)$; the factor
    $T^2$ keeps the gradient's size when T changes.

    - $f$ = `logits`, $r$ = `teacher_logits`, T = `temperature`.

    Equations:
        section 6.9, "Knowledge Distillation from the Model" (no number there).

    Args:
        temperature: T, positive.

    Shapes:
        `logits` and `teacher_logits` `[B, C]`, `mask` bool `[B]` -> scalar. `index` is accepted for a common signature.

    State:
        none but the count of empty batches.

    Value and gradient:
        the mean of the batch; gradient by `logits` only.

    Raises:
        ValueError: `temperature` not positive, or shapes that differ.

    Source:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Example:
        >>> import torch
        >>> DistillationLoss(temperature=2.0)(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]))
        tensor(0.4438)
    """

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.risk = Mean()

    def forward(
        self, logits: Tensor, teacher_logits: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The divergence of the batch."""
        if logits.ndim != 2 or logits.shape != teacher_logits.shape:
            raise ValueError(
                f"`logits` and `teacher_logits` must both be [B, C]. Found {tuple(logits.shape)} and "
                f"{tuple(teacher_logits.shape)}."
            )
        if mask is not None:
            mask = as_mask(logits[:, 0], mask)
            # A NaN that is masked must not reach the gradient.
            logits, teacher_logits = (torch.where(mask.unsqueeze(1), each, 0.0) for each in (logits, teacher_logits))
        dtype = math_dtype(logits)
        student = functional.log_softmax(logits.to(dtype) / self.temperature, dim=-1)
        teacher = functional.log_softmax(teacher_logits.detach().to(student) / self.temperature, dim=-1)
        divergence = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
        return self.temperature**2 * self.risk(divergence, mask=mask)
