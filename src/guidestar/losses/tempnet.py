"""The robust global contrastive loss with temperatures that networks predict."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.losses.drrho_clip import DRRhoCLIPLoss
from guidestar.networks.temp_net import TempNet
from guidestar.risks.kl_ball import KLBall
from guidestar.schedules import Schedule


class TempNetLoss(Loss):
    r"""Two towers with a temperature network each, on top of the (detached) features.

    $F = \frac1n \sum_i \tau(w'_1; x_i) \log(\varepsilon + u_{i,1}) + \tau(w'_1; x_i) \rho + \frac1n \sum_i
    \tau(w'_2; t_i) \log(\varepsilon + u_{i,2}) + \tau(w'_2; t_i) \rho$, u as in `DRRhoCLIPLoss` with these temperatures, and
    with the reference's features where they are given.

    Equations:
        6.50; with a reference 6.121.

    Args:
        image_net, text_net: networks from features `[B, d]` to temperatures `[B]`, such as
            `guidestar.networks.TempNet`; their parameters belong to this loss: pass `loss.parameters()` to the
            optimizer as well.
        rho: radius of the KL ball, at least 0.
        num_rows, gamma: memory of the averages, as for `KLBall`.
        eps, negatives_only, tiled, several_positives: as for `DRRhoCLIPLoss`.

    Shapes:
        `image`, `text` `[B, d]` of unit norm, `index` int64 `[B]`, `reference_image`, `reference_text` `[B, d']`,
        `groups` int64 `[B]`, `mask` bool `[B]` -> scalar.

    State:
        float32 `[n]` a direction with gamma < 1; one unused temperature of 4 bytes a direction.

    Value and gradient:
        the running estimate of F; gradient by the features and by the networks' parameters, exact for both.

    Raises:
        ValueError, TypeError: as `DRRhoCLIPLoss`.

    Source:
        Qiu et al., "To Cool or not to Cool? Temperature Network Meets Large Foundation Models via DRO", ICML 2024.

    Example:
        >>> import torch
        >>> loss = TempNetLoss(TempNet(3, tau=0.1), TempNet(3, tau=0.1), rho=2.0)
        >>> round(float(loss(torch.eye(3), torch.eye(3)).detach()), 4)
        0.1803
    """

    def __init__(
        self,
        image_net: TempNet,
        text_net: TempNet,
        rho: float,
        *,
        num_rows: int = 1,
        gamma: float | Schedule = 1.0,
        eps: float | None = None,
        negatives_only: bool = False,
        tiled: bool = False,
        several_positives: bool = False,
    ) -> None:
        super().__init__()
        self.image_net = image_net
        self.text_net = text_net
        self.loss = DRRhoCLIPLoss(
            KLBall(rho, num_rows=num_rows, gamma=gamma),
            tiled=tiled,
            eps=eps,
            negatives_only=negatives_only,
            several_positives=several_positives,
        )

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        index: Tensor | None = None,
        *,
        reference_image: Tensor | None = None,
        reference_text: Tensor | None = None,
        groups: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The objective of the batch."""
        hides = mask is not None and mask.dtype == torch.bool and mask.shape == image.shape[:1] == text.shape[:1]
        shown = mask.to(image.device).unsqueeze(1) if mask is not None and hides else None
        # A NaN that is masked must not come back through the networks either.
        seen = [each if shown is None else torch.where(shown, each, 0.0) for each in (image, text)]
        return self.loss(
            image,
            text,
            index,
            reference_image=reference_image,
            reference_text=reference_text,
            groups=groups,
            mask=mask,
            image_tau=self.image_net(seen[0]),
            text_tau=self.text_net(seen[1]),
        )

    def metrics(self) -> dict[str, float]:
        """`empty`; the temperatures are the networks', not the loss's."""
        return {name: value for name, value in super().metrics().items() if not name.endswith("_tau")}
