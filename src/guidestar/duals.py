"""`Dual`: the variable of an inner problem, row by row, which steps inside the loss's forward."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar import distributed
from guidestar.state import PerSampleState, Stateful, merge_duplicates

#: The bounds of a variable that has none.
FREE = (-float("inf"), float("inf"))


class Dual(Stateful):
    r"""Rows of dual variables $y_i$, each moved by its own gradient and kept within bounds.

    $m_i \leftarrow \beta m_i + (1-\beta) \partial_{y_i} J, \quad y_i \leftarrow \Pi_{[lo, hi]}[y_i \mp \eta m_i]$

    with minus to minimise J and plus to maximise. Such a variable ($\nu$ of CVaR, $\tau$ of a KL ball, $\alpha$ of the
    minimax AUC loss) belongs to the objective, not to the model: it steps in the objective's forward, in training mode
    only, and the model's optimizer never sees it.

    Equations:
        the steps of $\nu$ and $\tau$ in Alg. 12, 18, 20 of the book, Alg. 25 (step 11) and Alg. 35 (step 10, by the
        Momentum method of Eq. 6.2).

    Args:
        num_rows: number of variables; 1 for a single one.
        init: value before the first step.
        lr: step size $\eta$, positive.
        momentum: $\beta$ in [0, 1); 0 keeps no velocity.
        minimum, maximum: bounds, or None.
        maximise: ascend instead of descend.
        lr_cut: (threshold, factor): a row that is at or below the threshold moves with `lr` times the factor.

    Shapes:
        `index` `[*rows]`; `rows(index)` the same shape, `rows()` `[]`.

    State:
        `memory.values` float32 `[num_rows]`, filled with `init`, and `velocity.values` with momentum; the same on all
        ranks. A single row averages its gradient over the ranks; many rows exchange (index, gradient).

    Raises:
        ValueError: `lr`, `momentum` or the bounds are impossible.
        IndexError: a row number on the CPU is out of range.
        RuntimeError: `step` without `rows` before it, or on an objective that does not depend on them.

    Example:
        >>> dual = Dual(init=1.0, lr=0.5, minimum=0.0)
        >>> y = dual.rows()
        >>> dual.step(y**2)
        >>> float(dual.values())
        0.0
    """

    def __init__(
        self,
        num_rows: int = 1,
        *,
        init: float = 0.0,
        lr: float,
        momentum: float = 0.0,
        minimum: float | None = None,
        maximum: float | None = None,
        maximise: bool = False,
        lr_cut: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        if not 0 < lr < float("inf"):
            raise ValueError(f"`lr` must be positive and finite. Found {lr}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Found {momentum}.")
        low, high = -float("inf") if minimum is None else minimum, float("inf") if maximum is None else maximum
        if not low <= init <= high:
            raise ValueError(f"`init` must lie between `minimum` and `maximum`, [{low}, {high}]. Found {init}.")
        if lr_cut is not None and not 0 < lr_cut[1] <= 1:
            raise ValueError(f"`lr_cut` must be (threshold, factor) with a factor in (0, 1]. Found {lr_cut}.")
        self.lr = lr
        self.lr_cut = lr_cut
        self.momentum = momentum
        self.bounds = (low, high)
        self.sign = 1.0 if maximise else -1.0
        self.memory = PerSampleState(num_rows, fill=init)
        self.velocity = PerSampleState(num_rows, fill=0.0) if momentum > 0 else None
        self._leaf: Tensor | None = None
        self._index: Tensor | None = None

    def rows(self, index: Tensor | None = None) -> Tensor:
        """The variables of the rows `index` as a new leaf that requires a gradient (the single one without `index`)."""
        self._leaf = self.values(index).requires_grad_(torch.is_grad_enabled())
        self._index = index
        return self._leaf

    def values(self, index: Tensor | None = None, *, checked: bool = False) -> Tensor:
        """The variables of the rows `index` (the single one without), outside the graph.

        `checked`: the index is what `memory.on_device` gave, and is not checked again.

        Raises:
            ValueError: `index` is missing with many rows.
        """
        if index is None:
            if len(self.memory) > 1:
                raise ValueError(f"`index` is needed: there are {len(self.memory)} rows. Pass the row of each value.")
            return self.memory.read(self.memory.first())
        return self.memory.read(index, checked=checked)

    def step(self, objective: Tensor) -> None:
        """Move the rows that `rows` gave last by the gradient of `objective.sum()`; the graph is kept."""
        if not (self.training and torch.is_grad_enabled()):
            return
        if self._leaf is None:
            raise RuntimeError(
                "`step` needs the leaf that `rows` gives: call `rows(index)` and build the objective from it."
            )
        (gradient,) = torch.autograd.grad(objective.sum(), self._leaf, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise RuntimeError("`objective` does not depend on the tensor that `rows` gave last.")
        self.move(gradient, self._index)
        self._leaf = None

    def move(
        self,
        gradient: Tensor,
        index: Tensor | None = None,
        active: Tensor | None = None,
        *,
        checked: bool = False,
        distinct: bool = False,
    ) -> None:
        """Move the rows by a gradient that is known in closed form; those where `active` is false stay.

        Args:
            gradient: of the objective by each row, shape of `index`; without an index of any shape, and the single row
                moves by its mean.
            index: row numbers, or None for the single row.
            active: bool, shape of `gradient`; entries that are false do not count.
            checked: the index is what `memory.on_device` gave, and is not checked again.
            distinct: it is known that no two entries of the index are equal.
        """
        if not self.training:
            return
        gradient, memory = gradient.detach(), self.memory
        if index is None:
            rows = memory.first()
            gradient, active = _single(gradient, active)
        else:
            rows = distributed.gather(index.reshape(-1) if checked else memory.on_device(index.reshape(-1)))
            gradient = distributed.gather(gradient.reshape(-1))
            active = None if active is None else distributed.gather(active.reshape(-1))
            if not distinct or len(rows) > index.numel():  # other ranks may have the same
                gradient = merge_duplicates(rows, gradient, active=active)
        if self.velocity is not None:
            gradient = (
                self.momentum * self.velocity.read(rows, checked=True).to(gradient) + (1 - self.momentum) * gradient
            )  # Eq. 6.2
            self.velocity.write(rows, gradient, active, checked=True)
        before = memory.read(rows, checked=True).to(gradient.dtype)
        if self.lr_cut is not None:
            gradient = torch.where(before <= self.lr_cut[0], gradient * self.lr_cut[1], gradient)
        moved = torch.add(before, gradient, alpha=self.sign * self.lr)
        memory.write(rows, moved if self.bounds == FREE else moved.clamp(*self.bounds), active, checked=True)

    def extra_repr(self) -> str:
        return f"lr={self.lr}, momentum={self.momentum}, bounds={self.bounds}, maximise={self.sign > 0}"


def _single(gradient: Tensor, active: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The mean gradient of the single row over everything that counts on all ranks, and whether anything does."""
    if active is None and distributed.world_size() == 1 and gradient.numel() > 0:
        return gradient.mean(), None
    if active is None:
        active = torch.ones_like(gradient, dtype=torch.bool)
    kept = torch.where(active, gradient, 0.0).sum()
    total, count = distributed.mean(torch.stack([kept, active.sum().to(kept)]))
    return total / count.clamp(min=torch.finfo(gradient.dtype).tiny), count > 0
