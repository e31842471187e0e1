"""The positives and the negatives of each label, and risks over both: what losses of positives' ranks are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidestar.ranking.batch import BinaryBatch, binary_batch
from guidestar.ranking.closed import polynomial
from guidestar.ranking.entropic import log_mean_exp
from guidestar.ranking.rows import Surrogate, row_hinge_means, row_log_mean_exp, row_means
from guidestar.risks.base import Risk, Rows
from guidestar.risks.cvar import CVaR, TopK
from guidestar.risks.kl import KL
from guidestar.risks.mean import Mean
from guidestar.state import Counter

#: Above so many pairs their exponentials are made tile by tile where the surrogate is a hinge or a squared hinge.
FUSED_FROM = 1 << 14


@dataclass(frozen=True)
class Sides:
    """Scores of the positives and negatives of L labels, padded to the longest, at least to one.

    Attributes:
        pos: `[L, P]`.
        neg: `[L, N]`.
        rows: the positives' rows of memory, `[L, P]` (0 where padded), or None.
        active: bool `[L, P]`: the positives of labels that have both classes; None: all.
        counted: bool `[L, N]`: the negatives that are not padding; None: all.
        batch: what they come from.
    """

    pos: Tensor
    neg: Tensor
    rows: Tensor | None
    active: Tensor | None
    counted: Tensor | None
    batch: BinaryBatch

    @property
    def learnable(self) -> Tensor | None:
        """The labels that have both classes, bool `[L]`; None: all."""
        return None if self.active is None else self.batch.learnable

    @property
    def labels(self) -> Tensor:
        """The numbers of the labels, `[L]`: rows of a memory that has one a label."""
        return torch.arange(len(self.pos), device=self.pos.device)

    @property
    def weights(self) -> Tensor | None:
        """1 for each negative that counts and 0 for padding, `[L, N]`; None: all count."""
        return None if self.counted is None else self.counted.to(self.neg.dtype)

    def positive_mean(self, values: Tensor) -> Tensor:
        """The mean over the positives of `values` `[L, P]`, `[L]`."""
        if self.active is None:
            return values.mean(-1)
        return torch.where(self.active, values, 0.0).sum(-1) / self.active.sum(-1).clamp(min=1)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the labels that have both classes of the mean over their positives of `values` `[L, P]`."""
        if self.active is None:
            return values.mean()
        return self.batch.mean_over_labels(self.positive_mean(values))


def both_sides(
    scores: Tensor,
    labels: Tensor,
    index: Tensor | None,
    mask: Tensor | None,
    *,
    learning: bool,
    empty: Counter,
    num_labels: int | None = None,
) -> Sides:
    """The checked batch of all ranks (of this one, unless `learning`), split into positives and negatives.

    Args:
        scores, labels, index, mask: as `guidestar.ranking.batch.binary_batch`.
        learning: training mode with gradients.
        empty: where the labels that have only one class are counted, if `learning`.
        num_labels: how many labels the memory behind `index` `[B]` was made for.

    Raises:
        ValueError: as `binary_batch`; the scores have another number of labels than the memory.
    """
    columns = scores.shape[1] if scores.ndim == 2 else 1
    if num_labels not in (None, columns) and index is not None and index.ndim == 1:
        raise ValueError(
            f"`num_labels` must be the number of columns of `scores`, {columns}. Found {num_labels}. Construct the loss "
            f"with num_labels={columns}, or give each (sample, label) its row with `index` [B, L]."
        )
    batch = binary_batch(scores, labels, index, mask, learning=learning)
    split = batch.split()
    if learning and not batch.complete:
        empty.add(batch.lacking())
    pos, neg, rows = split.pos, split.neg, split.rows
    if split.pos_mask is None and split.neg_mask is None and pos.shape[1] and neg.shape[1]:
        return Sides(pos, neg, rows, None, None, batch)
    counted = split.neg_mask
    if batch.complete and split.pos_mask is not None:
        return Sides(pos, neg, rows, split.pos_mask, counted, batch)
    active = batch.learnable.unsqueeze(1).expand(pos.shape)
    active = active if split.pos_mask is None else active & split.pos_mask
    # A side without entries gets one that does not count, so that no formula meets an empty set.
    if pos.shape[1] == 0:
        pos, active = pos.new_zeros(len(pos), 1), active.new_zeros(len(pos), 1)
        rows = None if rows is None else rows.new_zeros(len(pos), 1)
    if neg.shape[1] == 0:
        neg, counted = neg.new_zeros(len(neg), 1), active.new_zeros(len(neg), 1)
    rows = None if rows is None else torch.where(active, rows, 0)
    return Sides(pos, neg, rows, active, counted, batch)


