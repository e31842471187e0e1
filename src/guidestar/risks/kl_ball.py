"""KL-constrained worst case, whose temperature is learnt."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar.duals import Dual
from guidestar.risks.base import Risk, Rows, check_positive
from guidestar.risks.kl import hide, log_mean_exp
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
    ) -> None:
        super().__init__()
        if not 0 <= rho < float("inf"):
            raise ValueError(f"`rho` is the radius of a ball and must be at least 0 and finite. Found {rho}.")
        self.rho = float(rho)
        self.tau_min = check_positive("tau_min", tau_min)
        if check_positive("tau", tau) < tau_min:
            raise ValueError(f"`tau` must be at least `tau_min` = {tau_min}. Found {tau}.")
        self.per_row = per_row
        self.dual = Dual(num_rows if per_row else 1, init=tau, lr=lr, momentum=momentum, minimum=tau_min)
        self.tracker = Tracker(num_rows, gamma=gamma, log_space=True)

    def forward(
        self, losses: Tensor, index: Tensor | None = None, mask: Tensor | None = None, tau: Tensor | None = None
    ) -> Tensor:
        """The risk of each row; with `tau`, at temperatures that the caller predicts (broadcastable to `[...]`)."""
        if tau is None:
            return self._evaluate(losses, index, mask, self.value)
        self._check_tau(losses, tau)
        return self._evaluate(losses, index, mask, lambda rows: tau * (self._at(rows, tau)[2] + self.rho))

    def value(self, rows: Rows) -> Tensor:
        index = self._dual_index(rows)
        tau = self.dual.values(index).to(rows.losses.dtype)
        scaled, inner, v = self._at(rows, tau)
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                # Eq. 6.16's gradient by tau. The mean of exp(scaled - v) scaled is that by the softmax times
                # exp(inner - v), which is 1 only with gamma = 1.
                mean = (torch.softmax(hide(rows, scaled), -1) * scaled).sum(-1) * torch.exp(inner - v)
                self.dual.move(v + self.rho - mean, index, rows.active)
        return torch.add(tau * v, tau, alpha=self.rho)

    def _at(self, rows: Rows, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scaled = rows.losses / tau.unsqueeze(-1)
        inner = log_mean_exp(rows, scaled)
        return scaled, inner, self.tracker(inner, rows.index, active=rows.active)

    def _dual_index(self, rows: Rows) -> Tensor | None:
        if not self.per_row or (rows.index is None and len(self.dual.memory) == 1):
            return None
        if rows.index is None:
            raise ValueError("`index` is needed: every row has its own temperature. Pass the row number of each row.")
        return rows.index

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
