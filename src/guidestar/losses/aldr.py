"""ALDR: the label-distributionally robust loss whose temperature adapts to each sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guidestar.duals import Dual
from guidestar.losses.base import Loss
from guidestar.losses.label_batch import class_batch
from guidestar.losses.ldr import check_margin, margin_errors
from guidestar.risks.base import check_positive
from guidestar.risks.mean import Mean


class ALDRLoss(Loss):
    r"""Adaptive label-distributionally robust loss (ALDR-KL): one $\lambda_i$ a sample, which is remembered.

    $\max_{\lambda}\, \max_{p \in \Delta_K} \sum_k p_k z_k - \lambda \mathrm{KL}(p, 1/K)
    - \frac{\alpha \log K}{2\lambda_0} (\lambda - \lambda_0)^2, \qquad z_k = f_k - f_y + c\,1[k \ne y]$

    Where the model is undecided, p is near uniform and $\lambda_i$ stays near $\lambda_0$; the surer it is, of the label or
    of another class, the smaller $\lambda_i$ becomes.

    - For a fixed $\lambda$ the best p is softmax(z / $\lambda$); for a fixed p the best $\lambda$ is
      $\lambda_0 - \lambda_0 \mathrm{KL}(p, 1/K) / (\alpha \log K)$. One such pair of steps is made a visit, from the
      $\lambda_i$ that the sample had; neither lowers the objective, and as KL is at most log K, $\lambda_i$ stays in
      $[\lambda_0 (1 - 1/\alpha), \lambda_0]$.
    - $\lambda_0$ = `lam0`, $\alpha$ = `alpha` > 1, $c$ = `margin`.

    Equations:
        6.16 with the classes of one sample in the place of the samples and a penalty instead of the ball.

    Args:
        num_rows: number of training samples.
        lam0: $\lambda_0$, positive.
        alpha: larger than 1; towards infinity this is `LDRLoss(lam0)`.
        margin: c, at least 0.

    Shapes:
        `logits` `[B, C]`, `labels` int64 `[B]`, `index` int64 `[B]`, `mask` bool `[B]` -> scalar.

    State:
        `dual.memory.values` float32 `[num_rows]`: $\lambda_i$, at first $\lambda_0$. Ranks exchange (index, gradient).

    Value and gradient:
        the mean over the samples of the objective at the new $\lambda_i$ and its best p, and that p as the weights of the
        gradient. In eval mode, or where gradients are off, the step is made from $\lambda_0$ and nothing is remembered, so
        that samples of another data set need no `index`.

    Raises:
        ValueError: a setting is out of range, shapes that do not fit, a label that is no class, `index` missing in
            training.
        TypeError: logits that are not floating point, labels that are.
        IndexError: a row number on the CPU is out of range.

    Source:
        Zhu et al., "Label Distributionally Robust Losses for Multi-class Classification: Consistency, Robustness and
        Adaptivity", ICML 2023. The released code divides the logits by their mean absolute value and adds 1e-5 to the
        probabilities; both are left out (see `LDRLoss`).

    Example:
        >>> loss = ALDRLoss(num_rows=10, lam0=1.0, alpha=2.0, margin=0.0)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]), torch.tensor([7]))
        tensor(1.4857)
        >>> loss.dual.values(torch.tensor([6, 7]))
        tensor([1.0000, 0.7635])
    """

    def __init__(self, num_rows: int, lam0: float = 1.0, alpha: float = 2.0, margin: float = 0.1) -> None:
        super().__init__()
        self.lam0 = check_positive("lam0", lam0)
        self.alpha = check_positive("alpha", alpha)
        if not alpha > 1:
            raise ValueError(f"`alpha` must be larger than 1, or lambda could become 0. Found {alpha}.")
        self.margin = check_margin(margin)
        # The gradient by lambda is -KL - alpha log K / lam0 (lambda - lam0): divided by log K, and with this step size,
        # one step of ascent ends exactly at the best lambda for the p that the gradient was taken at.
        low = self.lam0 * (1.0 - 1.0 / self.alpha)
        self.dual = Dual(
            num_rows, init=self.lam0, lr=self.lam0 / self.alpha, minimum=low, maximum=self.lam0, maximise=True
        )
        self.risk = Mean()

    def forward(
        self, logits: Tensor, labels: Tensor, index: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The mean over the batch."""
        logits, labels, mask = class_batch(logits, labels, mask)
        errors = margin_errors(logits, labels, self.margin)
        learning = self.training and torch.is_grad_enabled()
        log_k = math.log(logits.shape[1])
        lam = self._adapt(errors.detach(), log_k, index, mask) if learning else self._best(errors.detach(), log_k)
        robust = lam * (torch.logsumexp(errors / lam.unsqueeze(1), -1) - log_k)
        penalty = self.alpha * log_k / (2.0 * self.lam0) * (lam - self.lam0).square()
        return self.risk(robust - penalty, mask=mask)

    def _best(self, errors: Tensor, log_k: float, lam: Tensor | float | None = None) -> Tensor:
        """The best lambda of each sample for the p of the lambda before."""
        before = torch.as_tensor(self.lam0 if lam is None else lam).to(errors).expand(len(errors))
        p = torch.softmax(errors / before.unsqueeze(1), -1)
        divergence = log_k - torch.special.entr(p).sum(-1)
        return self.lam0 - self.lam0 * divergence / (self.alpha * log_k)

    def _adapt(self, errors: Tensor, log_k: float, index: Tensor | None, mask: Tensor | None) -> Tensor:
        if index is not None and index.shape != errors.shape[:1]:
            raise ValueError(
                f"`index` must have one row number for each sample, shape {tuple(errors.shape[:1])}. Found "
                f"{tuple(index.shape)}."
            )
        before = self.dual.values(index).to(errors)
        best = self._best(errors, log_k, before)
        self.dual.move((best - before) * self.alpha / self.lam0, index, mask)
        return best

    def extra_repr(self) -> str:
        return f"lam0={self.lam0}, alpha={self.alpha}, margin={self.margin}"
