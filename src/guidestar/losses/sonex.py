"""SONEX: group DRO by CVaR, with a smoothed hinge over the tracked means of the groups."""

from __future__ import annotations

from torch import Tensor

from guidestar.group_mean import GroupMean
from guidestar.losses.base import Loss
from guidestar.losses.group_dro import over_reference
from guidestar.risks.base import check_positive, check_share
from guidestar.risks.cvar import CVaR
from guidestar.schedules import Schedule


class SONEXLoss(Loss):
    r"""The worst groups' mean loss, where a batch holds only a few of many groups.

    $F(w, \nu) = \frac1K \sum_{i=1}^K f_\varepsilon(L_i(w) - \nu) + \alpha\nu$

    - $L_i$: the mean loss of group i, estimated by the running average $u_i$ with rate `gamma`.
    - $f_\varepsilon$: the hinge with `smoothing` $\varepsilon$, in units of the loss; 0 is the hinge itself (SONX).
    - $\alpha$ = `alpha` = k/K: the worst share of the groups that counts.
    - $\nu$: the threshold, 0 at the start. It moves inside the forward by `lr` times
      $\alpha - \frac{1}{B_1} \sum_{i \in B} f_\varepsilon'(u_i - \nu)$.

    **What is averaged.** As in Alg. 25, the groups in the batch: their mean estimates the mean over all K without bias if
    every group is as likely to be in a batch (`guidestar.samplers.GroupSampler`). With batches drawn from the samples
    instead, large groups are there more often and count more. `GroupDROLoss(CVaR(alpha, smoothing=...), groups)` takes the
    mean over all groups that are known, also in nu's step: less noise, older values. Its gradient by the model is this one
    times $B_1 / (K \alpha)$.

    With `previous_losses`, the losses of the same samples at the weights before the last step, the averages get the
    correction of MSVR (SONEX-v2; needs a second forward pass a step). With `gamma` = s/(1+s) and `gamma_prime` =
    $\gamma\theta$ that is ALEXR-v1.

    Equations:
        6.17, 6.19; Alg. 25, Alg. 17 of the book.

    Args:
        num_groups: number of groups K.
        alpha: the worst share that counts, in (0, 1].
        gamma: averaging rate of the groups' losses, or a schedule. 1 keeps nothing: the batch means alone.
        smoothing: $\varepsilon$, at least 0.
        lr: step size of nu.
        gamma_prime: $\gamma'$ of the correction; None is 1 - gamma.

    Shapes:
        `losses`, `reference_losses`, `previous_losses` `[m]`, `group` int64 `[m]`, `mask` bool `[m]` -> scalar.

    State:
        `groups.tracker.memory.values` float32 `[num_groups]` (none with gamma = 1), `risk.dual.memory.values` float32
        `[1]` (nu). All ranks' losses make one batch.

    Value and gradient:
        $\frac{1}{B_1} \sum_{i \in B} f_\varepsilon(u_i - \nu) + \alpha\nu$ at the nu before its step, and the gradient of
        step 10. Divided by alpha, the value estimates CVaR of the groups' losses (less the smoothing).

    Raises:
        ValueError: a setting is out of range, shapes that do not fit.
        TypeError: losses that are not floating point.
        IndexError: a group number on the CPU is out of range.

    Source:
        Chen et al., "Stochastic Momentum Methods for Non-smooth Non-Convex Finite-Sum Coupled Compositional
        Optimization", NeurIPS 2025. Alg. 25 of the book prints $z_{t,w}$ for the gradient of nu in its step 9. In the
        published code the correction of MSVR is always 0, because both estimates are the same tensor; here it is not.

    Example:
        >>> import torch
        >>> loss = SONEXLoss(num_groups=4, alpha=0.5, gamma=0.5, smoothing=0.5, lr=0.1)
        >>> loss(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]))
        tensor(3.2500)
    """

    def __init__(
        self,
        num_groups: int,
        alpha: float,
        *,
        gamma: float | Schedule = 0.9,
        smoothing: float = 0.1,
        lr: float = 0.01,
        gamma_prime: float | None = None,
    ) -> None:
        super().__init__()
        self.groups = GroupMean(num_groups, gamma, gamma_prime=gamma_prime)
        # CVaR is 6.19 divided by alpha, so its nu moves by lr times the slope of 6.19 with the step lr * alpha.
        lr = check_positive("lr", lr) * check_share("alpha", alpha)
        self.risk = CVaR(alpha, lr=lr, smoothing=smoothing)

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
        losses = over_reference(losses, reference_losses)
        previous = None if previous_losses is None else over_reference(previous_losses, reference_losses)
        values, present = self.groups.in_batch(losses, group, mask, previous)  # Alg. 25, step 6
        # One row that every rank holds; Alg. 25, step 9 moves nu inside, step 10 is the gradient.
        risk = self.risk(values.unsqueeze(0), mask=present.unsqueeze(0)).squeeze(0)
        return self.risk.alpha * risk  # Eq. 6.19
