"""ABSGD and AB-xx: KL-regularized DRO for imbalanced classification."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from guidestar.losses.base import Loss
from guidestar.losses.label_batch import binary_labels, class_batch
from guidestar.risks.base import Risk
from guidestar.risks.excess import excess
from guidestar.risks.kl import KL
from guidestar.risks.stages import Stages
from guidestar.schedules import Schedule


class ABSGDLoss(Loss):
    r"""Attentional-biased training (ABSGD; AB-momentum, AB-Adam, ... by the optimizer): a harder sample weighs more.

    $F(w) = \tau \log\left(\frac1n \sum_i \exp(\ell_i(w) / \tau)\right)$

    - $\tau$ = `tau`: temperature; the mean for tau to infinity, the largest loss for tau to 0. With `first_tau`, that
      temperature holds in the first `first_epochs` epochs: large first, then small.
    - $u$: the average of the mini-batches' $\frac1B \sum e^{\ell_i/\tau}$ with rate `gamma`, kept as $v = \log u$. A
      sample's gradient has the weight $e^{\ell_i/\tau - v}/B$ (SCMA with a momentum optimizer, SCGD with plain SGD).
    - $\ell_i$: the cross-entropy of logits `[B, C]`, or the logistic loss of scores `[B]`; less the reference model's loss
      if it is given (DRRho with KL).

    The constrained problem with a learnt temperature (Eq. 6.16), CVaR and chi-square are the same loss with another risk:
    `DRRhoCrossEntropyLoss(KLBall(rho, gamma=0.9))`.

    Equations:
        6.10, 6.11, 6.12, 6.14; Alg. 24 (ABSGD, AB-momentum); Section 6.2.1.

    Args:
        tau: temperature, positive.
        gamma: averaging rate in (0, 1] or a schedule; 1 is the normalisation within the mini-batch (BSGD).
        first_tau: temperature of the first stage, or None for one stage.
        first_epochs: how many epochs the first stage has; `set_epoch(e)` at the start of each epoch switches. The average
            of the first stage is not carried over to the second: see `guidestar.risks.stages.Stages`.

    Shapes:
        `logits` `[B, C]` with `labels` int64 `[B]`, or `logits` `[B]` with `labels` `[B]` of 0 and 1 in any dtype;
        `reference_losses` `[B]`, `mask` bool `[B]` -> scalar. `index` is accepted for a common signature: the risk over
        samples is one row and needs none.

    State:
        `risk.tracker.memory.values` float32 `[1]` (v; +inf before the first batch), none with gamma = 1; with two stages
        `risk.first_risk...`, `risk.then_risk...` and `risk.epoch.number`. Ranks average their estimates of u.

    Value and gradient:
        $\tau v$, the running estimate of the objective, and $\mathbf z_t$ of Eq. 6.12.

    Raises:
        ValueError: `tau`, `gamma` out of range, only one of `first_tau` and `first_epochs`, shapes that do not fit, a
            label that is no class, labels of scores other than 0 and 1.
        TypeError: logits that are not floating point, labels of classes that are.

    Source:
        Qi et al., "Attentional-Biased Stochastic Gradient Descent", TMLR 2023.

    Example:
        >>> import torch
        >>> loss = ABSGDLoss(tau=1.0, gamma=0.5)
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]], requires_grad=True)
        >>> loss(logits, torch.tensor([0, 0]))
        tensor(1.5607, grad_fn=<MulBackward0>)
        >>> two_stages = ABSGDLoss(tau=1.0, first_tau=100.0, first_epochs=5)
        >>> two_stages(logits, torch.tensor([0, 0]))
        tensor(1.1319, grad_fn=<WhereBackward0>)
    """

    def __init__(
        self,
        tau: float,
        *,
        gamma: float | Schedule = 0.9,
        first_tau: float | None = None,
        first_epochs: int | None = None,
    ) -> None:
        super().__init__()
        if (first_tau is None) != (first_epochs is None):
            raise ValueError(
                "`first_tau` and `first_epochs` belong together: a temperature and how many epochs it holds. Found "
                f"first_tau = {first_tau} and first_epochs = {first_epochs}."
            )
        self.risk: Risk = KL(tau, gamma=gamma)
        if first_tau is not None and first_epochs is not None:
            self.risk = Stages(KL(first_tau, gamma=gamma), self.risk, epochs=first_epochs)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        index: Tensor | None = None,
        *,
        reference_losses: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The running estimate of the objective."""
        if logits.ndim not in (1, 2) or labels.shape != logits.shape[:1]:
            raise ValueError(
                "`logits` must be [B, C], or [B] for scores of two classes, and `labels` [B]. Found "
                f"{tuple(logits.shape)} and {tuple(labels.shape)}."
            )
        if logits.ndim == 1:
            logits, labels, mask = binary_labels(logits, labels, mask)
            losses = functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
        else:
            logits, labels, mask = class_batch(logits, labels, mask)
            losses = functional.cross_entropy(logits, labels, reduction="none")
        if reference_losses is not None:
            losses = excess(losses, reference_losses)
        return self.risk(losses, mask=mask)  # Alg. 24, steps 3 to 5
