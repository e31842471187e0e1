"""Which pairs of a batch count as negatives, tile by tile."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Its exp is 0, also after subtraction of any row's own log-sum; finite, so that an empty row has no NaN.
HIDDEN = torch.finfo(torch.float32).min / 4


@dataclass(frozen=True)
class PairMask:
    """Which entries of a matrix of pairs `[R, C]` count.

    Row i's own pair is the entry (i, `own` + i), which is its positive. An entry counts if its row and column are
    valid, unless it is hidden: the own pair if `hide_own`, and every entry whose row and column have the same group
    (but the own pair, which only `hide_own` hides).

    Args:
        rows, columns: the matrix's shape.
        own: the column of row 0's own pair; None where rows and columns have no own pairs.
        hide_own: whether own pairs are hidden.
        row_groups, column_groups: int64 `[R]` and `[C]`, or None.
        row_valid, column_valid: bool `[R]` and `[C]`, or None.

    Example:
        >>> PairMask(2, 3, own=1, hide_own=True).tile(0, 2)
        tensor([[ True, False,  True],
                [ True,  True, False]])
    """

    rows: int
    columns: int
    own: int | None = 0
    hide_own: bool = False
    row_groups: Tensor | None = None
    column_groups: Tensor | None = None
    row_valid: Tensor | None = None
    column_valid: Tensor | None = None

    @property
    def trivial(self) -> bool:
        """Whether every entry counts."""
        return not self.hide_own and self.row_groups is None and self.row_valid is None and self.column_valid is None

    def tile(self, start: int, stop: int, device: torch.device | None = None) -> Tensor | None:
        """The entries of the rows `start` to `stop` that count, bool `[stop - start, C]`; None: all of them."""
        if self.trivial:
            return None
        own = None
        if self.own is not None and (self.hide_own or self.row_groups is not None):
            columns = torch.arange(self.columns, device=device)
            own = torch.arange(start + self.own, stop + self.own, device=device).unsqueeze(1) == columns
        if self.row_groups is not None and self.column_groups is not None:
            counts = self.row_groups[start:stop].unsqueeze(1) != self.column_groups
            if own is not None and not self.hide_own:
                counts = counts | own
            elif own is not None:
                counts = counts & ~own
        elif own is not None and self.hide_own:
            counts = ~own
        else:
            counts = torch.ones(stop - start, self.columns, dtype=torch.bool, device=device)
        if self.row_valid is not None:
            counts = counts & self.row_valid[start:stop].unsqueeze(1)
        if self.column_valid is not None:
            counts = counts & self.column_valid
        return counts
