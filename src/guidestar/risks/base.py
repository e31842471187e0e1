"""What every risk shares: the shapes, the mask, the rows that have nothing to learn from, and the implied weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guidestar import distributed
from guidestar.state import Counter, Stateful, math_dtype, read_only


@dataclass(frozen=True)
class Rows:
    """The losses of some rows, ready for a formula.

    Attributes:
        losses: `[*rows, m]`, float32 or float64; 0 where masked.
        index: row numbers `[*rows]` or None.
        mask: bool `[*rows, m]` or None (all count).
        count: how many losses of each row count, an int or `[*rows]`; at least 1. For a single row that is spread over
            the ranks it is the mean over the ranks, so that the ranks' mean of `sum(...) / count` is the mean over all.
        active: which rows have a loss that counts, `[*rows]`, or None (all).
        spread: the ranks hold parts of one row (not in eval mode, or where gradients are off).
    """

    losses: Tensor
    index: Tensor | None
    mask: Tensor | None
    count: int | Tensor
    active: Tensor | None
    spread: bool

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the losses that count of `values` `[*rows, m]`, over the ranks too where a row is spread."""
        if self.mask is None:
            average = values.mean(-1)
        else:
            average = torch.where(self.mask, values, 0.0).sum(-1) / self.count
        return distributed.mean_value(average) if self.spread else average

    def log_count(self) -> float | Tensor:
        """Logarithm of `count`."""
        return math.log(self.count) if isinstance(self.count, int) else self.count.log()


class Risk(Stateful, ABC):
    """Maps a set of losses to one number a row: `risk(losses[..., m], index, mask) -> [...]`.

    A subclass gives the formula, `value(rows)`. Rows whose losses are all masked return a zero that is attached to the
    graph, leave the state alone and are counted in `empty`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.empty = Counter()

    @abstractmethod
    def value(self, rows: Rows) -> Tensor:
        """The risk of each row, `[*rows]`."""

    def forward(self, losses: Tensor, index: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The risk of each row.

        Args:
            losses: `[..., m]`, one set of m losses a row; `[m]` is a single row (DRO over a data set).
            index: the row numbers `[...]`, for a risk that remembers something of each of many rows.
            mask: bool, broadcastable to `losses`; a loss whose entry is false does not count, whatever its value.

        Returns:
            `[...]`; the value is the estimate of the objective.
        """
        return self._evaluate(losses, index, mask, self.value)

    def weights(self, losses: Tensor, index: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The weight that the gradient of each loss gets in the risk of its row, `[..., m]`; the state stays as it is.

        In-batch risks give weights that sum to 1 a row; risks that remember (gamma < 1, a dual) only in expectation.

        Example:
            >>> from guidestar import KL
            >>> KL(tau=1.0).weights(torch.tensor([0.0, 0.0]))
            tensor([0.5000, 0.5000])
        """
        return implied_weights(self, lambda leaf: self.forward(leaf, index, mask), losses)

    def _evaluate(
        self, losses: Tensor, index: Tensor | None, mask: Tensor | None, value: Callable[[Rows], Tensor]
    ) -> Tensor:
        dtype = math_dtype(losses)
        losses = losses.to(dtype)
        for name, given in (("index", index), ("mask", mask)):
            if given is not None and not isinstance(given, Tensor):
                raise TypeError(f"`{name}` must be a tensor or None. Found {type(given).__name__}.")
        if losses.ndim == 0:
            raise ValueError(
                "`losses` must have at least one dimension, the set that the risk is taken over. Found a scalar."
            )
        lead = losses.shape[:-1]
        learning = self.training and torch.is_grad_enabled()
        if index is not None and index.shape != lead:
            if index.numel() != 1 or lead.numel() != 1:
                raise ValueError(
                    f"`index` must have one row number for each row of `losses`, shape {tuple(lead)}. Found "
                    f"{tuple(index.shape)}. The set that the risk is taken over is the last dimension and has no index."
                )
            index = index.reshape(lead)
        if losses.shape[-1] == 0:
            if learning:
                self.empty.add(torch.ones(lead, dtype=torch.bool, device=losses.device))
            return losses.sum(-1)
        # As trackers do, ranks exchange nothing when nothing is learnt: a single rank may then evaluate alone.
        spread = not lead and learning
        if mask is None:
            return value(Rows(losses, index, None, losses.shape[-1], None, spread))
        mask = as_mask(losses, mask)
        losses = torch.where(mask, losses, 0.0)  # or a NaN that is masked would come back as 0 * NaN in a gradient
        counted = mask.sum(-1)
        count = distributed.mean(counted.to(losses.dtype)) if spread else counted.to(losses.dtype)
        active = count > 0
        if learning:
            self.empty.add(~active)
        rows = Rows(losses, index, mask, count.clamp(min=torch.finfo(losses.dtype).tiny), active, spread)
        return torch.where(active, value(rows), losses.sum(-1) * 0.0)


def as_mask(losses: Tensor, mask: Tensor) -> Tensor:
    """`mask` in the shape, and where, `losses` are.

    Raises:
        TypeError: it is not bool.
        ValueError: it does not broadcast.

    Example:
        >>> as_mask(torch.zeros(2, 2), torch.tensor([True, False]))
        tensor([[ True, False],
                [ True, False]])
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"`mask` must be a bool tensor, true where a loss counts. Found dtype {mask.dtype}.")
    try:
        return mask.to(losses.device).expand(losses.shape)
    except RuntimeError as error:
        raise ValueError(
            f"`mask` must broadcast to the shape of `losses`, {tuple(losses.shape)}. Found {tuple(mask.shape)}."
        ) from error


