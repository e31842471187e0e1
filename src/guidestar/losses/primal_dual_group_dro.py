"""Group DRO as a saddle point with weights of the groups: stochastic primal-dual."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.group_mean import GroupMean
from guidestar.losses.base import Loss
from guidestar.losses.group_dro import over_reference
from guidestar.losses.group_weights import GroupWeights
from guidestar.risks.base import check_positive, check_share
from guidestar.state import Counter


class PrimalDualGroupDROLoss(Loss):
    r"""The worst share of the groups, by an adversary that moves weights of the groups by mirror ascent.

    $\min_w \max_{p \in \Delta,\, K p_i \le 1/\alpha} \sum_{i=1}^K p_i L_i(w)$

    - $\alpha$ = `alpha`: the worst share of the groups that counts; 1/K is the worst group alone (no bound on p).
    - $p \leftarrow \arg\min_q \mathrm{KL}(q \,\|\, p \odot e^{\eta h})$ within the bounds, exactly, with $\eta$ = `lr`.
    - $h_i = \frac{K}{B_1} \hat L_i$ for the $B_1$ groups in the batch, 0 for the others: without bias if every group is as
      likely to be in a batch (`guidestar.samplers.GroupSampler`). The same factor stands in the value.

    Its variance grows with the number of groups that a batch leaves out, which `SONEXLoss` avoids by remembering them.

    Equations:
        6.18.

    Args:
        num_groups: number of groups K.
        alpha: the worst share of the groups that counts, in (0, 1]; below 1/K it acts as 1/K.
        lr: step size of p, in units of 1/loss.

    Shapes:
        `losses`, `reference_losses` `[m]`, `group` int64 `[m]`, `mask` bool `[m]` -> scalar.

    State:
        `group_weights.memory.values` float32 `[num_groups]`: log p up to a constant, at first 0.

    Value and gradient:
        $\frac{K}{B_1} \sum_{i \in B} p_i \hat L_i$ with the p before its step (both players move at once).

    Raises:
        ValueError: a setting is out of range, shapes that do not fit.
        TypeError: losses that are not floating point.
        IndexError: a group number on the CPU is out of range.

    Source:
        Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020, with the bound of 6.18; the
        peer of Fig. 6.6.

    Example:
        >>> import torch
        >>> loss = PrimalDualGroupDROLoss(num_groups=3, alpha=0.5, lr=0.1)
        >>> loss(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 1, 2]))
        tensor(3.0000)
        >>> loss.group_weights.values()
        tensor([0.2664, 0.2944, 0.4392])
    """

    def __init__(self, num_groups: int, alpha: float, lr: float = 0.01) -> None:
        super().__init__()
        self.alpha = check_share("alpha", alpha)
        self.lr = check_positive("lr", lr)
        self.groups = GroupMean(num_groups, gamma=1.0)
        self.group_weights = GroupWeights(num_groups, cap=1.0 / (self.alpha * num_groups))
        self.empty = Counter()

    def forward(
        self,
        losses: Tensor,
        group: Tensor,
        *,
        reference_losses: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The estimate of the weighted loss."""
        means, present = self.groups.in_batch(over_reference(losses, reference_losses), group, mask)
        means = means * (self.groups.num_groups / present.sum().clamp(min=1).to(means.dtype))
        p = self.group_weights.values().to(means.dtype)
        if self.training and torch.is_grad_enabled():
            self.empty.add(~present.any())
            self.group_weights.move(self.lr * means.detach(), present)
        return (p * means).sum()  # Eq. 6.18

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, lr={self.lr}"
