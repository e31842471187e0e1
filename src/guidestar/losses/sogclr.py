"""SogCLR: the global contrastive loss with a constant temperature and a moving average a sample."""

from __future__ import annotations

from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.losses.drrho_clip import DRRhoCLIPLoss
from guidestar.losses.drrho_contrastive import DRRhoContrastiveLoss
from guidestar.risks.kl import KL
from guidestar.schedules import Schedule


class SogCLRLoss(Loss):
    r"""The global contrastive loss, which small batches estimate without bias in the long run.

    $F = \frac1n \sum_i -s_{i+} + \tau \log(\varepsilon + u_i)$, with $u_i$ the average over the steps (rate gamma) of
    $\frac{1}{|B_i^-|} \sum_{j \in B_i^-} e^{s_{ij}/\tau}$. One tower with two views of each sample, or
    two towers, one average a direction, both directions added. Both views of a sample have one average, to which each
    contributes half (Fig. 6.21 remembers the same, but weights a view by its own estimate).

    It is `DRRhoContrastiveLoss(KL(tau, num_rows, gamma), shifted=False)`, for two towers `DRRhoCLIPLoss` with
    `negatives_only=True`: use these for a reference.

    Equations:
        6.41, 6.42, 6.43; Alg. 34. SogCLR, FastCLIP-v1.

    Args:
        num_rows: n, the number of samples.
        tau: temperature, positive.
        gamma: averaging rate in (0, 1] or a schedule; 1 keeps nothing (SimCLR's gradient without the positive in the
            denominator).
        eps: $\varepsilon$ of Alg. 34.
        two_towers: image and text (True), or two views of each sample (False).
        tiled: never form the matrix of similarities.
        several_positives: samples of the same group are further positives; otherwise they are only no negatives.

    Shapes:
        `first`, `second` `[B, d]` of unit norm, `index` int64 `[B]`, `groups` int64 `[B]`, `mask` bool `[B]` -> scalar.

    State:
        float32 `[n]` (two towers: two of them): $\log u$; nothing at gamma = 1.

    Value and gradient:
        the running estimate of F and the vanilla gradient estimator of Alg. 34.

    Raises:
        ValueError: a setting is out of range, shapes, an index that is missing.
        TypeError: features that are not floating point.

    Source:
        Yuan et al., "Provable Stochastic Optimization for Global Contrastive Learning: Small Batch Does Not Harm
        Performance", ICML 2022.

    Example:
        >>> import torch
        >>> loss = SogCLRLoss(num_rows=10, tau=0.5, gamma=0.5)
        >>> loss(torch.eye(3), torch.eye(3), torch.tensor([4, 7, 1]))
        tensor(-1.)
    """

    def __init__(
        self,
        num_rows: int,
        tau: float = 0.1,
        gamma: float | Schedule = 0.9,
        *,
        eps: float = 0.0,
        two_towers: bool = False,
        tiled: bool = False,
        several_positives: bool = False,
    ) -> None:
        super().__init__()
        risk = KL(tau, num_rows, gamma)
        if two_towers:
            self.loss: Loss = DRRhoCLIPLoss(
                risk,
                tiled=tiled,
                eps=eps,
                negatives_only=True,
                several_positives=several_positives,
                shifted=False,
            )
        else:
            self.loss = DRRhoContrastiveLoss(
                risk, tiled=tiled, eps=eps, several_positives=several_positives, shifted=False
            )

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        index: Tensor | None = None,
        *,
        groups: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The objective of the batch."""
        return self.loss(first, second, index, groups=groups, mask=mask)
