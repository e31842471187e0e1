"""SigLIP: a logistic loss for every pair of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.pairwise.anchors import anchor_mean, count_idle, inverse_temperature, scalar
from guidestar.pairwise.sigmoid import sigmoid_sums
from guidestar.pairwise.towers import towers
from guidestar.risks.base import check_positive
from guidestar.state import Counter


class SigLIPLoss(Loss):
    r"""Logistic loss of all pairs of images and texts: matching or not.

    $F = -\frac1B \sum_i \sum_j \log \sigma\big(z_{ij} (s_{ij}/\tau + b)\big)$ with $z_{ij} = 1$ for pairs that match
    and -1 for others.

    Equations:
        a peer of 6.39 and 6.40, not in the book. SigLIP.

    Args:
        tau, bias: temperature (positive) and b; used where `forward` gets none.
        tiled: never form the B x B matrix; memory of the order of B d.
        several_positives: pairs of the same group match each other too. Otherwise they are left out, as false
        negatives.

    Shapes:
        `image`, `text` `[B, d]` of unit norm, `groups` int64 `[B]`, `mask` bool `[B]`, `tau`, `bias` scalar tensors,
        learnt by the caller's optimizer -> scalar. `index` is accepted for a common signature.

    State:
        none but the count of pairs that are masked.

    Value and gradient:
        F over all ranks' pairs; gradient by the features, and by `tau` and `bias` where given. Every rank must run
        backward.

    Raises:
        ValueError: shapes, `tau` not positive.
        TypeError: features that are not floating point.

    Source:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023.

    Example:
        >>> SigLIPLoss(tau=1.0, bias=0.0)(torch.eye(2), torch.eye(2))
        tensor(1.0064)
    """

    def __init__(
        self, tau: float = 0.1, bias: float = -10.0, *, tiled: bool = False, several_positives: bool = False
    ) -> None:
        super().__init__()
        self.tau = check_positive("tau", tau)
        self.bias = float(bias)
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
        bias: Tensor | None = None,
    ) -> Tensor:
        """The loss of the batch."""
        learning = self.training and torch.is_grad_enabled()
        with torch.autocast(image.device.type, enabled=False):
            batch = towers(image, text, groups=groups, mask=mask, learning=learning)
            x = batch.own.x
            scale = inverse_temperature(tau, self.tau, x)
            shift = x.new_tensor(self.bias) if bias is None else scalar("bias", bias).to(x)
            shown = batch.mask(hide_own=False)
            sums = sigmoid_sums(batch.features, scale, shift, shown, matching=self.several_positives, tiled=self.tiled)
            if learning:
                count_idle(self.empty, mask, len(x))
            return anchor_mean(sums, mask, spread=batch.spread)
