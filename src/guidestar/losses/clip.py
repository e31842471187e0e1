"""CLIP's mini-batch contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.pairwise.anchors import anchor_mean, count_idle, inverse_temperature
from guidestar.pairwise.towers import towers
from guidestar.risks.base import check_positive
from guidestar.state import Counter


class CLIPLoss(Loss):
    r"""Cross-entropy of each image's text against the batch's texts, plus that of each text's image.

    $F = \frac1B \sum_i -\log \frac{e^{s_{ii}/\tau}}{\sum_j e^{s_{ij}/\tau}} + \frac1B \sum_i -\log
    \frac{e^{s_{ii}/\tau}}{\sum_j e^{s_{ji}/\tau}}$. Both directions are added, as in the book; open_clip and
    transformers halve the sum.

    Equations:
        6.39, 6.40. CLIP, OpenCLIP, InfoNCE of two towers.

    Args:
        tau: temperature, positive; used where `forward` gets none.
        tiled: never form the B x B matrix; memory of the order of B d.
        several_positives: pairs of the same group are further positives: $s_{ii}$ is their mean. Otherwise they are
            left out of the sums, as false negatives.

    Shapes:
        `image`, `text` `[B, d]` of unit norm, `groups` int64 `[B]`, `mask` bool `[B]`, `tau` a scalar tensor, such as
        `(-model.log_scale).exp()`, learnt by the caller's optimizer -> scalar. `index` is accepted for a common signature.

    State:
        none but the count of pairs without a negative.

    Value and gradient:
        F over all ranks' pairs; gradient by the features and by `tau` where it is given. Every rank must run backward.

    Raises:
        ValueError: shapes, `tau` not positive.
        TypeError: features that are not floating point.

    Source:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.

    Example:
        >>> import torch
        >>> CLIPLoss(tau=1.0)(torch.eye(2), torch.eye(2))
        tensor(0.6265)
    """

    def __init__(self, tau: float = 0.07, *, tiled: bool = False, several_positives: bool = False) -> None:
        super().__init__()
        self.tau = check_positive("tau", tau)
        self.tiled = tiled
        self.several_positives = several_positives
        self.empty = Counter()

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        index: Tensor | None = None,
        *,
        groups: Tensor | None = None,
        mask: Tensor | None = None,
        tau: Tensor | None = None,
    ) -> Tensor:
        """The loss of the batch."""
        learning = self.training and torch.is_grad_enabled()
        with torch.autocast(image.device.type, enabled=False):
            batch = towers(image, text, groups=groups, mask=mask, learning=learning)
            x = batch.own.x
            scale = inverse_temperature(tau, self.tau, x)
            # With several positives all of them stay in the denominators, as they do in a cross-entropy.
            shown = batch.without_groups() if self.several_positives else batch
            sides = shown.statistics(scale, scale, hide_own=False, tiled=self.tiled)
            total = x.new_zeros(())
            for side, positive in zip(
                sides, batch.positives(several=self.several_positives, own=sides[0].own), strict=True
            ):
                active = shown.active(side, hide_own=False)
                if learning:
                    count_idle(self.empty, active, len(x))
                total = total + anchor_mean(side.log_sum - scale * positive, active, spread=batch.spread)
            return total
