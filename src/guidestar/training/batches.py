"""Which rows make up each batch: a pure function of seed and position, so that any position can be resumed at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from guidestar.errors import UserError

EVALUATION_BATCH = 512


class BatchPlan:
    """Batches of row numbers, reshuffled each pass, without the incomplete one at the end of a pass.

    Batch number b is the same whenever and wherever it is asked for, so a checkpoint needs to keep only b. Each of
    several processes gets its part of every batch.

    Args:
        samples: number of rows.
        batch_size: rows of a batch over all processes; at most `samples`.
        seed: decides the order.
        rank, world: this process's number, and how many there are; `world` divides `batch_size`.

    Raises:
        UserError: the sizes do not fit.

    Example:
        >>> plan = BatchPlan(samples=5, batch_size=2, seed=0)
        >>> plan.batches_per_pass, sorted(plan.rows(0) + plan.rows(1)) == sorted(plan.rows(2) + plan.rows(3))
        (2, False)
    """

    def __init__(self, samples: int, batch_size: int, seed: int, *, rank: int = 0, world: int = 1) -> None:
        if not 1 <= batch_size <= samples:
            raise UserError(f"`batch_size` must be in [1, {samples}], the number of rows. Found {batch_size}.")
        if batch_size % world:
            raise UserError(
                f"`batch_size` must be a multiple of {world}, the number of processes that share each batch. Found "
                f"{batch_size}."
            )
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.batches_per_pass = samples // batch_size
        self._pass = -1
        self._order = np.empty(0, dtype=np.int64)

    def rows(self, number: int) -> list[int]:
        """This process's rows of batch `number`, counted from 0 over all passes.

        Raises:
            IndexError: `number` is negative.
        """
        if number < 0:
            raise IndexError(f"`number` counts batches from 0. Found {number}.")
        which, position = divmod(number, self.batches_per_pass)
        if which != self._pass:
            self._order = np.random.default_rng((self.seed, which)).permutation(self.samples)
            self._pass = which
        part = self.batch_size // self.world
        start = position * self.batch_size + self.rank * part
        return self._order[start : start + part].tolist()

    def between(self, start: int, stop: int) -> Iterator[list[int]]:
        """The batches `start` up to `stop`; a batch sampler for `torch.utils.data.DataLoader`."""
        return (self.rows(number) for number in range(start, stop))


class _Requests:
    """A batch sampler; fresh each time it is iterated."""

    def __init__(self, requests: Callable[[], Iterator[Any]]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Any]:
        return self._requests()


def as_is(batch: Any) -> Any:
    """A batch that the data set has put together already."""
    return batch


def batch_loader(dataset: Any, requests: Callable[[], Iterator[Any]], *, workers: int, pin: bool) -> DataLoader:
    """Batches from a data set that gives whole ones, for the requests that it is asked."""
    sampler: Any = _Requests(requests)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=as_is,
        pin_memory=pin,
        generator=torch.Generator(),  # its own, so that the training's random numbers are left alone
    )


def evaluation_batches(split: Any) -> DataLoader:
    """A split's batches in order, for evaluation."""
    rows = [
        list(range(start, min(start + EVALUATION_BATCH, len(split))))
        for start in range(0, len(split), EVALUATION_BATCH)
    ]
    return DataLoader(split, batch_sampler=rows, collate_fn=as_is, generator=torch.Generator())
