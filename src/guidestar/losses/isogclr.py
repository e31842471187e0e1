"""iSogCLR: the robust global contrastive loss, with a learnt temperature for each sample."""

from __future__ import annotations

from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.losses.drrho_clip import DRRhoCLIPLoss
from guidestar.losses.drrho_contrastive import DRRhoContrastiveLoss
from guidestar.risks.kl_ball import KLBall
from guidestar.schedules import Schedule


class ISogCLRLoss(Loss):
    r"""iSogCLR: the global contrastive loss over a KL ball, which gives every sample a temperature of its own.

    $F = \frac1n \sum_i \tau_i \log(\varepsilon + u_i) + \tau_i \rho$ with $\tau_i \ge \tau_0$, and $u_i$ the average
    over the steps (rate gamma) of $\frac{1}{|B_i^-|} \sum_{j \in B_i^-} e^{(s_{ij} - s_{i+})/\tau_i}$. $\tau_i$
    steps inside the loss by $-\frac{\hat g_i}{\varepsilon + u_i} E_i + \log(\varepsilon + u_i) + \rho$, E the mean
    exponent under the batch's weights (Alg. 35, step 7; the logarithm has $\varepsilon$ too, so that the step is the
    gradient of F).

    It is `DRRhoContrastiveLoss(KLBall(rho, per_row=True, num_rows=n, ...))`, for two towers `DRRhoCLIPLoss`.

    Equations:
        6.44, 6.45, 6.46, 6.47, 6.48; Alg. 35. iSogCLR, FastCLIP-v2.

    Args:
        num_rows: n, the number of samples.
        rho: radius of the KL ball, at least 0.
        tau, tau_min: initial and smallest temperature.
        gamma: averaging rate in (0, 1] or a schedule.
        lr, momentum: of the temperatures' steps.
        eps: $\varepsilon$ of Alg. 35.
        two_towers: image and text (True), with two temperatures a pair, or two views of each sample (False).
        tiled: never form the matrix of similarities.
        several_positives: samples of the same group are further positives; otherwise they are only no negatives.

    Shapes:
        `first`, `second` `[B, d]` of unit norm, `index` int64 `[B]`, `groups` int64 `[B]`, `mask` bool `[B]` -> scalar.

    State:
        float32 `[n]` temperatures, and with gamma < 1 `[n]` of $\log u$, velocities with momentum; for two towers two
        of each.

    Value and gradient:
        the running estimate of F at the temperatures before their step, and its gradient by the features.

    Raises:
        ValueError: a setting is out of range, shapes, an index that is missing.
        TypeError: features that are not floating point.

    Source:
        Qiu et al., "Not All Semantics are Created Equal: Contrastive Self-supervised Learning with Automatic
        Temperature Individualization", ICML 2023.

    Example:
        >>> import torch
        >>> loss = ISogCLRLoss(num_rows=10, rho=0.5, tau=0.5, gamma=0.5, lr=0.125)
        >>> loss(torch.eye(3), torch.eye(3), torch.tensor([4, 7, 1]))
        tensor(-0.7500)
        >>> loss.metrics()["tau"]
        0.4812...
    """

    def __init__(
        self,
        num_rows: int,
        rho: float,
        *,
        tau: float = 0.1,
        tau_min: float = 0.01,
        gamma: float | Schedule = 0.9,
        lr: float = 1e-3,
        momentum: float = 0.0,
        eps: float = 0.0,
        two_towers: bool = False,
        tiled: bool = False,
        several_positives: bool = False,
    ) -> None:
        super().__init__()
        risk = KLBall(
            rho, tau=tau, tau_min=tau_min, per_row=True, num_rows=num_rows, gamma=gamma, lr=lr, momentum=momentum
        )
        if two_towers:
            self.loss: Loss = DRRhoCLIPLoss(
                risk, tiled=tiled, eps=eps, negatives_only=True, several_positives=several_positives
            )
        else:
            self.loss = DRRhoContrastiveLoss(risk, tiled=tiled, eps=eps, several_positives=several_positives)

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
