"""Two risks, one after the other: large temperatures first, small ones later."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from guidestar.risks.base import Risk, Rows, check_risk
from guidestar.state import Epoch


class Stages(Risk):
    r"""One risk in the first epochs, another one from then on.

    $F = R_1$ in the epochs $e < E$, and $R_2$ from epoch E on.

    - $R_1$ = `first`, $R_2$ = `then`: any two risks.
    - $E$ = `epochs`.

    The two-stage temperature is `Stages(KL(tau=100.0, gamma=0.9), KL(tau=1.0, gamma=0.9), epochs=160)`: nearly uniform
    weights, with which a network learns its features, then weights that serve the classifier and the rare classes.

    Each stage has memory of its own. What the first one remembers (v = log u of `KL`, which is an average of
    $e^{\ell/\tau}$ at the *old* temperature) does not enter the second, which begins as a new object does: with its first
    mini-batch. Nothing that is known of v at one temperature bounds it well at another; rescaled to $v \tau_1 / \tau_2$ it
    is too small by Jensen's inequality, and the weights $e^{\ell/\tau_2 - v}$ of the first steps would be too large.

    Equations:
        Section 6.2.1, "The Temperature parameter" (the two-stage approach).

    Args:
        first: the risk of the first stage.
        then: the risk of the second stage, an object of its own.
        epochs: in how many epochs the first stage holds, at least 1. `set_epoch(e)` must be called at the start of
            each epoch.

    Shapes:
        as the two risks.

    State:
        `epoch.number` int64, and that of both risks; the memory of the stage that is not on is left alone.

    Value and gradient:
        those of the stage that is on.

    Raises:
        ValueError: `epochs` below 1, one object for both stages.
        TypeError: a stage is no risk.

    Source:
        Qi et al., "Attentional-Biased Stochastic Gradient Descent", TMLR 2023 (its two-stage training).

    Example:
        >>> from guidestar import Mean, TopK
        >>> risk, losses = Stages(Mean(), TopK(0.5), epochs=2), torch.tensor([1.0, 3.0])
        >>> risk(losses)
        tensor(2.)
        >>> risk.set_epoch(2)
        >>> risk(losses)
        tensor(3.)
    """

    def __init__(self, first: Risk, then: Risk, *, epochs: int) -> None:
        super().__init__()
        if epochs < 1 or int(epochs) != epochs:
            raise ValueError(f"`epochs` must be a whole number, at least 1. Found {epochs}.")
        if check_risk(first) is check_risk(then):
            raise ValueError(
                "`first` and `then` must be two objects: each stage has memory of its own. Found one for both."
            )
        self.first_risk = first
        self.then_risk = then
        self.epochs = int(epochs)
        self.epoch = Epoch()

    def value(self, rows: Rows) -> Tensor:
        # Both are computed, and only the one that is on may write: no branch on a number that may be on an accelerator.
        on = self.epoch.number.to(rows.losses.device) < self.epochs
        active = on.new_ones(rows.losses.shape[:-1]) if rows.active is None else rows.active
        first = self.first_risk.value(replace(rows, active=active & on))
        then = self.then_risk.value(replace(rows, active=active & ~on))
        return torch.where(on, first, then)

    def extra_repr(self) -> str:
        return f"epochs={self.epochs}"
