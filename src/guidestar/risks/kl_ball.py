"""KL-constrained worst case, whose temperature is learnt."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.duals import Dual
from guidestar.risks.base import Risk, Rows, check_positive
from guidestar.risks.kl import add_eps, hide, log_mean_exp
from guidestar.schedules import Schedule
from guidestar.state import math_dtype
from guidestar.tracking import Tracker


class KLBall(Risk):
    r"""The worst case over a KL ball of radius rho, with its temperature as a dual variable.

    $\max_{p:\, \sum_j p_j \log(m p_j) \le \rho} \sum_j p_j \ell_j
    = \min_{\tau \ge \tau_0} \tau \log\left(\frac1m \sum_j \exp(\ell_j/\tau)\right) + \tau\rho$
    for tau_0 to 0. With tau_0 > 0 the right side is the worst case of $\sum_j p_j \ell_j + \tau_0 (\rho - \mathrm{KL}(p))$:
    Eq. 6.15 has the same term but for its constant $\tau_0 \rho$; it is 0 where the constraint is active.

    - $\rho$ = `rho`: the radius of the ball itself. DRRho's radius over n samples is $\rho/n$ (Eq. 6.120): pass that.
    - $\tau$: starts at `tau`, is at least $\tau_0$ = `tau_min`, and moves inside the forward by
      $\partial_\tau = v + \rho - \frac1m \sum_j e^{\ell_j/\tau - v}\, \ell_j/\tau$ with step `lr`.
    - $v$: the logarithm of the average of $\frac1m \sum_j \exp(\ell_j/\tau)$ with rate `gamma`, as in `KL`.

    Equations:
        6.15, 6.16 and the estimator of tau's gradient after it; 6.45 to 6.47, 6.49, 6.50, 6.120; Alg. 35 (steps 6 to 10).

    Args:
        rho: radius, at least 0.
        tau: initial temperature.
        tau_min: lower bound of the temperature, positive.
        per_row: one temperature for each of the `num_rows` rows (iSogCLR) instead of one for all (FastCLIP-v3).
        num_rows, gamma: as for `KL`.
        lr: step size of tau.
        momentum: momentum of tau's steps (Eq. 6.2).
        lr_cut: (threshold, factor): at or below the threshold, tau moves with `lr` times the factor (FastCLIP's rule).

    Shapes:
        `losses` `[..., m]`, `index` `[...]` -> `[...]`; the optional `tau` of `forward` broadcasts to `[...]`.

    State:
        `dual.memory.values` float32 `[num_rows or 1]`: tau; `tracker.memory.values` float32 `[num_rows]`: v, none with
        gamma = 1.

    Value and gradient:
        $\tau v + \tau\rho$ with the tau before its step. The gradient by the losses is exact for that tau; where `tau` is
        given to `forward` (a temperature network), the gradient by it is exact too and nothing is stepped here.

    Limits:
        with gamma < 1, v is an average over past temperatures. Where losses have heavy tails and `lr` is large, tau can
        oscillate between its bound and large values, because the v that is remembered belongs to another tau. Then use a
        smaller `lr`, a larger `tau_min`, or gamma = 1.

    Raises:
        ValueError: a setting is out of range, shapes that do not fit, `index` missing with many rows.

    Source:
        Qi et al., "Stochastic Constrained DRO with a Complexity Independent of Sample Size", TMLR 2023; Qiu et al.,
        "Not All Semantics are Created Equal: Contrastive Self-supervised Learning with Automatic Temperature
        Individualization", ICML 2023. FastCLIP's official code halves one term of tau's gradient; this is the exact one.

    Example:
        >>> import torch
        >>> risk = KLBall(rho=0.1, tau=2.0, lr=0.5)
        >>> risk(torch.tensor([0.0, 2.0]))
        tensor(1.4402)
        >>> bool(risk.dual.rows() != 2.0)
        True
    """

    def __init__(
        self,
        rho: float,
        *,
        tau: float = 1.0,
        tau_min: float = 1e-2,
        per_row: bool = False,
        num_rows: int = 1,
        gamma: float | Schedule = 1.0,
        lr: float = 0.01,
        momentum: float = 0.0,
        lr_cut: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= rho < float("inf"):
            raise ValueError(f"`rho` is the radius of a ball and must be at least 0 and finite. Found {rho}.")
        self.rho = float(rho)
        self.tau_min = check_positive("tau_min", tau_min)
        if check_positive("tau", tau) < tau_min:
            raise ValueError(f"`tau` must be at least `tau_min` = {tau_min}. Found {tau}.")
        self.per_row = per_row
        rows = num_rows if per_row else 1
        self.dual = Dual(rows, init=tau, lr=lr, momentum=momentum, minimum=tau_min, lr_cut=lr_cut)
        self.tracker = Tracker(num_rows, gamma=gamma, log_space=True)

    def forward(
        self, losses: Tensor, index: Tensor | None = None, mask: Tensor | None = None, tau: Tensor | None = None
    ) -> Tensor:
        """The risk of each row; with `tau`, at temperatures that the caller predicts (broadcastable to `[...]`)."""
        if tau is None:
            return self._evaluate(losses, index, mask, self.value)
        self._check_tau(losses, tau)
        return self._evaluate(losses, index, mask, lambda rows: self._predicted(rows, tau))

    def value(self, rows: Rows) -> Tensor:
        index = self.dual_index(rows.index)
        tau = self.dual.values(index).to(rows.losses.dtype)
        scaled = rows.losses / tau.unsqueeze(-1)
        inner = log_mean_exp(rows, scaled)
        learning = self.training and torch.is_grad_enabled()
        with torch.no_grad():
            mean = (torch.softmax(hide(rows, scaled), -1) * scaled).sum(-1) if learning else inner
        value, slope = self.finish(inner, mean, tau, rows.index, rows.active)
        if learning:
            self.dual.move(slope, index, rows.active)
        return value

    def finish(
        self,
        inner: Tensor,
        expected: Tensor,
        tau: Tensor,
        index: Tensor | None = None,
        active: Tensor | None = None,
        *,
        eps: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        r"""The risk of each row from its statistics, and the slope by its temperature, which is not moved here.

        $\tau \log(\varepsilon + u) + \tau\rho$ and its derivative
        $\log(\varepsilon + u) + \rho - \frac{\hat g}{\varepsilon + u} E$, with E the mean of $\ell_j/\tau$ under the weights
        $e^{\ell_j/\tau}$. `dual.move(slope, dual_index(index), active)` moves the temperature.

        Args:
            inner: $\log \hat g = \log \frac1m \sum_j \exp(\ell_j/\tau)$ of the mini-batch, `[*rows]`.
            expected: E, `[*rows]`, outside the graph.
            tau: the temperatures that both were made with, a scalar or `[*rows]`; a gradient by it is kept.
            index, active: row numbers and which rows have a loss that counts, `[*rows]`.
            eps: $\varepsilon$ of Alg. 35, at least 0.
        """
        v = add_eps(self.tracker(inner, index, active=active), eps)
        with torch.no_grad():
            # Eq. 6.16's gradient by tau: the mean by the softmax times exp(inner - v), which is 1 only with gamma = 1.
            slope = v + self.rho - expected * torch.exp(inner - v)
        return torch.addcmul(tau * self.rho, tau, v), slope

    def _predicted(self, rows: Rows, tau: Tensor) -> Tensor:
        inner = log_mean_exp(rows, rows.losses / tau.unsqueeze(-1))
        return tau * (self.tracker(inner, rows.index, active=rows.active) + self.rho)

    def dual_index(self, index: Tensor | None) -> Tensor | None:
        """The rows of the temperatures for the rows `index`.

        Raises:
            ValueError: every row has its own temperature, and there is no index.
        """
        if not self.per_row or (index is None and len(self.dual.memory) == 1):
            return None
        if index is None:
            raise ValueError("`index` is needed: every row has its own temperature. Pass the row number of each row.")
        return index

    @staticmethod
    def _check_tau(losses: Tensor, tau: Tensor) -> None:
        math_dtype(tau)
        lead = losses.shape[:-1]
        if tau.numel() > 1 and tau.shape != lead:
            raise ValueError(
                f"`tau` must be a scalar or have one temperature a row, {tuple(lead)}. Found {tuple(tau.shape)}."
            )
        if tau.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((tau > 0).all()):
            raise ValueError(f"`tau` must be positive. Found {float(tau.min())}.")

    def extra_repr(self) -> str:
        return f"rho={self.rho}, tau_min={self.tau_min}, per_row={self.per_row}"
