"""The training loop that the studies share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def descend(
    optimizer: torch.optim.Optimizer,
    steps: int,
    objective: Callable[[int], Tensor],
    backward: Callable[[Tensor], object] = torch.Tensor.backward,
) -> Iterator[int]:
    """Take `steps` steps on `objective(step)` with a cosine schedule; yields the number of steps after each.

    Example:
        >>> w = torch.ones(1, requires_grad=True)
        >>> optimizer = torch.optim.SGD([w], lr=0.5)
        >>> list(descend(optimizer, 2, lambda step: (w * w).sum())), w.detach()
        ([1, 2], tensor([0.]))
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        value = objective(step)
        optimizer.zero_grad()
        backward(value)
        optimizer.step()
        yield step + 1


def endless(sampler: Iterator[list[int]] | object) -> Iterator[Tensor]:
    """The batches of a sampler with `set_epoch`, epoch after epoch."""
    epoch = 0
    while True:
        sampler.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]
        for rows in sampler:  # pyright: ignore[reportGeneralTypeIssues]
            yield torch.as_tensor(rows)
        epoch += 1


def shuffled(rows: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Passes over the rows in a new order each, without the incomplete batch at the end.

    Example:
        >>> next(shuffled(4, 4, 0)).sort().values
        tensor([0, 1, 2, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(rows, generator=generator)
        yield from order[: rows // batch * batch].split(batch)
