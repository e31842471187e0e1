"""Any function of the pairs of an anchor, a tile of anchors at a time, made again for the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Pairs of a tile, on a CPU (whose cache holds it) and elsewhere (where it must be worth its kernels).
TILE = (1 << 18, 1 << 23)


@torch.compiler.disable
def tiled(function: Callable[..., Tensor], anchors: Tensor, others: Tensor, *more: Tensor) -> Tensor:
    """`function(anchors, others, *more)`, in memory that does not grow with the number of pairs.

    Args:
        function: gives `[..., P]`, a value for each anchor that no other anchor influences. Where it has a gradient of
            its own (a surrogate that is learnt), that gradient needs the whole matrix, and the function is called once.
        anchors: `[..., P]`.
        others: `[..., N]`.
        more: further tensors with an entry for each anchor, `[..., P]`.

    Example:
        >>> tiled(lambda a, b: (b.unsqueeze(-2) - a.unsqueeze(-1)).sum(-1), torch.arange(3.0), torch.ones(2))
        tensor([ 2.,  0., -2.])
    """
    if torch.is_grad_enabled():
        first = (tensor[..., :1].detach() for tensor in (anchors, others, *more))
        if function(*first).requires_grad:
            return function(anchors, others, *more)
    return _Tiled.apply(function, anchors, others, *more)  # pyright: ignore[reportReturnType]


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], anchors: Tensor, others: Tensor, *more: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(anchors, others, *more)
        whole = None
        for tile in _tiles(anchors, others):
            first, *rest = (tensor[..., tile] for tensor in (anchors, *more))
            value = function(first, others, *rest)
            if whole is None:
                whole = value.new_empty((*value.shape[:-1], anchors.shape[-1]))
            # Copied at once: small results that stay between large tiles that go leave an allocator holes it can't use.
            whole[..., tile] = value
        return torch.empty_like(anchors) if whole is None else whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        anchors, others, *more = ctx.saved_tensors
        own = [anchors, *more]
        needed = [ctx.needs_input_grad[1], *ctx.needs_input_grad[3:]]
        by_own = [torch.zeros_like(tensor) if need else None for tensor, need in zip(own, needed, strict=True)]
        by_others = torch.zeros_like(others)
        for tile in _tiles(anchors, others):
            parts = [tensor[..., tile].detach().requires_grad_() for tensor in own]
            against = others.detach().requires_grad_()
            with torch.enable_grad():
                value = ctx.function(parts[0], against, *parts[1:])
            found = torch.autograd.grad(value, (against, *parts), gradients[0][..., tile], materialize_grads=True)
            by_others += found[0]
            for whole, part in zip(by_own, found[1:], strict=True):
                if whole is not None:
                    whole[..., tile] = part
        return None, by_own[0], by_others, *by_own[1:]


def _tiles(anchors: Tensor, others: Tensor) -> Iterator[slice]:
    lead = torch.broadcast_shapes(anchors.shape[:-1], others.shape[:-1])
    width = max(1, TILE[anchors.device.type != "cpu"] // max(1, lead.numel() * others.shape[-1]))
    for start in range(0, anchors.shape[-1], width):
        yield slice(start, start + width)
