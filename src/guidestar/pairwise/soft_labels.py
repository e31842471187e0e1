"""Divergence of each row's (and column's) soft labels of a teacher, from the matrices or from their tiles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from guidestar.pairwise.mask import HIDDEN, PairMask
from guidestar.pairwise.tiles import tile_rows


def soft_label_divergence(
    x: Tensor, y: Tensor, teacher_x: Tensor, teacher_y: Tensor, scale: Tensor, teacher_scale: float, mask: PairMask
) -> Tensor:
    r"""$\mathrm{KL}(p_i \| q_i)$ of each row, with $p_i = \mathrm{softmax}_j(a_r r_{ij})$ and $q_i =
    \mathrm{softmax}_j(a s_{ij})$, `[R]`.

    Args:
        x, y: the student's features `[R, d]`, `[C, d]`.
        teacher_x, teacher_y: the teacher's, `[R, d']`, `[C, d']`; they get no gradient.
        scale, teacher_scale: inverse temperatures a (a scalar tensor) and $a_r$.
        mask: which entries count.

    Example:
        >>> one = torch.eye(2)
        >>> soft_label_divergence(one, one, one, one, torch.tensor(2.0), 2.0, PairMask(2, 2))
        tensor([0., 0.])
    """
    counted = mask.tile(0, mask.rows, x.device)
    student, teacher = x @ y.T * scale, teacher_x @ teacher_y.T * teacher_scale
    if counted is not None:
        student, teacher = (torch.where(counted, values, HIDDEN) for values in (student, teacher))
    log_p, log_q = functional.log_softmax(teacher, 1), functional.log_softmax(student, 1)
    terms = log_p.exp() * (log_p - log_q)
    return (terms if counted is None else torch.where(counted, terms, 0.0)).sum(1)


@torch.compiler.disable
def tiled_soft_label_divergence(
    x: Tensor, y: Tensor, teacher_x: Tensor, teacher_y: Tensor, scale: Tensor, teacher_scale: float, mask: PairMask
) -> Tensor:
    """`soft_label_divergence` with memory of the features and one tile.

    Example:
        >>> one = torch.eye(2)
        >>> tiled_soft_label_divergence(one, one, one, one, torch.tensor(2.0), 2.0, PairMask(2, 2))
        tensor([0., 0.])
    """
    return _Divergence.apply(x, y, teacher_x, teacher_y, scale, teacher_scale, mask)  # pyright: ignore[reportReturnType]


def _tile(
    x: Tensor, y: Tensor, scale: Tensor | float, mask: PairMask, start: int, stop: int
) -> tuple[Tensor, Tensor | None]:
    values = (x[start:stop] @ y.T).mul_(scale)
    counted = mask.tile(start, stop, x.device)
    return (values if counted is None else values.masked_fill_(~counted, HIDDEN)), counted


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        teacher_x: Tensor,
        teacher_y: Tensor,
        scale: Tensor,
        teacher_scale: float,
        mask: PairMask,
    ) -> Tensor:
        divergence, log_q, log_p, drift = x.new_zeros(4, mask.rows).unbind()
        step = tile_rows(mask.columns)
        for start in range(0, mask.rows, step):
            stop = min(start + step, mask.rows)
            rows = slice(start, stop)
            student, counted = _tile(x, y, scale, mask, start, stop)
            teacher, _ = _tile(teacher_x, teacher_y, teacher_scale, mask, start, stop)
            log_q[rows], log_p[rows] = torch.logsumexp(student, 1), torch.logsumexp(teacher, 1)
            p = torch.exp(teacher - log_p[rows].unsqueeze(1))
            q = torch.exp(student - log_q[rows].unsqueeze(1))
            if counted is not None:
                p, q = p.mul_(counted), q.mul_(counted)
            terms = p * (teacher.sub_(student))
            divergence[rows] = terms.sum(1) + (log_q[rows] - log_p[rows]) * p.sum(1)
            drift[rows] = (q.sub_(p)).mul_(student).sum(1)  # d KL / d log(scale)
        ctx.mask, ctx.teacher_scale = mask, teacher_scale
        ctx.save_for_backward(x, y, teacher_x, teacher_y, scale, log_q, log_p, drift)
        return divergence

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, teacher_x, teacher_y, scale, log_q, log_p, drift = ctx.saved_tensors
        mask: PairMask = ctx.mask
        grad_x, grad_y = torch.zeros_like(x), torch.zeros_like(y)
        step = tile_rows(mask.columns)
        for start in range(0, mask.rows, step):
            stop = min(start + step, mask.rows)
            rows = slice(start, stop)
            student, counted = _tile(x, y, scale, mask, start, stop)
            teacher, _ = _tile(teacher_x, teacher_y, ctx.teacher_scale, mask, start, stop)
            slope = student.sub_(log_q[rows].unsqueeze(1)).exp_()
            slope.sub_(teacher.sub_(log_p[rows].unsqueeze(1)).exp_())
            slope.mul_(gradients[0][rows].unsqueeze(1))
            if counted is not None:
                slope.masked_fill_(~counted, 0.0)
            grad_x[rows] = (slope @ y).mul_(scale)
            grad_y.addmm_(slope.T, x[rows])
        grad_scale = (gradients[0] * drift).sum() / scale
        return grad_x, grad_y.mul_(scale), None, None, grad_scale, None, None
