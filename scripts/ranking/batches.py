"""Rows of the steps: shuffled passes, and batches with a fixed share of positives."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from guidestar.samplers import DualSampler

from .task import BinaryTask


def shuffled(task: BinaryTask, seed: int) -> Iterator[Tensor]:
    """Passes over the training rows in a new order each, without the incomplete batch at the end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(task.rows, generator=generator)
        yield from order[: task.rows // task.batch_size * task.batch_size].split(task.batch_size)


def half_positive(task: BinaryTask, seed: int) -> Iterator[Tensor]:
    """As many positives as negatives in a batch."""
    return with_rate(task, seed, 0.5)


def with_rate(task: BinaryTask, seed: int, rate: float) -> Iterator[Tensor]:
    """Batches of a share of positives, by `DualSampler`."""
    sampler = DualSampler(task.train.y, task.batch_size, rate, seed=seed)
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        for rows in sampler:
            yield torch.as_tensor(rows)
        epoch += 1
