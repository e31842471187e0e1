"""The features of a batch of pairs, checked and gathered over the ranks, and the statistics of both directions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guidestar import distributed
from guidestar.pairwise.mask import PairMask
from guidestar.pairwise.statistics import Features, Side, pair_statistics
from guidestar.state import math_dtype, merge_duplicates


@dataclass(frozen=True)
class Towers:
    """Own rows against everybody's columns; pair i is (x_i, y_i).

    Args:
        own: this rank's features, `[b, d]` each.
        features: its x against all ranks' y, `[b, d]` and `[B, d]`.
        first: the column of this rank's first pair.
        groups: int64 `[b]` and `[B]`, or None.
        valid: bool `[b]` and `[B]`: which pairs count; or None.
        spread: the ranks share the batch.
    """

    own: Features
    features: Features
    first: int
    groups: tuple[Tensor, Tensor] | None
    valid: tuple[Tensor, Tensor] | None
    spread: bool

    def mask(self, *, hide_own: bool) -> PairMask:
        """Which entries of own rows against all columns count; entries of the same group never do."""
        row_groups, column_groups = self.groups or (None, None)
        row_valid, column_valid = self.valid or (None, None)
        rows, columns = self.features.x.shape[0], self.features.y.shape[0]
        return PairMask(rows, columns, self.first, hide_own, row_groups, column_groups, row_valid, column_valid)

    def statistics(self, row_scale: Tensor, column_scale: Tensor, *, hide_own: bool, tiled: bool) -> tuple[Side, Side]:
        """Statistics of own rows, and of own columns over all ranks' rows; scales are scalars or `[b]`."""
        everyone = column_scale
        if self.spread and column_scale.ndim:
            everyone = distributed.gather_summed(column_scale)
        rows, columns = pair_statistics(self.features, row_scale, everyone, self.mask(hide_own=hide_own), tiled=tiled)
        if columns is None:
            raise ValueError("`column_scale` is needed. Found None.")
        return rows, self._own_columns(columns) if self.spread else columns

    def _own_columns(self, part: Side) -> Side:
        """The statistics of this rank's columns, from every rank's part of them."""
        count = torch.as_tensor(part.count, dtype=part.log_sum.dtype, device=part.log_sum.device)
        stacked = torch.stack([part.log_sum.detach(), part.expected, count.expand_as(part.expected)])
        parts = distributed.gather(stacked.unsqueeze(0))
        mine = slice(self.first, self.first + self.own.x.shape[0])
        share = torch.softmax(parts[:, 0, mine], 0)
        expected = (share * parts[:, 1, mine]).sum(0)
        return Side(distributed.log_sum_exp_slice(part.log_sum), expected, parts[:, 2, mine].sum(0))

    def positives(self, *, several: bool, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The similarity of each own row, and of each own column, with its positive, `[b]` each.

        With `several`, the mean over all pairs of its group; otherwise `own`, where it is known already.
        """
        if not several or self.groups is None:
            own = self.own.own(self.own.y, self.own.reference_y) if own is None else own
            return own, own
        groups, active = self.groups[1], None if self.valid is None else self.valid[1]
        mine = slice(self.first, self.first + self.own.x.shape[0])

        def mean(values: Tensor | None) -> Tensor | None:
            return None if values is None else merge_duplicates(groups, values, active=active)[mine]

        x, reference_x = self.own.x, self.own.reference_x
        if self.spread:
            x = distributed.gather_summed(x)
            reference_x = None if reference_x is None else distributed.gather(reference_x)
        turned = Features(self.own.y, self.own.x, self.own.reference_y, self.own.reference_x)
        mean_y, mean_x = mean(self.features.y), mean(x)
        if mean_y is None or mean_x is None:
            raise ValueError("features are needed. Found None.")
        return self.own.own(mean_y, mean(self.features.reference_y)), turned.own(mean_x, mean(reference_x))

    def active(self, side: Side, *, hide_own: bool) -> Tensor | None:
        """Which own anchors have a negative, None for all."""
        least = 1 if hide_own else 2
        if isinstance(side.count, Tensor):
            active = side.count >= least
        elif side.count >= least and self.valid is None:
            return None
        else:
            active = torch.full_like(side.log_sum, side.count >= least, dtype=torch.bool)
        return active if self.valid is None else active & self.valid[0]

    def without_groups(self) -> Towers:
        """The same, with entries of the same group counting as all others do."""
        return replace(self, groups=None)

    def turned(self) -> Towers:
        """Own columns against everybody's rows: the other direction, for what needs its matrix."""
        x, y = self.own.x, self.own.y
        other, reference = x, self.own.reference_x
        if self.spread:
            other = distributed.gather_summed(x)
            reference = None if reference is None else distributed.gather(reference)
        own = Features(y, x, self.own.reference_y, self.own.reference_x)
        return replace(self, own=own, features=Features(y, other, self.own.reference_y, reference))


def towers(
    x: Tensor,
    y: Tensor,
    *,
    reference_x: Tensor | None = None,
    reference_y: Tensor | None = None,
    groups: Tensor | None = None,
    mask: Tensor | None = None,
    learning: bool = True,
    names: tuple[str, str] = ("image", "text"),
) -> Towers:
    """Check the features of a batch of pairs and gather what is needed of the other ranks.

    Args:
        x, y: `[b, d]` each, floating point.
        reference_x, reference_y: `[b, d']` each, or None.
        groups: int64 `[b]`: pairs of one group are not each other's negatives.
        mask: bool `[b]`: which pairs count.
        learning: in training with gradients; only then do ranks exchange anything.
        names: what x and y are called in messages.

    Raises:
        TypeError: features that are not floating point, a mask that is not bool, groups that are not whole numbers.
        ValueError: shapes do not fit, or one of the two reference features is missing.
    """
    dtype = math_dtype(x)
    math_dtype(y)
    _check_shapes(x, y, reference_x, reference_y, names)
    count = x.shape[0]
    _check_rows(count, groups, mask, names)
    x, y = x.to(dtype), y.to(dtype)
    if reference_x is not None and reference_y is not None:
        reference_x, reference_y = (r.detach().to(x) for r in (reference_x, reference_y))
    if mask is not None:
        mask = mask.to(x.device)
        keep = mask.unsqueeze(1)  # a NaN that is masked must not come back as 0 * NaN
        x, y = torch.where(keep, x, 0.0), torch.where(keep, y, 0.0)
        if reference_x is not None and reference_y is not None:
            reference_x, reference_y = torch.where(keep, reference_x, 0.0), torch.where(keep, reference_y, 0.0)
    groups = None if groups is None else groups.to(x.device)
    own = Features(x, y, reference_x, reference_y)
    if not learning or distributed.world_size() == 1:
        both = None if groups is None else (groups, groups)
        return Towers(own, own, 0, both, None if mask is None else (mask, mask), False)
    everyone = Features(
        x,
        distributed.gather_summed(y),
        reference_x,
        None if reference_y is None else distributed.gather(reference_y),
    )
    return Towers(
        own,
        everyone,
        distributed.rank() * count,
        None if groups is None else (groups, distributed.gather(groups)),
        None if mask is None else (mask, distributed.gather(mask)),
        True,
    )


def _check_shapes(
    x: Tensor, y: Tensor, reference_x: Tensor | None, reference_y: Tensor | None, names: tuple[str, str]
) -> None:
    one, two = names
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(
            f"`{one}` and `{two}` must be features [B, d] of one shape, row i of both a pair. Found {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    if (reference_x is None) != (reference_y is None):
        given, missing = (one, two) if reference_y is None else (two, one)
        raise ValueError(f"`reference_{missing}` is missing beside `reference_{given}`. Pass both or neither.")
    if reference_x is None or reference_y is None:
        return
    math_dtype(reference_x)
    math_dtype(reference_y)
    if reference_x.ndim != 2 or reference_x.shape != reference_y.shape or reference_x.shape[0] != x.shape[0]:
        raise ValueError(
            f"`reference_{one}` and `reference_{two}` must be features [B, d'] of one shape with B = {x.shape[0]}. Found "
            f"{tuple(reference_x.shape)} and {tuple(reference_y.shape)}."
        )


def _check_rows(count: int, groups: Tensor | None, mask: Tensor | None, names: tuple[str, str]) -> None:
    if groups is not None:
        if groups.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"`groups` must be an int64 tensor, one group a pair. Found dtype {groups.dtype}.")
        if groups.shape != (count,):
            raise ValueError(f"`groups` must have one entry a pair, [{count}]. Found {tuple(groups.shape)}.")
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError(f"`mask` must be a bool tensor, true where a pair counts. Found dtype {mask.dtype}.")
        if mask.shape != (count,):
            raise ValueError(f"`mask` must have one entry a pair, [{count}]. Found {tuple(mask.shape)}.")


def check_index(index: Tensor | None, x: Tensor) -> None:
    """Whether there is one row number a pair, or none at all.

    Raises:
        TypeError: the index is no tensor.
        ValueError: its shape does not fit.
    """
    if index is None:
        return
    if not isinstance(index, Tensor):
        raise TypeError(f"`index` must be a tensor or None. Found {type(index).__name__}.")
    if index.shape != x.shape[:1]:
        raise ValueError(f"`index` must have one row number a pair, [{x.shape[0]}]. Found {tuple(index.shape)}.")
