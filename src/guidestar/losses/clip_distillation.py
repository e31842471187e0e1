"""Soft-label distillation of two towers: the teacher's probabilities over the batch, in both directions."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.pairwise.anchors import anchor_mean, count_idle, inverse_temperature
from guidestar.pairwise.soft_labels import soft_label_divergence, tiled_soft_label_divergence
from guidestar.pairwise.towers import Towers, towers
from guidestar.risks.base import check_positive
from guidestar.state import Counter


class CLIPDistillationLoss(Loss):
    r"""Divergence from the teacher's matching probabilities, for images over texts and for texts over images.

    $F = \frac1B \sum_i \mathrm{KL}\big(\mathrm{softmax}_j(r_{ij}/\tau_r) \,\|\,
    \mathrm{softmax}_j(s_{ij}/\tau)\big)$ plus the same of the columns; s and r are the student's and the teacher's
    similarities.

    Equations:
        composed with 6.121 in the strategy steer+distill (section 6.9).

    Args:
        teacher_tau: $\tau_r$, the teacher's own temperature, positive.
        tau: the student's, positive; used where `forward` gets none.
        tiled: never form the B x B matrices; memory of the order of B d.

    Shapes:
        `image`, `text` `[B, d]`, `reference_image`, `reference_text` `[B, d']`, all of unit norm, `mask` bool `[B]`,
        `tau` a scalar tensor, learnt by the caller's optimizer -> scalar. `index` is accepted for a common signature.

    State:
        none but the count of pairs that are masked.

    Value and gradient:
        F over all ranks' pairs; gradient by the features and by `tau` where given. Every rank must run backward.

    Raises:
        ValueError: shapes; a temperature that is not positive; reference features that are missing.
        TypeError: features that are not floating point.

    Source:
        Vasu et al., "MobileCLIP: Fast Image-Text Models through Multi-Modal Reinforced Training", CVPR 2024.

    Example:
        >>> one = torch.eye(2)
        >>> CLIPDistillationLoss(1.0, tau=1.0)(one, one, reference_image=one, reference_text=-one)
        tensor(0.9242)
    """

    def __init__(self, teacher_tau: float, *, tau: float = 0.07, tiled: bool = False) -> None:
        super().__init__()
        self.teacher_tau = check_positive("teacher_tau", teacher_tau)
        self.tau = check_positive("tau", tau)
        self.tiled = tiled
        self.empty = Counter()

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        index: Tensor | None = None,
        *,
        reference_image: Tensor | None = None,
        reference_text: Tensor | None = None,
        mask: Tensor | None = None,
        tau: Tensor | None = None,
    ) -> Tensor:
        """The loss of the batch."""
        learning = self.training and torch.is_grad_enabled()
        with torch.autocast(image.device.type, enabled=False):
            batch = towers(
                image, text, reference_x=reference_image, reference_y=reference_text, mask=mask, learning=learning
            )
            x = batch.own.x
            scale = inverse_temperature(tau, self.tau, x)
            if learning:
                count_idle(self.empty, mask, len(x))
            one, other = self._rows(batch, scale), self._rows(batch.turned(), scale)
            return anchor_mean(one, mask, spread=batch.spread) + anchor_mean(other, mask, spread=batch.spread)

    def _rows(self, batch: Towers, scale: Tensor) -> Tensor:
        features = batch.features
        if features.reference_x is None or features.reference_y is None:
            raise ValueError("`reference_image` and `reference_text` are needed: they are what is distilled.")
        four = (features.x, features.y, features.reference_x, features.reference_y)
        divergence = tiled_soft_label_divergence if self.tiled else soft_label_divergence
        mask = batch.mask(hide_own=False)
        return divergence(*four, scale, 1.0 / self.teacher_tau, mask)  # pyright: ignore[reportCallIssue]
