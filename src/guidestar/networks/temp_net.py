"""TempNet: a small network that predicts a temperature for each sample from its features."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TempNet(nn.Module):
    r"""A temperature for each sample: $\tau(x) = \tau_0 + (\tau_1 - \tau_0)\, \sigma(\mathrm{MLP}(x))$.

    Equations:
        6.50 ($\tau(w'; \cdot)$).

    Args:
        width: width of the features.
        hidden: width of the hidden layer.
        tau_min, tau_max: $\tau_0$ and $\tau_1$, positive.
        tau: the temperature at the start, for every sample, between the two.

    Shapes:
        features `[B, width]` -> `[B]`, float32 at least. The features are detached: the network sits on top of frozen
        features, and its gradient does not reach the encoder.

    Raises:
        ValueError: the temperatures are not in order.

    Source:
        Qiu et al., "To Cool or not to Cool? Temperature Network Meets Large Foundation Models via DRO", ICML 2024.

    Example:
        >>> net = TempNet(8, tau=0.05)
        >>> net(torch.zeros(2, 8))
        tensor([0.0500, 0.0500], grad_fn=<AddBackward0>)
    """

    def __init__(
        self, width: int, *, hidden: int = 256, tau_min: float = 0.005, tau_max: float = 0.2, tau: float = 0.05
    ) -> None:
        super().__init__()
        if not 0 < tau_min < tau < tau_max:
            raise ValueError(
                f"temperatures must be in order, 0 < `tau_min` < `tau` < `tau_max`. Found {tau_min}, {tau}, {tau_max}."
            )
        self.tau_min, self.tau_max = tau_min, tau_max
        self.first, self.last = nn.Linear(width, hidden), nn.Linear(hidden, 1)
        share = (tau - tau_min) / (tau_max - tau_min)
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, float(torch.logit(torch.tensor(share, dtype=torch.float64))))

    def forward(self, features: Tensor) -> Tensor:
        """The temperature of each row of `features`."""
        with torch.autocast(features.device.type, enabled=False):
            hidden = torch.relu(self.first(features.detach().to(self.first.weight.dtype)))
            share = torch.sigmoid(self.last(hidden).squeeze(-1))
            return self.tau_min + (self.tau_max - self.tau_min) * share
