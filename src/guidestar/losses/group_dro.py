"""Group DRO: a risk over the groups' mean losses instead of over single losses."""

from __future__ import annotations

from torch import Tensor

from guidestar.group_mean import GroupMean
from guidestar.losses.base import Loss
from guidestar.risks.base import Risk, check_risk
from guidestar.risks.excess import excess


class GroupDROLoss(Loss):
    r"""Any risk over the tracked mean losses of groups (domains, classes times attributes, users).

    $F(w) = \mathrm{risk}_{g}\, L_g(w), \qquad L_g(w) = \frac{1}{n_g} \sum_{j \in g} \ell_j(w)$

    With `reference_losses` each loss is replaced by its excess over the reference model's, so that a group weighs as much
    as there is left to learn in it: domain weights as in DoReMi, for one run of training. (DoReMi also cuts each excess
    at 0: for that, pass `(losses - reference_losses).clamp(min=0)` as the losses.)

    - risk = `risk`: `CVaR` gives 6.17 (the mean of the worst share of the groups), `TopK` the same with the threshold
      found exactly among the groups that are known, `KL` a soft maximum.
    - $L_g$: the averages of `groups`. Those of groups that are not in the batch are remembered.

    The risk is taken over all groups that are known. `SONEXLoss` instead takes the mean over the groups of the batch: the
    two differ in what is averaged, and for the gradient by the factor (groups in the batch) / (groups known).

    Equations:
        6.17, 6.18 (its value at the best p is that of 6.17 divided by alpha); with a reference 6.114, 6.117.

    Args:
        risk: the risk over the groups, without rows of its own (`num_rows=1`).
        groups: the running means of the groups' losses.

    Shapes:
        `losses` `[m]`, `group` int64 `[m]`, `reference_losses` `[m]`, `mask` bool `[m]` -> scalar.

    State:
        that of the risk, and `groups.tracker.memory.values` float32 `[num_groups]`. All ranks' losses make one batch.

    Value and gradient:
        the risk of the running means; gradient through the groups in the batch.

    Raises:
        ValueError: shapes do not fit.
        TypeError: `risk` or `groups` is something else, losses that are not floating point.
        IndexError: a group number on the CPU is out of range.

    Source:
        Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020; with references: Xie et al.,
        "DoReMi: Optimizing Data Mixtures Speeds Up Language Model Pretraining", NeurIPS 2023.

    Example:
        >>> import torch
        >>> from guidestar import GroupMean, TopK
        >>> loss = GroupDROLoss(TopK(0.5), GroupMean(4, gamma=0.5))
        >>> loss(torch.tensor([1.0, 3.0, 5.0, 0.5]), torch.tensor([0, 0, 2, 3]))
        tensor(4.)
    """

    def __init__(self, risk: Risk, groups: GroupMean) -> None:
        super().__init__()
        if not isinstance(groups, GroupMean):
            raise TypeError(f"`groups` must be a GroupMean(num_groups). Found {type(groups).__name__}.")
        self.risk = check_risk(risk)
        self.groups = groups

    def forward(
        self,
        losses: Tensor,
        group: Tensor,
        *,
        reference_losses: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The risk of the groups."""
        values, known = self.groups(over_reference(losses, reference_losses), group, mask)
        # One row of K values that every rank holds; a set without leading dimensions would be spread over the ranks.
        return self.risk(values.unsqueeze(0), mask=known.unsqueeze(0)).squeeze(0)  # Eq. 6.17 with CVaR


def over_reference(losses: Tensor, reference_losses: Tensor | None) -> Tensor:
    """`losses`, less `reference_losses` where there are any."""
    return losses if reference_losses is None else excess(losses, reference_losses)
