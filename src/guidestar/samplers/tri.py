"""`TriSampler`: tasks, and positives and negatives of each; `TaskIndexed`: the data set that goes with it."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from guidestar.samplers.arrays import binary, checksum, count, positives_per_batch, rows_of
from guidestar.samplers.cycle import Cycles
from guidestar.samplers.indexed import Indexed
from guidestar.samplers.position import PositionedSampler


class TriSampler(PositionedSampler):
    r"""Batch sampler for many labels (tasks): some tasks, then positives and negatives of each of them.

    A batch takes the next `tasks` tasks of a shuffled list of all tasks, and of each
    $P = \mathrm{round}(\mathrm{batch\_size\_per\_task} \cdot \mathrm{rate})$ positives and the rest negatives, from the
    task's own two shuffled lists. A list that is used up is shuffled again, alone; with the next epoch all are. A list
    that is shorter than what a batch takes of it is repeated, as evenly as possible, so that the shape is fixed.

    A batch is a list of pairs (row, task), because only the pair says why a row was drawn: wrap the data set in
    `TaskIndexed`, or take a pair in its `__getitem__`. A loss over all labels `[B, L]` counts each row for its own task
    alone with `mask=torch.nn.functional.one_hot(task, L).bool()`.

    Equations:
        Section 6.4.5 of the book.

    Args:
        labels: 0 or 1 for each row and task; NaN where a label is not known (the row is then neither).
        batch_size_per_task: samples of a task in a batch.
        tasks: tasks of a batch, of all ranks together.
        rate: fraction of positives among the samples of a task, between 0 and 1.
        steps: batches of an epoch; None: as many as yield about as many samples as the data set has rows.
        seed: the random numbers are a function of it; no other generator is read or moved.
        rank: number of this process; None: that of the process group, 0 without one.
        world: number of processes; None: that of the process group, 1 without one. Tasks are divided over the ranks.

    Shapes:
        `labels` `[n, L]`; yields lists of `tasks / world * batch_size_per_task` pairs (row, task), a task after the
        other, in each its positives first.

    State:
        `epoch` and `step` (`state_dict`). `excluded`: the numbers of the tasks without a positive or without a negative,
        which are never drawn.

    Raises:
        TypeError: `labels` holds no numbers, or a size is no integer.
        ValueError: a label is neither 0, 1 nor NaN; fewer than `tasks` tasks have both classes; `rate` does not lie
            between 0 and 1; `tasks` can't be divided evenly over the ranks.

    Source:
        Z. Yuan, D. Zhu, Z.-H. Qiu, G. Li, X. Wang and T. Yang, "LibAUC: A Deep Learning Library for X-Risk
        Optimization", KDD 2023.

    Example:
        >>> labels = [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]]
        >>> sampler = TriSampler(labels, batch_size_per_task=2, tasks=2, rate=0.5)
        >>> sampler.excluded, len(sampler)
        ([2], 1)
        >>> [batch] = list(sampler)
        >>> sorted(task for row, task in batch), sorted(labels[row][task] for row, task in batch)
        ([0, 0, 1, 1], [0, 0, 1, 1])
    """

    def __init__(
        self,
        labels: Any,
        batch_size_per_task: int,
        tasks: int,
        rate: float = 0.5,
        *,
        steps: int | None = None,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        super().__init__(seed, rank, world)
        positive, negative = binary(labels, 2, missing=True)
        both = positive.any(axis=0) & negative.any(axis=0)
        self.excluded: list[int] = np.flatnonzero(~both).tolist()
        self.tasks = count(tasks, "tasks")
        self.positives = positives_per_batch(batch_size_per_task, rate, "batch_size_per_task")
        self.negatives = batch_size_per_task - self.positives
        if self.tasks > both.sum():
            raise ValueError(
                f"`tasks` must be at most {both.sum()}, found {tasks}: of the {both.size} tasks in `labels`, "
                f"{len(self.excluded)} have no positive or no negative and can't be drawn."
            )
        self._tasks = np.flatnonzero(both)
        # One row a task, so that the list of a task is read from memory in one piece when it is first needed.
        self._is = np.ascontiguousarray(negative.T), np.ascontiguousarray(positive.T)
        self._checksum = checksum(negative, positive)
        self._share = self.share(self.tasks, "tasks")
        self.batch_size = self.tasks // self.world * batch_size_per_task
        self.steps = count(
            max(positive.shape[0] // (tasks * batch_size_per_task), 1) if steps is None else steps, "steps"
        )
        self._cycles = Cycles(self.seed)

    def __len__(self) -> int:
        return self.steps

    def batch(self, epoch: int, step: int) -> list[tuple[int, int]]:
        """This rank's share of batch `step` of `epoch`: pairs (row, task).

        Args:
            epoch: number of the epoch, from 0.
            step: number of the batch in it, from 0.
        """
        chosen = self._cycles.get(epoch, (), lambda: self._tasks, self.tasks).batch(step)
        visits = (step * self.tasks + np.arange(self.tasks)) // len(self._tasks)  # each pass draws each task once
        pairs: list[tuple[int, int]] = []
        for task, visit in zip(chosen[self._share].tolist(), visits[self._share].tolist(), strict=True):
            for kind, take in ((1, self.positives), (0, self.negatives)):
                cycle = self._cycles.get(epoch, (task, kind), lambda t=task, k=kind: rows_of(self._is[k][t]), take)
                pairs += [(row, task) for row in cycle.batch(visit).tolist()]
        return pairs

    def _identity(self) -> dict[str, int]:
        return {
            "tasks": self.tasks,
            "positives": self.positives,
            "negatives": self.negatives,
            "rows": self._is[0].shape[1],
            "positive_labels": int(self._is[1].sum()),
            "steps": self.steps,
            "checksum of the labels": self._checksum,
        }


class TaskIndexed(Dataset):
    """A map-style data set that is asked for pairs (row, task) and whose samples end with these two numbers.

    Args:
        dataset: any data set with `__getitem__` and `__len__`.

    Raises:
        TypeError: the data set has no length.

    Example:
        >>> TaskIndexed([("a", 0), ("b", 1)])[1, 5]
        ('b', 1, 1, 5)
        >>> TaskIndexed([10, 20])[0, 2]
        (10, 0, 2)
    """

    def __init__(self, dataset: Any) -> None:
        self._indexed = Indexed(dataset)

    def __len__(self) -> int:
        return len(self._indexed)

    def __getitem__(self, index: tuple[int, int]) -> tuple[Any, ...]:
        row, task = index
        return (*self._indexed[row], task)
