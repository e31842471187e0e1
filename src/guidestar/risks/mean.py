"""The mean: empirical risk minimization in the algebra of risks."""

from __future__ import annotations

from torch import Tensor

from guidestar.risks.base import Risk, Rows


class Mean(Risk):
    r"""The mean of the losses, $\frac1m \sum_j \ell_j$ (ERM).

    Equations:
        6.13 (its gradient).

    Shapes:
        `losses` `[..., m]` -> `[...]`.

    State:
        none but the count of empty rows.

    Raises:
        ValueError, TypeError: as `Risk.forward`: shapes, dtypes.

    Example:
        >>> import torch
        >>> Mean()(torch.tensor([1.0, 2.0, 6.0]))
        tensor(3.)
    """

    def value(self, rows: Rows) -> Tensor:
        return rows.mean(rows.losses)
