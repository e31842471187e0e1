"""What each strategy minimises, and which samples of a larger batch selection keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.losses.base import Loss
from guidestar.losses.distillation import DistillationLoss
from guidestar.losses.drrho_cross_entropy import DRRhoCrossEntropyLoss, sample_cross_entropy
from guidestar.risks.base import Risk, check_share
from guidestar.risks.excess import excess


class StrategyObjective(Loss):
    r"""The training objective of every strategy: a risk of (excess) losses and, if asked for, distillation.

    $(1 - \lambda)\, \mathrm{risk}_j(\ell_j - s\, \ell_{ref,j}) + \lambda\, T^2\, \mathrm{KL}_T(r \| f)$, with s = 1 when
    steered, else 0.

    Equations:
        6.113, 6.114; section 6.9 for the strategies.

    Args:
        risk: the risk over the samples; `Mean()` for erm, finetune, distill and select.
        steered: whether the reference's losses are subtracted.
        distillation: the distillation loss, or None.
        weight: $\lambda$ in [0, 1], the weight of the distillation.

    Shapes:
        `logits` `[B, C]`, `labels` `[B]`, `reference_losses` `[B]`, `teacher_logits` `[B, C]` -> scalar.

    State:
        that of the risk.

    Raises:
        ValueError: `weight` out of range, or the reference's losses or logits are missing where they are needed.

    Example:
        >>> from guidestar import Mean
        >>> objective = StrategyObjective(Mean())
        >>> objective(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor(0.6931)
    """

    def __init__(
        self,
        risk: Risk,
        *,
        steered: bool = False,
        distillation: DistillationLoss | None = None,
        weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= weight <= 1.0:
            raise ValueError(f"`weight` must be in [0, 1]. Found {weight}.")
        self.task = DRRhoCrossEntropyLoss(risk)
        self.steered = steered
        self.distillation = distillation
        self.weight = weight if distillation is not None else 0.0

    @property
    def needs_losses(self) -> bool:
        """Whether the reference's losses are needed."""
        return self.steered

    @property
    def needs_logits(self) -> bool:
        """Whether the reference's logits are needed."""
        return self.distillation is not None

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        index: Tensor | None = None,
        *,
        reference_losses: Tensor | None = None,
        teacher_logits: Tensor | None = None,
    ) -> Tensor:
        """The objective of the batch."""
        if self.steered and reference_losses is None:
            raise ValueError("`reference_losses` must be given to a steered objective. Found None.")
        task = self.task(logits, labels, index, reference_losses=reference_losses if self.steered else None)
        if self.distillation is None:
            return task
        if teacher_logits is None:
            raise ValueError("`teacher_logits` must be given to an objective with distillation. Found None.")
        return (1.0 - self.weight) * task + self.weight * self.distillation(logits, teacher_logits)

    @torch.no_grad()
    def weights(self, logits: Tensor, labels: Tensor, reference_losses: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weight of each sample relative to ERM's 1 (B times `Risk.weights`), and its loss less the reference's.

        Without reference losses the second is the loss itself. The state stays as it is.
        """
        losses = sample_cross_entropy(logits.detach(), labels)
        rho = losses if reference_losses is None else excess(losses, reference_losses)
        share = self.task.risk.weights(rho if self.steered else losses)
        return share * len(labels), rho


@torch.no_grad()
def select_top(rho_losses: Tensor, keep: int) -> Tensor:
    r"""RHO-LOSS selection: the positions of the `keep` largest losses in excess of the reference's.

    The hard, in-batch corner of DRRho: the samples that `TopK(keep / m)` would give a weight.

    Equations:
        6.116 (within the batch).

    Args:
        rho_losses: `[m]`.
        keep: how many, from 1 to m.

    Returns:
        int64 `[keep]`, by falling loss.

    Raises:
        ValueError: `keep` is not in [1, m].

    Source:
        Mindermann et al., "Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet Learnt",
        ICML 2022.

    Example:
        >>> select_top(torch.tensor([0.1, 3.0, 2.0]), 2)
        tensor([1, 2])
    """
    if not 1 <= keep <= len(rho_losses):
        raise ValueError(f"`keep` must be in [1, {len(rho_losses)}], the number of losses. Found {keep}.")
    return torch.topk(rho_losses, keep).indices


def candidates(batch_size: int, fraction: float, samples: int) -> int:
    """How many candidates selection draws for a batch: `batch_size / fraction`, at most all samples.

    Example:
        >>> candidates(32, 0.1, 50_000)
        320
    """
    return min(samples, round(batch_size / check_share("fraction", fraction)))
