"""Extreme classification: cross-entropy over classes that are too many to sum over, from the classes of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from guidestar import distributed
from guidestar.duals import Dual
from guidestar.losses.base import Loss
from guidestar.risks.base import as_mask
from guidestar.risks.kl import KL
from guidestar.risks.mean import Mean
from guidestar.schedules import Scent, Schedule
from guidestar.state import math_dtype, may_look

_SCENT = Scent(100.0)


class ExtremeClassificationLoss(Loss):
    r"""Cross-entropy over K classes, of which a batch sees only those of its own samples (SCENT for XMC).

    $F(W) = \frac1n \sum_i \log\Big(\frac1K \sum_{k=1}^K e^{s_{ik} - s_{iy_i}}\Big) = \mathrm{CE}(W) - \log K$

    - $s_{ik} = w_k^\top h(x_i)$ = `logits`: of any head, over the classes that occur in the batch or over more.
    - The mean over the K classes is estimated by the labels of the other samples of the batch, $Y_t \setminus y_i$: a
      *multiset* of B - 1 draws. Another sample with the label $y_i$ is such a draw: it counts with $e^0 = 1$ and has no
      gradient, as the term $k = y_i$ of F. So the mean is that over classes as frequent as they are in the data; over
      classes of equal frequency it is F.
    - $\nu_i$, the logarithm of sample i's running mean, is kept from visit to visit. With `Scent(alpha)` its step is the
      closed form of step 6 of Alg. 26 (Lemma 5.26):
      $\nu \leftarrow \nu + \log(1 + \alpha \hat g) - \log(1 + \alpha e^\nu)$.

    The compared methods: SOX is a constant `gamma` (the book's $\alpha = \gamma e^{-\nu}$ is the rate
    $\gamma / (1 + \gamma)$), BSGD is `gamma=1`, ASGD is `dual_lr`.

    Equations:
        Section 6.3; Alg. 26 (SCENT), steps 5 to 8. Steps 9 and 10 are `guidestar.networks.ClassWeights`, or any
        optimizer.

    Args:
        num_rows: n, the number of samples.
        gamma: rate of the running mean in (0, 1], or a schedule; by default `Scent(100)`. A
            larger alpha forgets faster: a mean can fall to about 1 / (alpha t) in t visits.
        dual_lr: step size of ASGD: $\nu_i$ starts at 0 and moves by the gradient of
            $J_i = e^{-\nu_i} \hat g_i + \nu_i - 1$ instead of being an average. Overflows where $\log \hat g_i$
            exceeds $\nu_i$ by 88; `Scent` does not.

    Shapes:
        `logits` `[B, C]`, one column a class; `labels` int64 `[B]`, each sample's own column; `index` int64 `[B]`;
        `mask` bool `[B]` -> scalar. With several ranks the columns are the same classes on all of them. `counts` `[C]`:
        how often each column's class was drawn, for classes that were sampled in another way than by the batch's
        labels (all ones over K columns: the full sum).

    State:
        `risk.tracker.memory.values` float32 `[n]` ($\nu$, +inf before the first visit, when it becomes the batch's
        estimate), none at gamma = 1; with `dual_lr` `dual.memory.values` float32 `[n]`. Ranks exchange (index, value).

    Value and gradient:
        $\frac1B \sum_i \nu_{i,t}$, the running estimate of F: add log K for the cross-entropy (and log(B - 1) for the
        book's BSGD loss). With `dual_lr` $\frac1B \sum_i J_i$, which is never below its minimum over $\nu$. The gradient
        is $Z_t$ of step 8; it and $J_i$ are at the $\nu_{i,t}$ after its step. A batch of one sample has nothing to
        learn from, and is counted in `empty`.

    Raises:
        ValueError: shapes do not fit, `index` is missing, negative `counts`, `gamma` beside `dual_lr`, a setting out of
            range.
        TypeError: logits that are not floating point, labels that are not int64.
        IndexError: a label is no column, or an index no row.

    Source:
        Wei et al., 2026 (SCENT, section 6.3 of the book). The first visit starts from the batch's estimate, where
        Alg. 26 leaves $\nu_0$ open.

    Example:
        >>> import torch
        >>> loss = ExtremeClassificationLoss(num_rows=10)
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]], requires_grad=True)
        >>> loss(logits, torch.tensor([0, 1, 1]), torch.tensor([4, 7, 1]))
        tensor(-0.8815, grad_fn=<MeanBackward1>)
    """

    def __init__(self, num_rows: int, *, gamma: float | Schedule = _SCENT, dual_lr: float | None = None) -> None:
        super().__init__()
        if dual_lr is not None and gamma != _SCENT:
            raise ValueError(
                f"`gamma` is the rate of a running mean, and with `dual_lr` there is none. Found gamma={gamma} and "
                f"dual_lr={dual_lr}. Pass one of them."
            )
        self.risk = KL(1.0, num_rows, gamma if dual_lr is None else 1.0)
        self.dual = None if dual_lr is None else Dual(num_rows, lr=dual_lr)
        self.mean = Mean()

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        index: Tensor | None = None,
        *,
        counts: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The running estimate of the objective at the samples of the batch."""
        learning = self.training and torch.is_grad_enabled()
        estimate, active = log_mean_ratio(logits, labels, counts=counts, mask=mask, learning=learning)
        if self.dual is not None and learning:
            return self.mean(self._descend(self.dual, estimate, index, active), mask=active)
        some = None if may_look(active) and active.numel() and active.all() else active
        return self.mean(self.risk.finish(estimate, index, some), mask=some)  # Alg. 26, steps 6 and 8

    @staticmethod
    def _descend(dual: Dual, estimate: Tensor, index: Tensor | None, active: Tensor) -> Tensor:
        """J of each sample at nu after its gradient step, the one that its gradient by the model is taken at."""
        if index is None or index.shape != estimate.shape:
            raise ValueError(
                f"`index` must have the row number of each sample, shape {tuple(estimate.shape)}. Found "
                f"{None if index is None else tuple(index.shape)}."
            )
        before = dual.values(index).to(estimate.dtype)
        dual.move(1.0 - torch.exp(estimate.detach() - before), index, active)
        nu = dual.values(index).to(estimate.dtype)
        return torch.where(active, torch.exp(estimate - nu) + nu - 1.0, 0.0)


