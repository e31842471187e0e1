"""Sharing out, between processes, the pairs that were selected among all processes' candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from guidestar import distributed


def my_share(columns: list[Tensor], kept: Tensor, candidates: int) -> list[Tensor]:
    """This process's equal part of the kept pairs, wherever they were loaded.

    Args:
        columns: tensors `[candidates, ...]` of this process; the same kinds and shapes on every process.
        kept: positions among all processes' candidates in the order of ranks, the same on every process; their number is
            a multiple of the number of processes.
        candidates: how many candidates each process has.

    Returns:
        The columns of the part, on one process simply `column[kept]`.

    Example:
        >>> my_share([torch.tensor([10, 20, 30])], torch.tensor([2, 0]), 3)
        [tensor([30, 10])]
    """
    world, rank = distributed.world_size(), distributed.rank()
    if world == 1:
        return [column[kept.to(column.device)] for column in columns]
    # Every process sends the pairs that were kept of its own, filled up to the largest number of any process.
    owner = kept // candidates
    counts = torch.bincount(owner, minlength=world)
    longest = int(counts.max())
    mine = (kept[owner == rank] - rank * candidates).cpu()
    padded = torch.cat([mine, torch.zeros(longest - len(mine), dtype=torch.int64)])
    order = torch.empty(len(kept), dtype=torch.int64)
    for process in range(world):
        places = (owner == process).nonzero().flatten().cpu()
        order[places] = process * longest + torch.arange(len(places))
    part = len(kept) // world
    wanted = order[rank * part : (rank + 1) * part]
    device = kept.device
    found = []
    for column in columns:
        everyone = distributed.gather(column[padded.to(column.device)].contiguous().to(device))
        found.append(everyone[wanted.to(device)].to(column.device))
    return found
