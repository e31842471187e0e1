"""SONX: group DRO by CVaR with the hinge itself."""

from __future__ import annotations

from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.losses.sonex import SONEXLoss
from guidestar.schedules import Schedule


class SONXLoss(Loss):
    r"""The worst groups' mean loss without smoothing: `SONEXLoss` with `smoothing=0`.

    $F(w, \nu) = \frac1K \sum_{i=1}^K [L_i(w) - \nu]_+ + \alpha\nu$

    The analysis is one of plain SGD on subgradients: give the model `torch.optim.SGD` without momentum. For momentum or
    Adam use `SONEXLoss`.

    - $L_i$: the mean loss of group i, estimated by the running average with rate `gamma` (v1), and with `previous_losses`
      by that of MSVR (v2).
    - $\alpha$ = `alpha`, $\nu$: as in `SONEXLoss`, with the same mean over the groups of the batch.

    Equations:
        6.17; Alg. 16 of the book.

    Args:
        num_groups: number of groups K.
        alpha: the worst share that counts, in (0, 1].
        gamma: averaging rate of the groups' losses, or a schedule.
        lr: step size of nu.
        gamma_prime: rate of the MSVR correction; None is 1 - gamma.

    Shapes:
        `losses`, `reference_losses`, `previous_losses` `[m]`, `group` int64 `[m]`, `mask` bool `[m]` -> scalar.

    State:
        that of `SONEXLoss`.

    Value and gradient:
        $\frac{1}{B_1} \sum_{i \in B} [u_i - \nu]_+ + \alpha\nu$ at the nu before its step; a subgradient, 0 at the kink.

    Raises:
        ValueError, TypeError, IndexError: as `SONEXLoss`.

    Source:
        Hu et al., "Non-Smooth Weakly-Convex Finite-sum Coupled Compositional Optimization", NeurIPS 2023.

    Example:
        >>> import torch
        >>> loss = SONXLoss(num_groups=4, alpha=0.5)
        >>> loss(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]))
        tensor(3.5000)
    """

    def __init__(
        self,
        num_groups: int,
        alpha: float,
        *,
        gamma: float | Schedule = 0.9,
        lr: float = 0.01,
        gamma_prime: float | None = None,
    ) -> None:
        super().__init__()
        self.loss = SONEXLoss(num_groups, alpha, gamma=gamma, smoothing=0.0, lr=lr, gamma_prime=gamma_prime)

    def forward(
        self,
        losses: Tensor,
        group: Tensor,
        *,
        reference_losses: Tensor | None = None,
        previous_losses: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The objective of the groups in the batch."""
        return self.loss(losses, group, reference_losses=reference_losses, previous_losses=previous_losses, mask=mask)
