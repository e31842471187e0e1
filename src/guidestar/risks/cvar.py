"""CVaR: the mean of the worst share of the losses, by its dual or exactly within the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guidestar.duals import Dual
from guidestar.risks.base import Risk, Rows, check_share, whole
from guidestar.surrogates import smoothed_hinge, smoothed_hinge_slope


class CVaR(Risk):
    r"""The mean of the worst share alpha of the losses, through its dual variable.

    $\mathrm{CVaR}_\alpha = \min_\nu \frac{1}{\alpha m} \sum_j [\ell_j - \nu]_+ + \nu$

    - $\alpha$ = `alpha`: the worst share that counts; k/n for the top k of n (Eq. 6.116). 1 is the mean.
    - $\nu$: the threshold, the (1 - alpha)-quantile at the optimum. It moves inside the forward by its subgradient
      $1 - \frac{1}{\alpha m} \#\{\ell_j > \nu\}$ with step `lr`, so the batch need not be large enough to hold a tail.
    - `smoothing` $\varepsilon$: the hinge $[\cdot]_+$ is replaced by its Moreau envelope $f_\varepsilon$ (SONEX).

    Equations:
        6.17, 6.19, 6.25, 6.117; Alg. 20 of the book (ASGD), Alg. 25 (with `smoothing`), Alg. 29 (one row a positive).
        6.17 is this divided by its constant factor 1/alpha.

    Args:
        alpha: the worst share that counts, in (0, 1].
        num_rows: number of thresholds: 1 for a data set, n for one a row.
        lr: step size of nu, in units of the loss.
        smoothing: $\varepsilon$ of the smoothed hinge, 0 for none.

    Shapes:
        `losses` `[..., m]`, `index` `[...]` -> `[...]`.

    State:
        `dual.memory.values` float32 `[num_rows]`: nu, 0 at the start.

    Value and gradient:
        the objective at the nu before its step, and 1/(alpha m) for each loss above nu. The value is an upper bound of
        CVaR that is tight at the optimal nu.

    Raises:
        ValueError: `alpha`, `lr` or `smoothing` out of range, shapes that do not fit, `index` missing with many rows.

    Source:
        Rockafellar and Uryasev, "Optimization of conditional value-at-risk", Journal of Risk 2000.

    Example:
        >>> import torch
        >>> risk = CVaR(alpha=0.5, lr=0.1)
        >>> risk(torch.tensor([-1.0, 1.0, 2.0, 3.0]))
        tensor(3.)
        >>> risk.dual.rows()
        tensor(0.0500, requires_grad=True)
    """

    def __init__(self, alpha: float, *, num_rows: int = 1, lr: float = 0.1, smoothing: float = 0.0) -> None:
        super().__init__()
        self.alpha = check_share("alpha", alpha)
        if not smoothing >= 0:
            raise ValueError(f"`smoothing` must be 0 (the hinge) or positive. Found {smoothing}.")
        self.smoothing = float(smoothing)
        self.dual = Dual(num_rows, lr=lr)

    def value(self, rows: Rows) -> Tensor:
        nu = self.dual.values(rows.index).to(rows.losses.dtype)
        above = rows.losses - nu.unsqueeze(-1)
        if self.training and torch.is_grad_enabled():
            slope = (
                1.0 - rows.mean(smoothed_hinge_slope(above.detach(), self.smoothing)) / self.alpha
            )  # Alg. 25, step 9
            self.dual.move(slope, rows.index, rows.active)
        return rows.mean(smoothed_hinge(above, self.smoothing)) / self.alpha + nu  # Eq. 6.117

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, smoothing={self.smoothing}"


class TopK(Risk):
    r"""The exact mean of the worst share alpha of the losses of the batch.

    $\frac{1}{\alpha m} \left( \sum_{j \le \lfloor \alpha m \rfloor} \ell_{[j]} + (\alpha m - \lfloor \alpha m \rfloor)
    \ell_{[\lfloor \alpha m \rfloor + 1]} \right)$, with $\ell_{[1]} \ge \ell_{[2]} \ge \dots$: the value of `CVaR` at
    its optimal threshold, within the batch. When alpha m is whole, this is the mean of the top k.

    Equations:
        6.116 (within the batch).

    Args:
        alpha: the worst share that counts, in (0, 1]. With less than one loss (alpha m < 1) the largest loss counts.

    Shapes:
        `losses` `[..., m]` -> `[...]`; `index` is not needed. A single row `[m]` is taken over all ranks' losses.

    State:
        none but the count of empty rows.

    Value and gradient:
        the formula, and its weights. Within small batches it is biased: a batch has no tail of the data set. Use `CVaR`.

    Raises:
        ValueError: `alpha` out of range, shapes that do not fit.

    Example:
        >>> import torch
        >>> TopK(0.5)(torch.tensor([1.0, 4.0, 2.0, 3.0]))
        tensor(3.5000)
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = check_share("alpha", alpha)

    def value(self, rows: Rows) -> Tensor:
        losses, mask, count = whole(rows)
        m = losses.shape[-1]
        if mask is None:
            share = max(self.alpha * m, 1.0)
            # alpha * m is a whole number up to rounding more often than not: 0.1 * 30 = 3.0000000000000004.
            share = float(round(share)) if math.isclose(share, round(share), rel_tol=1e-9) else share
            top = torch.topk(losses, math.ceil(share), dim=-1).values
            weights = (share - torch.arange(top.shape[-1], device=losses.device, dtype=losses.dtype)).clamp(0.0, 1.0)
            return (top * weights).sum(-1) / share
        share = (self.alpha * torch.as_tensor(count, dtype=losses.dtype, device=losses.device)).clamp(min=1.0)
        share = torch.where((share - share.round()).abs() <= 1e-6 * share, share.round(), share).unsqueeze(-1)
        order = torch.where(mask, losses, -float("inf")).argsort(dim=-1, descending=True, stable=True)
        top = torch.where(mask, losses, 0.0).gather(-1, order)
        weights = (share - torch.arange(m, device=losses.device, dtype=losses.dtype)).clamp(0.0, 1.0) / share
        return (top * weights).sum(-1)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"