def log_mean_ratio(
    logits: Tensor,
    labels: Tensor,
    *,
    counts: Tensor | None = None,
    mask: Tensor | None = None,
    learning: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""$\log \hat g_i = \log \frac{1}{|Y_t| - 1} \sum_{k \in Y_t \setminus y_i} e^{R_{ik}}$ of each sample, and which have one.

    Args:
        logits: `[B, C]`.
        labels: int64 `[B]`, columns.
        counts: `[C]`, how often each class was drawn (then also for $y_i$ itself); None: by the labels of the batch.
        mask: bool `[B]`, which samples count.
        learning: the samples of all ranks make one batch.

    Raises:
        ValueError, TypeError, IndexError: as `ExtremeClassificationLoss`.

    Example:
        >>> log_mean_ratio(torch.zeros(2, 5), torch.tensor([3, 0]))
        (tensor([0., 0.]), tensor([True, True]))
    """
    dtype = math_dtype(logits)
    _check(logits, labels, counts)
    logits, labels = logits.to(dtype), labels.to(logits.device)
    if mask is None:
        mask = torch.ones(labels.shape, dtype=torch.bool, device=logits.device)
    else:
        mask = as_mask(logits[:, 0], mask)
        if not may_look(mask) or not mask.all():
            logits = torch.where(mask.unsqueeze(1), logits, 0.0)  # a NaN that is masked must not reach the gradient
    own = 0.0 if counts is not None else 1.0
    if counts is None:
        counts = torch.zeros(logits.shape[1], dtype=dtype, device=logits.device).index_add_(0, labels, mask.to(dtype))
        ranks = distributed.world_size() if learning else 1
        counts = distributed.mean(counts) * ranks if ranks > 1 else counts
    counts = counts.to(logits)
    draws = counts.sum() - own
    mask = mask & (draws > 0)
    if logits.shape[1] == 0:  # and no rows
        return logits.sum(1), mask
    ratio: Tensor = _LogMeanRatio.apply(logits, labels, counts, own, draws)  # type: ignore[assignment]
    return ratio, mask


class _LogMeanRatio(torch.autograd.Function):
    r"""$\log \frac{1}{draws} \sum_k c_k e^{s_{ik} - s_{iy_i}}$ of each row, with `own` draws less of its class $y_i$.

    Autograd would keep several tensors of the size of the logits; the gradient needs one, the softmax over the others.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, counts: Tensor, own: float, draws: Tensor) -> Tensor:
        column = labels.unsqueeze(1)
        hidden = torch.finfo(logits.dtype).min / 4  # finite: a row without any draw has no NaN gradient
        terms = logits - logits.gather(1, column)  # R of section 6.3
        if not may_look(counts) or not (counts == 1).all():
            terms.add_(counts.clamp(min=1e-30).log()).masked_fill_(counts <= 0, hidden)
        terms.scatter_(1, column, hidden)
        weights = torch.softmax(terms, 1)
        top = terms.amax(1)
        # Where the largest term is infinite the weights are NaN, and the sum is infinite.
        others = top - weights.amax(1).nan_to_num_(1.0).log_()
        same = (counts[labels] - own).clamp_(min=0).log_()  # draws of the own class: exp(0) each, no gradient
        total = torch.logaddexp(others, same)
        share = torch.exp(others - total).masked_fill_(top <= hidden, 0.0)  # no draw of another class: no gradient
        ctx.save_for_backward(weights, column, share)
        return total.sub_(draws.clamp(min=1e-30).log_())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        weights, column, share = ctx.saved_tensors
        slope = (grad * share).unsqueeze(1)
        return (weights * slope).scatter_(1, column, -slope), None, None, None, None


def _check(logits: Tensor, labels: Tensor, counts: Tensor | None) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or (logits.shape[1] == 0 and len(labels) > 0):
        raise ValueError(
            f"`logits` must be [B, C] with a column a class, and `labels` [B]. Found {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}."
        )
    if labels.dtype != torch.int64:
        raise TypeError(f"`labels` must be an int64 tensor of column numbers. Found dtype {labels.dtype}.")
    if counts is not None and counts.shape != logits.shape[1:]:
        raise ValueError(
            f"`counts` must have one number for each column of `logits`, shape ({logits.shape[1]},). Found "
            f"{tuple(counts.shape)}."
        )
    if torch.compiler.is_compiling():
        return
    if labels.device.type == "cpu" and labels.numel():
        low, high = (int(bound) for bound in torch.aminmax(labels))
        if low < 0 or high >= logits.shape[1]:
            raise IndexError(
                f"`labels` must be columns of `logits`, in [0, {logits.shape[1]}). Found {low if low < 0 else high}. "
                "Logits over the classes of a batch come with the columns that guidestar.networks.ClassWeights gives."
            )
    if counts is not None and counts.device.type == "cpu" and bool((counts < 0).any()):
        raise ValueError(f"`counts` must be 0 or more. Found {float(counts.min())}.")
