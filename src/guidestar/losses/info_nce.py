"""InfoNCE of one tower with two views (SimCLR's NT-Xent)."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.pairwise.anchors import anchor_mean, count_idle, inverse_temperature
from guidestar.pairwise.views import views
from guidestar.risks.base import check_positive
from guidestar.state import Counter


class InfoNCELoss(Loss):
    r"""Cross-entropy of each augmented sample's other view against the mini-batch.

    $F = \frac{1}{2B} \sum_a -\log \frac{e^{s_{a+}/\tau}}{e^{s_{a+}/\tau} + \sum_{j \in B_a^-} e^{s_{aj}/\tau}}$ over
    the 2B anchors (both views of each sample); $B_a^-$ are both views of the batch's other samples.

    Equations:
        6.38. SimCLR, NT-Xent.

    Args:
        tau: temperature, positive.
        tiled: never form the 2B x 2B matrix; memory of the order of B d.
        several_positives: samples of the same group are further positives; $s_{a+}$ is then the mean over them.
            Otherwise they are only no negatives.

    Shapes:
        `first`, `second` `[B, d]` of unit norm, `groups` int64 `[B]`, `mask` bool `[B]`, `tau` a scalar tensor in
        place of the constant -> scalar. `index` is accepted for a common signature.

    State:
        none but the count of anchors without a negative.

    Value and gradient:
        F over all ranks' samples; gradient by the features and by `tau` where it is given. Every rank must run
        backward.

    Raises:
        ValueError: shapes, `tau` not positive.
        TypeError: features that are not floating point.

    Source:
        Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.

    Example:
        >>> import torch
        >>> InfoNCELoss(tau=1.0)(torch.eye(2), torch.eye(2))
        tensor(0.5514)
    """

    def __init__(self, tau: float = 0.5, *, tiled: bool = False, several_positives: bool = False) -> None:
        super().__init__()
        self.tau = check_positive("tau", tau)
        self.tiled = tiled
        self.several_positives = several_positives
        self.empty = Counter()

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        index: Tensor | None = None,
        *,
        groups: Tensor | None = None,
        mask: Tensor | None = None,
        tau: Tensor | None = None,
    ) -> Tensor:
        """The loss of the batch."""
        learning = self.training and torch.is_grad_enabled()
        with torch.autocast(first.device.type, enabled=False):
            batch = views(first, second, index, groups=groups, mask=mask, learning=learning)
            scale = inverse_temperature(tau, self.tau, batch.features.x)
            side = batch.statistics(scale, tiled=self.tiled)
            active = batch.active(side)
            if learning:
                count_idle(self.empty, active, len(first))
            positive = scale * batch.positives(several=self.several_positives)
            return anchor_mean(torch.logaddexp(side.log_sum, positive) - positive, active, spread=batch.spread)
