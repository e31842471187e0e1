"""`DualSampler`: batches with a fixed number of positives."""

from __future__ import annotations

from typing import Any

import numpy as np

from guidestar.samplers.arrays import binary, checksum, count, positives_per_batch, rows_of
from guidestar.samplers.cycle import Cycles
from guidestar.samplers.position import PositionedSampler


class DualSampler(PositionedSampler):
    r"""Batch sampler for two classes, with a fixed number of positives in each batch.

    A batch has $P = \mathrm{round}(\mathrm{batch\_size} \cdot \mathrm{rate})$ positives (at least one, and at least one
    negative), then $N = \mathrm{batch\_size} - P$ negatives, from two shuffled lists:

    - when the list of positives is used up, it alone is shuffled again. If fewer than $P$ of it are left, the batch
      takes these and, from the newly shuffled list, rows that it does not hold yet.
    - when the list of negatives is used up, both are shuffled again. That is an epoch: it has $\lfloor n_- / N \rfloor$
      batches, each negative is in one of them at most, and the $n_- \bmod N$ negatives that do not fill a batch are left
      out of this epoch (others in the next, since both lists are shuffled again).

    No batch holds a row twice. With the 4 positives and 9 negatives of the book's figure, `batch_size=8` and `rate=0.5`,
    an epoch has two batches, each with all 4 positives, and one negative waits for the next epoch.

    `accelerate.prepare` deals whole batches to the processes: with it, pass `rank=0, world=1`.

    Equations:
        Fig. 6.14; Section 6.4.5 of the book.

    Args:
        labels: 0 or 1 for each row of the data set, in any dtype (tensor, array or list).
        batch_size: samples of a batch, of all ranks together.
        rate: fraction of positives in a batch, between 0 and 1.
        seed: the random numbers are a function of it; no other generator is read or moved.
        rank: number of this process; None: that of the process group, 0 without one.
        world: number of processes; None: that of the process group, 1 without one.

    Shapes:
        `labels` `[n]`; yields lists of `batch_size / world` row numbers, positives first.

    State:
        `epoch` and `step` (`state_dict`); two lists of row numbers in 4 bytes a row, shuffled once a pass.

    Raises:
        TypeError: `labels` holds no numbers, or a size is no integer.
        ValueError: `labels` is not 0/1 or is NaN somewhere; a class is missing, or has fewer rows than a batch takes;
            `rate` does not lie between 0 and 1; the classes of a batch can't be divided evenly over the ranks.

    Source:
        Z. Yuan, D. Zhu, Z.-H. Qiu, G. Li, X. Wang and T. Yang, "LibAUC: A Deep Learning Library for X-Risk
        Optimization", KDD 2023.

    Example:
        >>> labels = [1, 1, 1, 1] + [0] * 9
        >>> sampler = DualSampler(labels, batch_size=8, rate=0.5)
        >>> sampler.positives, sampler.negatives, len(sampler)
        (4, 4, 2)
        >>> [sorted(batch[:4]) for batch in sampler]
        [[0, 1, 2, 3], [0, 1, 2, 3]]
    """

    def __init__(
        self,
        labels: Any,
        batch_size: int,
        rate: float,
        *,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        super().__init__(seed, rank, world)
        positive, negative = binary(labels, 1, missing=False)
        self.positives = positives_per_batch(batch_size, rate)
        self.negatives = count(batch_size, "batch_size") - self.positives
        self._rows = rows_of(positive), rows_of(negative)
        self._checksum = checksum(positive)
        self._check(batch_size, rate)
        self._share = self.share(self.positives, "positives"), self.share(self.negatives, "negatives")
        self.batch_size = (self.positives + self.negatives) // self.world
        self._cycles = Cycles(self.seed)

    def _check(self, batch_size: int, rate: float) -> None:
        have, asked = [len(rows) for rows in self._rows], (self.positives, self.negatives)
        for name, label, found in zip(("positive", "negative"), (1, 0), have, strict=True):
            if found == 0:
                raise ValueError(f"`labels` has no {name} (no {label}) among its {sum(have)} rows: nothing to rank.")
        if asked[0] > have[0] or asked[1] > have[1]:
            lowest, highest = max(batch_size - have[1], 1), min(have[0], batch_size - 1)
            size = max(int(min(have[0] / rate, have[1] / (1.0 - rate))), 2)
            rates = f"a `rate` from {lowest}/{batch_size} to {highest}/{batch_size}, or " if lowest <= highest else ""
            raise ValueError(
                f"A batch of {batch_size} at a rate of {rate:g} takes {asked[0]} positives and {asked[1]} negatives, but "
                f"`labels` has {have[0]} positives and {have[1]} negatives. What would work: {rates}"
                f"a `batch_size` of at most {size}."
            )

    def __len__(self) -> int:
        return len(self._rows[1]) // self.negatives

    def batch(self, epoch: int, step: int) -> list[int]:
        """This rank's share of batch `step` of `epoch`, positives first.

        Args:
            epoch: number of the epoch, from 0.
            step: number of the batch in it, from 0.
        """
        takes = self.positives, self.negatives
        parts = [
            self._cycles.get(epoch, (kind,), lambda rows=rows: rows, take).batch(step)[share]
            for kind, (rows, take, share) in enumerate(zip(self._rows, takes, self._share, strict=True))
        ]
        return np.concatenate(parts).tolist()

    def _identity(self) -> dict[str, int]:
        return {
            "positives": self.positives,
            "negatives": self.negatives,
            "positive_rows": len(self._rows[0]),
            "negative_rows": len(self._rows[1]),
            "checksum of the labels": self._checksum,
        }