def whole(rows: Rows) -> tuple[Tensor, Tensor | None, int | Tensor]:
    """Losses, mask and count of the whole set: gathered over the ranks (with gradient) where one row is spread."""
    if not rows.spread or distributed.world_size() == 1:
        return rows.losses, rows.mask, rows.count
    losses = distributed.gather_with_gradient(rows.losses)
    if rows.mask is None:
        return losses, None, losses.shape[-1]
    return losses, distributed.gather(rows.mask), rows.count * distributed.world_size()


def implied_weights(module: nn.Module, objective: Callable[[Tensor], Tensor], losses: Tensor) -> Tensor:
    """The gradient of `objective` (of `module`) by the losses, at a state that stays as it is."""
    with torch.enable_grad(), read_only(module):
        leaf = losses.detach().to(math_dtype(losses)).requires_grad_()
        (weights,) = torch.autograd.grad(objective(leaf).sum(), leaf)
    return weights


def check_risk(risk: Risk) -> Risk:
    """`risk`, if it is one.

    Raises:
        TypeError: it is something else, such as the class of a risk.
    """
    if not isinstance(risk, Risk):
        found = risk.__name__ if isinstance(risk, type) else type(risk).__name__
        raise TypeError(f"`risk` must be a risk such as KL(tau=1.0), an object and not a class. Found {found}.")
    return risk


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"`{name}` must be a number. Found {type(value).__name__}.")


def check_positive(name: str, value: float) -> float:
    """`value`, if it is a positive finite number.

    Raises:
        ValueError: it is not.
        TypeError: it is no number.

    Example:
        >>> check_positive("tau", 0.5)
        0.5
    """
    _check_number(name, value)
    if not (value > 0 and value < float("inf")):
        raise ValueError(f"`{name}` must be a positive number. Found {value}.")
    return float(value)


def check_share(name: str, value: float) -> float:
    """`value`, if it is in (0, 1].

    Raises:
        ValueError: it is not.
        TypeError: it is no number.

    Example:
        >>> check_share("alpha", 0.1)
        0.1
    """
    _check_number(name, value)
    if not 0 < value <= 1:
        raise ValueError(f"`{name}` is a share and must be in (0, 1]. Found {value}.")
    return float(value)
