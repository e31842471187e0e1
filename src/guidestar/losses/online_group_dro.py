"""The online group DRO of Sagawa et al.: exponentiated-gradient weights of the groups, with a size adjustment."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guidestar.group_mean import GroupMean
from guidestar.losses.base import Loss
from guidestar.losses.group_dro import over_reference
from guidestar.losses.group_weights import GroupWeights
from guidestar.risks.base import check_positive
from guidestar.state import Counter


class OnlineGroupDROLoss(Loss):
    r"""The worst group's loss, by weights that grow with the groups' losses.

    $q_g \propto q_g\, e^{\eta (\hat L_g + C / \sqrt{n_g})}$ for the groups in the batch, $\; F = \sum_g q_g \hat L_g$

    - $\eta$ = `lr`; $C$ = `adjustment`, which adds to the loss of a group the more, the smaller the group; $n_g$ =
      `counts`, the groups' sizes in the training set.
    - The factor of a group that is not in the batch is 1; then all q are divided by their sum.

    Equations:
        6.18 with alpha = 1/K.

    Args:
        num_groups: number of groups K.
        lr: step size of q, in units of 1/loss.
        adjustment: C, at least 0.
        counts: number of training samples of each group, needed with an adjustment.

    Shapes:
        `losses`, `reference_losses` `[m]`, `group` int64 `[m]`, `mask` bool `[m]` -> scalar.

    State:
        `group_weights.memory.values` float32 `[num_groups]`: log q, at first 0 (up to a constant).

    Value and gradient:
        the sum over the groups in the batch of $q_g \hat L_g$, with the new q and without the adjustment. A batch that
        lacks groups lacks their part: `PrimalDualGroupDROLoss` estimates the whole.

    Raises:
        ValueError: a setting is out of range, counts that do not fit the groups, shapes that do not fit.
        TypeError: losses that are not floating point.
        IndexError: a group number on the CPU is out of range.

    Source:
        Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020. The official code adds the
        adjustment in place, so that it is also in the loss; only if those of all groups are positive; and to groups that
        are not in the batch. Here it acts on q alone, and on the groups that are there.

    Example:
        >>> import torch
        >>> loss = OnlineGroupDROLoss(num_groups=3, lr=1.0)
        >>> loss(torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
        tensor(1.5752)
        >>> loss.group_weights.values()
        tensor([0.2447, 0.6652, 0.0900])
    """

    def __init__(
        self,
        num_groups: int,
        *,
        lr: float = 0.01,
        adjustment: float = 0.0,
        counts: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        self.lr = check_positive("lr", lr)
        if not 0 <= adjustment < float("inf"):
            raise ValueError(f"`adjustment` must be at least 0 (0 is none) and finite. Found {adjustment}.")
        self.adjustment = float(adjustment)
        self.groups = GroupMean(num_groups, gamma=1.0)
        self.group_weights = GroupWeights(num_groups)
        self.empty = Counter()
        self._extra = _per_group(num_groups, self.adjustment, counts)

    def forward(
        self,
        losses: Tensor,
        group: Tensor,
        *,
        reference_losses: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The weighted loss of the groups in the batch."""
        means, present = self.groups.in_batch(over_reference(losses, reference_losses), group, mask)
        if self.training and torch.is_grad_enabled():
            self.empty.add(~present.any())
            extra = 0.0 if self._extra is None else self._extra.to(means)
            q = self.group_weights.move(self.lr * (means.detach() + extra), present)
        else:
            q = self.group_weights.values().to(means.dtype)
        return (q * means).sum()  # Eq. 6.18

    def extra_repr(self) -> str:
        return f"lr={self.lr}, adjustment={self.adjustment}"


def _per_group(num_groups: int, adjustment: float, counts: Sequence[float] | Tensor | None) -> Tensor | None:
    """C / sqrt(n_g) of each group."""
    if adjustment == 0.0:
        return None
    if counts is None:
        raise ValueError(
            "`counts` is needed with `adjustment`: the number of training samples of each group. Found None."
        )
    sizes = torch.as_tensor(counts, dtype=torch.float64).detach().cpu()
    if sizes.shape != (num_groups,) or not bool((sizes > 0).all()):
        raise ValueError(
            f"`counts` must have one positive number for each of the {num_groups} groups. Found {sizes.tolist()}. Leave "
            "out groups without samples."
        )
    return adjustment / sizes.sqrt()
