"""The methods on binary tasks: cross-entropy and its variants, and the losses of guidestar.

Every network is trained with Adam (weight decay 1e-4) unless its row says otherwise, with a learning rate chosen from
`RATES`. A loss for pairs sees batches with as many positives as negatives; the losses of single samples see the data as
they are, and cross-entropy both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import guidestar as gs
from guidestar.networks.compositional import CompositionalStep

from .batches import half_positive, shuffled
from .harness import Trained, TwoStage
from .task import BinaryTask, network_scorer

RATES = (5e-4, 2e-3, 8e-3)
WEIGHT_DECAY = 1e-4
#: The false positive rate of the losses of partial areas.
BETA = 0.3
CHI_SQUARE_RADIUS = 0.1


def adam(model: nn.Module, loss: Any, lr: float) -> torch.optim.Optimizer:
    """Adam over the network and over what the loss learns by gradients."""
    learnt = list(loss.parameters()) if isinstance(loss, nn.Module) else []
    return torch.optim.Adam([*model.parameters(), *learnt], lr=lr, weight_decay=WEIGHT_DECAY)


def trained(
    name: str,
    make_loss: Callable[[BinaryTask], Any],
    make_batches: Callable[[BinaryTask, int], Iterator[Tensor]],
    wrap: Callable[[nn.Module], nn.Module] | None = None,
) -> Trained:
    """A method with Adam and the common learning rates."""
    return Trained(name, make_loss, adam, make_batches, RATES, network_scorer, wrap)


def cross_entropy(scores: Tensor, labels: Tensor, index: Tensor) -> Tensor:
    """The mean logistic loss."""
    return F.binary_cross_entropy_with_logits(scores, labels.float())


def compositional(model: nn.Module) -> nn.Module:
    """The network after a step of cross-entropy."""
    return CompositionalStep(
        model, lambda outputs, labels: F.binary_cross_entropy_with_logits(outputs.squeeze(1), labels.float())
    )


def weighted(task: BinaryTask) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Cross-entropy with the positives weighted by the number of negatives for each."""
    weight = torch.tensor((1 - task.positive_rate) / task.positive_rate)

    def loss(scores: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(scores, labels.float(), pos_weight=weight)

    return loss


def focal(scores: Tensor, labels: Tensor, index: Tensor) -> Tensor:
    """Focal loss with exponent 2, without class weights."""
    losses = F.binary_cross_entropy_with_logits(scores, labels.float(), reduction="none")
    return (losses * (1 - torch.exp(-losses)).square()).mean()


BASELINES = (
    trained("ce", lambda task: cross_entropy, shuffled),
    trained("ce_balanced", lambda task: cross_entropy, half_positive),
    trained("ce_weighted", weighted, shuffled),
    trained("focal", lambda task: focal, shuffled),
)


def chi_square(task: BinaryTask) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The logistic losses of a batch under the worst weights of a chi-square ball."""
    risk = gs.ChiSquare(CHI_SQUARE_RADIUS)

    def loss(scores: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        return risk(F.binary_cross_entropy_with_logits(scores, labels.float(), reduction="none"))

    return loss


def new_head(model: nn.Module) -> None:
    """Random weights for the last linear layer, as the book starts the second stage."""
    *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    last.reset_parameters()


def after_cross_entropy(second: Trained) -> TwoStage:
    """The method on a network that cross-entropy has trained for the first half of the steps."""
    return TwoStage(f"ce_{second.name}", BASELINES[1], RATES[1], new_head, second)


SINGLE = (
    trained("absgd", lambda task: gs.losses.ABSGDLoss(1.0), shuffled),
    trained("chi_square", chi_square, shuffled),
    trained("pairwise", lambda task: gs.losses.PairwiseAUCLoss(), half_positive),
    trained("auc_margin", lambda task: gs.losses.AUCMarginLoss(), half_positive),
    trained("compositional", lambda task: gs.losses.AUCMarginLoss(), half_positive, compositional),
    trained("soap", lambda task: gs.losses.AveragePrecisionLoss(task.rows), half_positive),
    trained("sopa", lambda task: gs.losses.SOPALoss(task.rows, BETA), half_positive),
    trained("sopa_s", lambda task: gs.losses.SOPAsLoss(task.rows), half_positive),
    trained("sota_s", lambda task: gs.losses.SOTAsLoss(task.rows), half_positive),
)
BY_NAME = {method.name: method for method in SINGLE}
OURS = (*SINGLE, *(after_cross_entropy(BY_NAME[name]) for name in ("auc_margin", "soap")))
