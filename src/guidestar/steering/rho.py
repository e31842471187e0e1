"""`DRRho`: a risk of the losses' excess over a reference model's."""

from __future__ import annotations

from torch import Tensor

from guidestar.group_mean import GroupMean
from guidestar.risks.base import Risk, check_risk, implied_weights
from guidestar.risks.excess import excess
from guidestar.state import Stateful


class DRRho(Stateful):
    r"""DRRho risk: a distributionally robust risk of the RHO loss.

    $\hat\ell_i(w) = \ell_i(w) - \ell_i(w_{ref}), \qquad F(w) = \mathrm{risk}(\hat\ell_1, \dots, \hat\ell_m)$

    A sample is weighted up where the model is worse than the reference says it needs to be: it is learnable and not
    learnt. A sample that the reference finds hard too (a wrong label, noise) is not.

    - $\ell_i(w)$ = `losses`, $\ell_i(w_{ref})$ = `reference_losses`, which never gets a gradient.

    One class serves every granularity. Samples: losses `[m]`. Tokens: `[B, T]` with the padding `mask`, one row a
    sequence; flatten both to weigh all tokens of a batch against each other. Pairs: `[B, m]` with the anchors' `index`.
    Groups: give `groups`, and `index` is the group of each loss.

    Equations:
        6.113, 6.114; with `CVaR` 6.117, `TopK` 6.116, `KL` 6.118 and 6.119, `KLBall` 6.120, `ChiSquare` 6.115.

    Args:
        risk: the risk of the excess losses.
        groups: a `GroupMean` if the risk is to be taken over groups (or domains) instead of single losses.

    Shapes:
        `losses` and `reference_losses` `[..., m]`, `index` `[...]` (with `groups` `[m]`) -> `[...]`.

    State:
        that of the risk and of the groups.

    Value and gradient:
        the risk's estimate; gradient by `losses` only.

    Raises:
        ValueError: the shapes of the two losses differ; `groups` without `index`.
        TypeError: losses that are not floating point.

    Source:
        Wei et al., "Model Steering: Learning with a Reference Model Improves Generalization Bounds and Scaling Laws",
        ICML 2025.

    Example:
        >>> import torch
        >>> from guidestar import KL
        >>> loss = torch.tensor([0.2, 2.0, 2.0], requires_grad=True)
        >>> steer = DRRho(KL(tau=1.0))
        >>> steer(loss, torch.tensor([0.2, 0.2, 2.0])).backward()
        >>> loss.grad
        tensor([0.1242, 0.7515, 0.1242])
    """

    def __init__(self, risk: Risk, *, groups: GroupMean | None = None) -> None:
        super().__init__()
        self.risk = check_risk(risk)
        self.groups = groups

    def forward(
        self, losses: Tensor, reference_losses: Tensor, index: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The risk of `losses - reference_losses`."""
        rho_losses = excess(losses, reference_losses)
        if self.groups is None:
            return self.risk(rho_losses, index, mask)  # Eq. 6.114
        if index is None:
            raise ValueError("`index` must be given with `groups`: the group of each loss. Found None.")
        values, known = self.groups(rho_losses, index, mask)
        # One row of K values that every rank holds; a set without leading dimensions would be spread over the ranks.
        return self.risk(values.unsqueeze(0), mask=known.unsqueeze(0)).squeeze(0)

    def weights(
        self, losses: Tensor, reference_losses: Tensor, index: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The weight that each loss's gradient gets, through the groups if there are any; see `Risk.weights`."""
        return implied_weights(self, lambda leaf: self.forward(leaf, reference_losses, index, mask), losses)
