"""The robust global contrastive loss of one tower with two views, steered by a reference's features when given."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.pairwise.anchors import Entropic, anchor_inner, anchor_mean, anchor_risk, count_idle, temperature
from guidestar.pairwise.views import views
from guidestar.risks.base import Risk, check_risk
from guidestar.risks.kl import KL
from guidestar.risks.kl_ball import KLBall
from guidestar.state import Counter


class DRRhoContrastiveLoss(Loss):
    r"""A risk over the negatives of each augmented sample, of losses relative to a reference's.

    $F = \frac{1}{2B} \sum_{a} \mathrm{risk}_{j \in S_a^-}\big((s_{aj} - s_{a+}) - (r_{aj} - r_{a+})\big)$ over the
    2B anchors a (both views of each sample); $S_a^-$ are both views of the other samples, + the other view of the
    anchor's own.

    With `KL` and `KLBall`, the risk is $\tau \log(\varepsilon + u_i)\,(+\,\tau\rho)$, where $u_i$ averages
    $\frac{1}{|S^-|} \sum_j e^{(s_{aj} - s_{a+})/\tau}$ over the steps and over both views of sample i.

    Equations:
        6.41, 6.42, 6.44 to 6.47; 6.121 for one tower. `SogCLRLoss` and `ISogCLRLoss` are its published settings.

    Args:
        risk: `KL` or `KLBall`, over the negatives of each anchor; with gamma < 1, `num_rows=n`.
        tiled: never form the 2B x 2B matrix; memory of the order of B d.
        eps: $\varepsilon$ of Alg. 34, at least 0.
        several_positives: samples of the same group are further positives; otherwise they are only no negatives.
        shifted: whether u averages $e^{(s_{aj} - s_{a+})/\tau}$ (Alg. 35) or $e^{s_{aj}/\tau}$ (Alg. 34).

    Shapes:
        `first`, `second` `[B, d]` of unit norm, `index` int64 `[B]`, `reference_first`, `reference_second` `[B, d']`,
        `groups` int64 `[B]`, `mask` bool `[B]` -> scalar.

    State:
        that of the risk: float32 `[n]` with gamma < 1, nothing at gamma = 1; the temperatures of `KLBall`.

    Value and gradient:
        the running estimate of F over all ranks' samples and its gradient, as for `DRRhoCLIPLoss`. Anchors without a
        negative give 0, keep the state and count in `metrics()["empty"]`.

    Raises:
        ValueError: shapes, one reference feature without the other, an index that is missing, `eps` out of range.
        TypeError: a risk of another class, features that are not floating point.

    Source:
        Yuan et al., "Provable Stochastic Optimization for Global Contrastive Learning: Small Batch Does Not Harm
        Performance", ICML 2022; the reference as in Wei et al., ICML 2025.

    Example:
        >>> import torch
        >>> from guidestar import KL
        >>> DRRhoContrastiveLoss(KL(tau=0.5))(torch.eye(3), torch.eye(3))
        tensor(-1.)
    """

    def __init__(
        self,
        risk: Risk,
        *,
        tiled: bool = False,
        eps: float = 0.0,
        several_positives: bool = False,
        shifted: bool = True,
    ) -> None:
        super().__init__()
        check_risk(risk)
        if not isinstance(risk, KL | KLBall):
            raise TypeError(f"`risk` must be a KL or KLBall risk. Found {type(risk).__name__}.")
        if not 0 <= eps < float("inf"):
            raise ValueError(f"`eps` must be at least 0 and finite. Found {eps}.")
        self.risk: Entropic = risk
        self.tiled = tiled
        self.eps = float(eps)
        self.several_positives = several_positives
        self.shifted = shifted
        self.empty = Counter()

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        index: Tensor | None = None,
        *,
        reference_first: Tensor | None = None,
        reference_second: Tensor | None = None,
        groups: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The objective of the batch."""
        learning = self.training and torch.is_grad_enabled()
        with torch.autocast(first.device.type, enabled=False):
            batch = views(
                first,
                second,
                index,
                reference_first=reference_first,
                reference_second=reference_second,
                groups=groups,
                mask=mask,
                learning=learning,
            )
            risk, rows = self.risk, batch.index
            tau = temperature(risk, None, rows, batch.features.x)
            side = batch.statistics(1.0 / tau, tiled=self.tiled)
            active = batch.active(side)
            positive = batch.positives(several=self.several_positives)
            inner, expected = anchor_inner(side, positive, 1.0 / tau, shifted=self.shifted, norm=side.count)
            value, slope = anchor_risk(risk, inner, expected, tau, rows, active, eps=self.eps, predicted=False)
            if learning:
                count_idle(self.empty, active, len(first))
                if slope is not None and isinstance(risk, KLBall):
                    risk.dual.move(slope, risk.dual_index(rows), active)
            return anchor_mean(value if self.shifted else value - positive, active, spread=batch.spread)
