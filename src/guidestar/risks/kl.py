"""KL-regularized worst case: tau log mean exp(loss / tau)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guidestar.risks.base import Risk, Rows, check_positive
from guidestar.schedules import Schedule
from guidestar.tracking import Tracker


def log_mean_exp(rows: Rows, scaled: Tensor) -> Tensor:
    """log of the mean over the losses that count of exp(`scaled`), `[*rows]`."""
    return torch.logsumexp(hide(rows, scaled), -1) - rows.log_count()


def hide(rows: Rows, scaled: Tensor) -> Tensor:
    """`scaled` `[*rows, m]` with numbers whose exp is 0 where it is masked."""
    if rows.mask is None:
        return scaled
    # A large finite number instead of -inf: a row that is masked as a whole has no NaN gradient.
    return torch.where(rows.mask, scaled, torch.finfo(scaled.dtype).min / 4)


def add_eps(v: Tensor, eps: float) -> Tensor:
    """log(eps + exp(`v`)).

    Example:
        >>> add_eps(torch.tensor(0.0), 1.0)
        tensor(0.6931)
    """
    return v if eps == 0 else torch.logaddexp(v, v.new_tensor(math.log(eps)))


class KL(Risk):
    r"""KL-regularized DRO in its compositional form, tracked in log space.

    $\tau \log\left(\frac1m \sum_j \exp(\ell_j / \tau)\right)
    = \max_{p \in \Delta} \sum_j p_j \ell_j - \tau \sum_j p_j \log(m p_j)$

    - $\tau$ = `tau`: temperature; the mean for tau to infinity, the largest loss for tau to 0.
    - $v = \log u$, with u the average of the mini-batches' $\frac1B \sum \exp(\ell_j/\tau)$ with rate `gamma`. The weight
      of a loss's gradient is $\exp(\ell_j/\tau - v)/B$ (Eq. 6.12), which is larger than within its batch when the batch
      is easier than what came before.

    Equations:
        6.10, 6.11, 6.12, 6.14, 6.118, 6.119; Alg. 24 (ABSGD and AB-xx with the optimizer of your choice).

    Args:
        tau: temperature, positive.
        num_rows: number of sets that are remembered: 1 for DRO over a data set, n for one inner function a sample.
        gamma: averaging rate in (0, 1] or a schedule; 1 is the mini-batch estimate (BSGD) and keeps nothing.

    Shapes:
        `losses` `[..., m]`, `index` `[...]` (not for a single row) -> `[...]`.

    State:
        `tracker.memory.values` float32 `[num_rows]` (v; +inf before the first visit), none with gamma = 1.

    Value and gradient:
        $\tau v$, the running estimate of the objective, and $\sum_j \exp(\ell_j/\tau - v)/m \nabla \ell_j$.

    Raises:
        ValueError: `tau` or `gamma` out of range, shapes that do not fit, `index` missing with many rows.

    Source:
        Qi et al., "Attentional-Biased Stochastic Gradient Descent", TMLR 2023.

    Example:
        >>> import torch
        >>> risk = KL(tau=1.0)
        >>> risk(torch.tensor([0.0, 2.0])), risk.weights(torch.tensor([0.0, 2.0]))
        (tensor(1.4338), tensor([0.1192, 0.8808]))
    """

    def __init__(self, tau: float, num_rows: int = 1, gamma: float | Schedule = 1.0) -> None:
        super().__init__()
        self.tau = check_positive("tau", tau)
        self.tracker = Tracker(num_rows, gamma=gamma, log_space=True)

    def value(self, rows: Rows) -> Tensor:
        return self.finish(log_mean_exp(rows, rows.losses / self.tau), rows.index, rows.active)

    def finish(
        self, inner: Tensor, index: Tensor | None = None, active: Tensor | None = None, *, eps: float = 0.0
    ) -> Tensor:
        r"""The risk of each row from the logarithm of its mean: $\tau \log(\varepsilon + u)$.

        For sets whose losses are never in memory at once (`guidestar.pairwise`).

        Args:
            inner: $\log \frac1m \sum_j \exp(\ell_j/\tau)$ of the mini-batch, `[*rows]`.
            index, active: row numbers and which rows have a loss that counts, `[*rows]`.
            eps: $\varepsilon$ of Alg. 34, at least 0.
        """
        return self.tau * add_eps(self.tracker(inner, index, active=active), eps)  # Eq. 6.11 with v of Eq. 6.14

    def extra_repr(self) -> str:
        return f"tau={self.tau}"
