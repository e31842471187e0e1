"""`GroupSampler`: groups uniformly, and samples of each."""

from __future__ import annotations

from typing import Any

import numpy as np

from guidestar.samplers.arrays import checksum, count, integers, lists_by
from guidestar.samplers.cycle import Cycles
from guidestar.samplers.position import PositionedSampler


class GroupSampler(PositionedSampler):
    r"""Batch sampler that draws groups uniformly, whatever their sizes, and as many samples of each.

    A batch takes the next $B_1$ groups of a shuffled list of all groups (so each is drawn equally often), and of each the
    next $B_2$ samples of the group's own shuffled list. A list that is used up is shuffled again, alone; with the next
    epoch all are. No batch holds a row twice, except for a group with fewer than $B_2$ samples: these are repeated, as
    evenly as possible, so that the mean over them is that of the group.

    - $B_1$ = `groups_per_batch`
    - $B_2$ = `samples_per_group`

    Equations:
        Alg. 25 of the book, steps 3 and 5.

    Args:
        group: number of the group of each row, at least 0; they need not be consecutive.
        groups_per_batch: groups of a batch, of all ranks together.
        samples_per_group: samples of a group in a batch.
        steps: batches of an epoch; None: as many as yield about as many samples as the data set has rows.
        seed: the random numbers are a function of it; no other generator is read or moved.
        rank: number of this process; None: that of the process group, 0 without one.
        world: number of processes; None: that of the process group, 1 without one. Groups are divided over the ranks.

    Shapes:
        `group` `[n]`; yields lists of `groups_per_batch / world * samples_per_group` row numbers, a group after the
        other.

    State:
        `epoch` and `step` (`state_dict`). `short`: the groups with fewer than `samples_per_group` samples.

    Raises:
        TypeError: `group` holds no numbers, or a size is no integer.
        ValueError: a number of a group is negative or broken; there are fewer than `groups_per_batch` groups, or they
            can't be divided evenly over the ranks.

    Example:
        >>> sampler = GroupSampler([0, 0, 0, 0, 0, 0, 7, 7], groups_per_batch=2, samples_per_group=2)
        >>> len(sampler), sorted(sampler.batch(0, 0))[2:]
        (2, [6, 7])
    """

    def __init__(
        self,
        group: Any,
        groups_per_batch: int,
        samples_per_group: int,
        *,
        steps: int | None = None,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        super().__init__(seed, rank, world)
        identifiers = integers(group, "group")
        names, self._lists = lists_by(identifiers)
        self._checksum = checksum(identifiers)
        self.groups = count(groups_per_batch, "groups_per_batch")
        self.samples = count(samples_per_group, "samples_per_group")
        if self.groups > len(names):
            raise ValueError(
                f"`groups_per_batch` must be at most {len(names)}, the number of groups. Found {self.groups}."
            )
        self.short: list[int] = [
            name for name, rows in zip(names.tolist(), self._lists, strict=True) if len(rows) < self.samples
        ]
        self._rows = sum(len(rows) for rows in self._lists)
        self._share = self.share(self.groups, "groups")
        self.batch_size = self.groups // self.world * self.samples
        self.steps = count(max(self._rows // (self.groups * self.samples), 1) if steps is None else steps, "steps")
        self._cycles = Cycles(self.seed)

    def __len__(self) -> int:
        return self.steps

    def batch(self, epoch: int, step: int) -> list[int]:
        """This rank's share of batch `step` of `epoch`, a group after the other.

        Args:
            epoch: number of the epoch, from 0.
            step: number of the batch in it, from 0.
        """
        count_of = len(self._lists)
        chosen = self._cycles.get(epoch, (), lambda: np.arange(count_of), self.groups).batch(step)  # Alg. 25, step 3
        visits = (step * self.groups + np.arange(self.groups)) // count_of  # each pass draws each group once
        parts = [
            self._cycles.get(epoch, (number,), lambda g=number: self._lists[g], self.samples).batch(visit)
            for number, visit in zip(chosen[self._share].tolist(), visits[self._share].tolist(), strict=True)
        ]  # Alg. 25, step 5
        return np.concatenate(parts).tolist()

    def _identity(self) -> dict[str, int]:
        return {
            "groups": self.groups,
            "samples": self.samples,
            "rows": self._rows,
            "all_groups": len(self._lists),
            "steps": self.steps,
            "checksum of the groups": self._checksum,
        }
