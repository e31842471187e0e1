"""What the objectives need from `torch.distributed`, and nothing else of it.

Every function is the identity when no process group is initialised, so that the same code runs on one process. The
convention is that of `DistributedDataParallel`: gradients of parameters are *averaged* over the ranks, so a local
gradient is written such that its mean over the ranks is the gradient of the objective of the global batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# The same function; torch 2.13 gave it this name and warns at the old one.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def world_size() -> int:
    """Number of processes that train together (1 without a process group).

    Example:
        >>> world_size()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0.

    Example:
        >>> rank()
        0
    """
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()


def mean(values: Tensor) -> Tensor:
    """Mean of `values` over the ranks, detached.

    Example:
        >>> mean(torch.tensor(2.0))
        tensor(2.)
    """
    size = world_size()
    if size == 1:
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / size


def log_mean_exp(values: Tensor) -> Tensor:
    """log of the mean over the ranks of exp(`values`), detached, without overflow.

    Example:
        >>> log_mean_exp(torch.tensor(1000.0))
        tensor(1000.)
    """
    if world_size() == 1:
        return values.detach()
    return torch.logsumexp(gather(values.unsqueeze(0)), dim=0) - math.log(world_size())


def mean_value(values: Tensor) -> Tensor:
    """The mean over the ranks as value, the local tensor as gradient.

    Example:
        >>> mean_value(torch.tensor(3.0))
        tensor(3.)
    """
    if world_size() == 1:
        return values
    return mean(values) + (values - values.detach())


def gather(values: Tensor) -> Tensor:
    """The ranks' tensors, one after the other along the first dimension, detached. Shapes must agree over the ranks.

    Example:
        >>> gather(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    size = world_size()
    if size == 1:
        return values.detach()
    values = values.detach().contiguous()
    out = values.new_empty((size * values.shape[0], *values.shape[1:]))
    if values.dtype == torch.bool:
        return gather(values.to(torch.uint8)).bool()
    _all_gather(out, values)
    return out


def gather_with_gradient(values: Tensor) -> Tensor:
    """`gather`, with this rank's slice attached to the graph.

    Its gradient is multiplied by the number of ranks: a function F of the gathered tensor is the same on every rank, so
    the mean over the ranks of (world size times the gradient by the own slice) is the gradient of F by all of them.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> gather_with_gradient(x).sum().backward()
        >>> x.grad
        tensor([1., 1.])
    """
    size = world_size()
    if size == 1:
        return values
    everything = gather(values)
    start = rank() * values.shape[0]
    own = values.detach() + size * (values - values.detach())
    return torch.cat([everything[:start], own, everything[start + values.shape[0] :]])


class _GatherSummed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.count = values.shape[0]
        return gather(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = rank() * ctx.count
        return total[start : start + ctx.count]


def gather_summed(values: Tensor) -> Tensor:
    """`gather`, whose gradient is the sum of what all ranks' own objectives have by this rank's slice.

    For objectives that differ from rank to rank (each has its own anchors against everybody's features): the mean over
    the ranks of the parameters' gradients is then that of the mean of the objectives. Every rank must run backward.

    Example:
        >>> gather_summed(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    return values if world_size() == 1 else _GatherSummed.apply(values)  # pyright: ignore[reportReturnType]


class _LogSumExpSlice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor) -> Tensor:
        total = torch.logsumexp(gather(parts.unsqueeze(0)), 0)
        ctx.save_for_backward(torch.exp(parts - total))
        count = parts.shape[0] // world_size()
        return total[rank() * count : (rank() + 1) * count]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (share,) = ctx.saved_tensors
        return gather(gradients[0]) * share


def log_sum_exp_slice(parts: Tensor) -> Tensor:
    """log of the sum over the ranks of exp(`parts`), this rank's slice of it, differentiable.

    Args:
        parts: `[world * b]`; each rank has its part of every row's sum (column statistics of its block of a matrix).

    Returns:
        `[b]`: the rows that belong to this rank. Its gradient reaches every rank's parts; every rank must run backward.

    Example:
        >>> log_sum_exp_slice(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    return parts if world_size() == 1 else _LogSumExpSlice.apply(parts)  # pyright: ignore[reportReturnType]
