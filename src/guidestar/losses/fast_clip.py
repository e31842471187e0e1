"""FastCLIP: the four versions of global contrastive losses for CLIP, in their published settings."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.losses.drrho_clip import DRRhoCLIPLoss
from guidestar.risks.kl import KL, add_eps
from guidestar.risks.kl_ball import KLBall
from guidestar.schedules import Cosine


class _Unscaled(KLBall):
    """log(eps + u) without the factor tau and without rho: the objective that FastCLIP-v0 learns its temperature by."""

    def finish(
        self,
        inner: Tensor,
        expected: Tensor,
        tau: Tensor,
        index: Tensor | None = None,
        active: Tensor | None = None,
        *,
        eps: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        v = add_eps(self.tracker(inner, index, active=active), eps)
        with torch.no_grad():
            slope = -expected * torch.exp(inner - v) / tau
        return v, slope


class FastCLIPLoss(Loss):
    r"""FastCLIP v0 to v3: global contrastive losses of two towers with a cosine schedule of gamma.

    With $u_{i}$ the average of $\frac{1}{B-1} \sum_{j \ne i} e^{(s_{ij} - s_{ii})/\tau}$, per direction, both
    directions added:

    - v0: $\frac1n \sum_i \log(\varepsilon + u_i)$, one learnt temperature (the loss is not scaled by it);
    - v1: $\frac1n \sum_i \tau \log(\varepsilon + u_i)$, constant temperature (SogCLR);
    - v2: $\frac1n \sum_i \tau_i \log(\varepsilon + u_i) + \tau_i \rho$, one temperature a sample and direction (iSogCLR);
    - v3: $\frac1n \sum_i \tau \log(\varepsilon + u_i) + \tau\rho$, one learnt temperature.

    The rule that reduces the temperature's learning rate: at or below `lr_cut[0]`, `lr` is multiplied by `lr_cut[1]`.

    Equations:
        6.48 (v2), 6.49 (v3 with `joint_temperature=False`), 6.41 (v1); "Scheduler of gamma" in section 6.5. FastCLIP.

    Args:
        num_rows: n, the number of pairs.
        epochs: epochs of the training; gamma falls from 1 to `gamma_min` over the first half of them.
        version: 0, 1, 2 or 3.
        tau, tau_min: initial (v1: constant) and smallest temperature.
        rho: radius (v2, v3).
        gamma_min: the last gamma, in (0, 1].
        lr: step size of the temperature.
        lr_cut: threshold and factor of the reduction of `lr` (v3), or None.
        eps: $\varepsilon$.
        joint_temperature: v0 and v3: both directions share the temperature, as in the published method; False: one
        each. tiled: never form the B x B matrix.
        several_positives: pairs of the same group are further positives; otherwise they are only no negatives.

    Shapes:
        `image`, `text` `[B, d]` of unit norm, `index` int64 `[B]`, `groups` int64 `[B]`, `mask` bool `[B]` -> scalar.

    State:
        float32 `[n]` a direction ($\log u$), v2: and `[n]` a direction of temperatures; nothing a sample with
        `gamma_min=1`. Tell it the epoch with `set_epoch`.

    Value and gradient:
        the running estimate of the objective; gradient by the features. The temperature steps inside.

    Raises:
        ValueError: a setting is out of range, shapes, an index that is missing.
        TypeError: features that are not floating point.

    Source:
        Wei et al., "FastCLIP: A Suite of Optimization Techniques to Accelerate CLIP Training with Limited Resources",
        2024. The gradient of the temperature is the objective's; the official code halves one of its terms.

    Example:
        >>> import torch
        >>> loss = FastCLIPLoss(num_rows=10, epochs=4, tau=0.5, rho=2.0)
        >>> loss(torch.eye(3), torch.eye(3), torch.tensor([4, 7, 1]))
        tensor(0.)
    """

    def __init__(
        self,
        num_rows: int,
        epochs: int,
        *,
        version: Literal[0, 1, 2, 3] = 3,
        tau: float = 0.07,
        tau_min: float = 0.01,
        rho: float = 6.5,
        gamma_min: float = 0.2,
        lr: float = 1e-4,
        lr_cut: tuple[float, float] | None = (0.03, 1 / 3),
        eps: float = 1e-14,
        joint_temperature: bool = True,
        tiled: bool = False,
        several_positives: bool = False,
    ) -> None:
        super().__init__()
        if version not in (0, 1, 2, 3):
            raise ValueError(f"`version` must be 0, 1, 2 or 3. Found {version!r}.")
        gamma = Cosine(gamma_min, max(1, epochs // 2))
        if version == 1:
            risk: KL | KLBall = KL(tau, num_rows, gamma)
        elif version == 2:
            risk = KLBall(rho, tau=tau, tau_min=tau_min, per_row=True, num_rows=num_rows, gamma=gamma, lr=lr)
        elif version == 3:
            risk = KLBall(rho, tau=tau, tau_min=tau_min, num_rows=num_rows, gamma=gamma, lr=lr, lr_cut=lr_cut)
        else:
            risk = _Unscaled(0.0, tau=tau, tau_min=tau_min, num_rows=num_rows, gamma=gamma, lr=lr)
        self.loss = DRRhoCLIPLoss(
            risk,
            tiled=tiled,
            eps=eps,
            negatives_only=True,
            joint_temperature=joint_temperature and version in (0, 3),
            several_positives=several_positives,
        )

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        index: Tensor | None = None,
        *,
        groups: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The objective of the batch."""
        return self.loss(image, text, index, groups=groups, mask=mask)