def check_surrogate(surrogate: Surrogate) -> Surrogate:
    """`surrogate`, if it is a function.

    Raises:
        TypeError: it is something else, such as a name.

    Example:
        >>> check_surrogate(torch.relu) is torch.relu
        True
    """
    if not callable(surrogate):
        raise TypeError(
            "`surrogate` must be a function of a tensor of s_j - s_i, such as guidestar.surrogates.squared_hinge. Found "
            f"{type(surrogate).__name__}."
        )
    return surrogate


def negatives_risk(risk: Risk, sides: Sides, surrogate: Surrogate) -> Tensor:
    r"""For each positive i the risk over the negatives j of $\ell(s_j - s_i)$, `[L, P]`.

    The matrix of the pairs is not formed where it is large and the risk is `Mean`, `KL` or `CVaR`.

    Args:
        risk: the risk; its rows are those of the positives.
        sides: positives and negatives.
        surrogate: $\ell$.
    """
    # Not isinstance: what a subclass has changed is taken into account by its `value` only.
    if type(risk) is Mean:
        return row_means(sides.pos, sides.neg, surrogate, weights=sides.weights)
    if type(risk) is KL:
        inner = _log_mean_exp(sides, surrogate, risk.tau)
        if sides.rows is None and not _learning(risk):
            return risk.tau * inner  # nothing is remembered, so no row is needed
        return risk.finish(inner, sides.rows, sides.active)
    if type(risk) is CVaR and risk.smoothing == 0:
        return _cvar(risk, sides, surrogate)
    losses = surrogate(sides.neg.unsqueeze(1) - sides.pos.unsqueeze(2))
    if sides.active is None:
        return risk.value(Rows(losses, sides.rows, None, losses.shape[-1], None, False))
    mask = sides.active.unsqueeze(2).expand(losses.shape)
    count: int | Tensor = losses.shape[-1]
    if sides.counted is not None:
        mask = mask & sides.counted.unsqueeze(1)
        count = sides.counted.sum(-1, keepdim=True).clamp(min=1).to(losses.dtype).expand(sides.pos.shape)
    return risk.value(Rows(torch.where(mask, losses, 0.0), sides.rows, mask, count, sides.active, False))


def _log_mean_exp(sides: Sides, surrogate: Surrogate, tau: float) -> Tensor:
    form = None if torch.compiler.is_compiling() else polynomial(surrogate)
    if form is not None and form.cut and sides.pos.numel() * sides.neg.shape[-1] > FUSED_FROM:
        return log_mean_exp(sides.pos, sides.neg, form, tau, sides.counted)
    return row_log_mean_exp(sides.pos, sides.neg, surrogate, tau, weights=sides.counted)


def _learning(risk: Risk) -> bool:
    return risk.training and torch.is_grad_enabled()


def _cvar(risk: CVaR, sides: Sides, surrogate: Surrogate) -> Tensor:
    if sides.rows is None and len(risk.dual.memory) > 1 and not _learning(risk):
        return negatives_risk(TopK(risk.alpha), sides, surrogate)  # the best threshold of each row, where none is kept
    dual = risk.dual
    rows = None if sides.rows is None else dual.memory.on_device(sides.rows)
    nu = dual.values(rows, checked=True).to(sides.pos.dtype)
    excess, slope = row_hinge_means(sides.pos, sides.neg, surrogate, nu, weights=sides.weights)
    if _learning(risk):
        dual.move(1.0 + slope / risk.alpha, rows, sides.active, checked=True)  # Alg. 29, step 6
    return torch.add(nu, excess, alpha=1.0 / risk.alpha)  # Eq. 6.25


def positives_risk(risk: Risk, sides: Sides, values: Tensor) -> Tensor:
    """The risk over the positives of `values` `[L, P]`, one row a label, `[L]`."""
    if sides.active is None:
        return risk.value(Rows(values, sides.labels, None, values.shape[-1], None, False))
    count = sides.active.sum(-1).clamp(min=1).to(values.dtype)
    values = torch.where(sides.active, values, 0.0)
    return risk.value(Rows(values, sides.labels, sides.active, count, sides.learnable, False))
