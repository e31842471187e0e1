"""ALEXR: group DRO by CVaR as a saddle point with one dual variable a group."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.duals import Dual
from guidestar.group_mean import GroupMean
from guidestar.losses.base import Loss
from guidestar.losses.group_dro import over_reference
from guidestar.risks.base import check_positive, check_share
from guidestar.state import Counter, PerSampleState


class ALEXRLoss(Loss):
    r"""The worst groups' mean loss through dual variables that extrapolate.

    $\min_{w, \nu} \frac1K \sum_{i=1}^K \max_{y_i \in [0, 1]} y_i (L_i(w) - \nu) + \alpha\nu$

    For the groups in the batch, with their batch means $\hat L_i$ and $g_i(w, \nu) = \hat L_i(w) - \nu$:

    - $\tilde g_i = g_i(w_t, \nu_t) + \theta\, (g_i(w_t, \nu_t) - g_i(w_{t-1}, \nu_{t-1}))$, with the same samples at both
      weights: $\hat L_i(w_{t-1})$ comes from `previous_losses`, which costs a second forward pass. Without them (as at the
      first step) there is no extrapolation.
    - $y_i \leftarrow \Pi_{[0,1]}[y_i + \eta_y \tilde g_i]$ with $\eta_y$ = `dual_lr`; the other groups' stay.
    - the gradient by the model is $\frac{1}{B_1} \sum_{i \in B} y_i \nabla \hat L_i$ with the new y, and
      $\nu \leftarrow \nu - \eta (\alpha - \frac{1}{B_1} \sum_{i \in B} y_i)$ with $\eta$ = `lr`.

    The mean over the groups of the batch stands for that over all K: sample groups uniformly, see `SONEXLoss`.

    Equations:
        6.17; Alg. 18 of the book for an outer function that is not smooth.

    Args:
        num_groups: number of groups K.
        alpha: the worst share of the groups that counts, in (0, 1].
        dual_lr: step size of the y, in units of 1/loss.
        lr: step size of nu.
        theta: $\theta$ in [0, 1].

    Shapes:
        `losses`, `reference_losses`, `previous_losses` `[m]`, `group` int64 `[m]`, `mask` bool `[m]` -> scalar.

    State:
        `y.memory.values` float32 `[num_groups]`, at first 1, the best answer to nu = 0 and positive losses;
        `nu.memory.values` and `nu_before.values` float32 `[1]`, at first 0.

    Value and gradient:
        $\frac{1}{B_1} \sum_{i \in B} y_i (\hat L_i - \nu) + \alpha\nu$ with the new y and the nu before its step. In eval
        mode, or where gradients are off, with the best y: $[\hat L_i - \nu]_+$.

    Raises:
        ValueError: a setting is out of range, shapes that do not fit.
        TypeError: losses that are not floating point.
        IndexError: a group number on the CPU is out of range.

    Source:
        Wang and Yang, "ALEXR: An Optimal Single-Loop Algorithm for Convex Finite-Sum Coupled Compositional Stochastic
        Optimization", 2023.

    Example:
        >>> import torch
        >>> loss = ALEXRLoss(num_groups=4, alpha=0.5)
        >>> loss(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]))
        tensor(3.5000)
    """

    def __init__(
        self, num_groups: int, alpha: float, *, dual_lr: float = 0.1, lr: float = 0.01, theta: float = 1.0
    ) -> None:
        super().__init__()
        if not 0 <= theta <= 1:
            raise ValueError(f"`theta` must be in [0, 1] (0 is no extrapolation). Found {theta}.")
        self.alpha = check_share("alpha", alpha)
        self.theta = float(theta)
        # With gamma = 1, gamma_prime = theta turns the value of the batch means into the extrapolation of Alg. 18.
        self.groups = GroupMean(num_groups, gamma=1.0, gamma_prime=self.theta)
        dual_lr = check_positive("dual_lr", dual_lr)
        self.y = Dual(num_groups, init=1.0, lr=dual_lr, minimum=0.0, maximum=1.0, maximise=True)
        self.nu = Dual(lr=lr)
        self.nu_before = PerSampleState(1, fill=0.0)
        self.empty = Counter()

    def forward(
        self,
        losses: Tensor,
        group: Tensor,
        *,
        reference_losses: Tensor | None = None,
        previous_losses: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The saddle function of the groups in the batch."""
        losses = over_reference(losses, reference_losses)
        means, present = self.groups.in_batch(losses, group, mask)
        nu, some = self.nu.values().to(means.dtype), present.any()
        count = present.sum().clamp(min=1)
        if not (self.training and torch.is_grad_enabled()):
            outer = torch.relu(means - nu)
        else:
            ahead, ahead_nu = means.detach(), nu
            if previous_losses is not None:
                previous = over_reference(previous_losses, reference_losses)
                ahead = self.groups.in_batch(losses, group, mask, previous)[0].detach()
                ahead_nu = nu + self.theta * (nu - self._nu_before().to(nu))
            y = self._step(ahead - ahead_nu, present).to(means.dtype)
            outer = y * (means - nu)
            self.nu_before.write(self.nu_before.first(), nu, some)
            self.nu.move(self.alpha - torch.where(present, y, 0.0).sum() / count, active=some)
            self.empty.add(~some)
        value = torch.where(present, outer, 0.0).sum() / count + self.alpha * nu  # Eq. 6.17
        return torch.where(some, value, means.sum() * 0.0)

    def _step(self, gradient: Tensor, present: Tensor) -> Tensor:
        rows = torch.arange(self.groups.num_groups, device=gradient.device)
        self.y.move(gradient, rows, present)  # Alg. 18
        return self.y.values(rows)

    def _nu_before(self) -> Tensor:
        return self.nu_before.read(self.nu_before.first())

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, theta={self.theta}"
