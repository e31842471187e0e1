"""Which rows make up each batch, for data that is read part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from guidestar.data.pairs.protocol import Part
from guidestar.errors import UserError


class ShardPlan:
    """Batches of row numbers: each pass shuffles the parts, then the rows within a window of parts.

    A batch thus touches `window` parts (at a border twice as many), whatever the size of the data; a window of all
    parts is a full shuffle. Batch number b is the same whenever and wherever it is asked for, so a checkpoint keeps
    only b. The incomplete batch at the end of a pass is left out. Each of several processes gets its part of every
    batch.

    Args:
        parts: runs of rows, (name, first row, end row); `pairs.blocks()`.
        batch_size: rows of a batch over all processes.
        seed: decides the order.
        window: number of parts whose rows are mixed.
        rank, world: this process's number, and how many there are; `world` divides `batch_size`.

    Raises:
        UserError: the sizes do not fit.

    Example:
        >>> plan = ShardPlan([("a", 0, 4), ("b", 4, 8)], batch_size=4, seed=0, window=1)
        >>> sorted(sorted(plan.rows(number)) for number in (0, 1))
        [[0, 1, 2, 3], [4, 5, 6, 7]]
    """

    def __init__(
        self, parts: Sequence[Part], batch_size: int, seed: int, *, window: int = 16, rank: int = 0, world: int = 1
    ) -> None:
        self._firsts = np.array([first for _, first, _ in parts], dtype=np.int64)
        self._counts = np.array([end - first for _, first, end in parts], dtype=np.int64)
        self.samples = int(self._counts.sum())
        if not 1 <= batch_size <= self.samples:
            raise UserError(f"`batch_size` must be in [1, {self.samples}], the number of rows. Found {batch_size}.")
        if window < 1:
            raise UserError(f"`window` must be at least 1 part. Found {window}.")
        if batch_size % world:
            raise UserError(
                f"`batch_size` must be a multiple of {world}, the number of processes that share each batch. Found "
                f"{batch_size}."
            )
        self.batch_size, self.seed, self.window, self.rank, self.world = batch_size, seed, window, rank, world
        self.batches_per_pass = self.samples // batch_size
        self._pass = -1
        self._order = np.empty(0, dtype=np.int64)  # the parts of the current pass, in its order
        self._ends = np.empty(0, dtype=np.int64)  # where each of its windows ends
        self._mixed: dict[int, np.ndarray] = {}  # the rows of the windows that are in use

    def rows(self, number: int) -> list[int]:
        """This process's rows of batch `number`, counted from 0 over all passes.

        Raises:
            IndexError: `number` is negative.
        """
        if number < 0:
            raise IndexError(f"`number` counts batches from 0. Found {number}.")
        which, position = divmod(number, self.batches_per_pass)
        if which != self._pass:
            self._begin(which)
        part = self.batch_size // self.world
        start = position * self.batch_size + self.rank * part
        return self._between(start, start + part).tolist()

    def requests(self, start: int, stop: int) -> Iterator[tuple[int, list[int]]]:
        """The batches `start` up to `stop` with their numbers, as `PairDataset` takes them."""
        return ((number, self.rows(number)) for number in range(start, stop))

    def _begin(self, which: int) -> None:
        self._pass, self._mixed = which, {}
        self._order = np.random.default_rng((self.seed, which)).permutation(len(self._counts))
        ends = np.cumsum(self._counts[self._order])
        last = np.arange(self.window - 1, len(ends), self.window)
        self._ends = ends[last if len(ends) % self.window == 0 else np.append(last, len(ends) - 1)]

    def _between(self, start: int, stop: int) -> np.ndarray:
        """The rows at these places of the pass."""
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        needed = range(first, last + 1)
        self._mixed = {at: self._mixed[at] if at in self._mixed else self._mix(at) for at in needed}
        begin = 0 if first == 0 else int(self._ends[first - 1])
        return np.concatenate([self._mixed[at] for at in needed])[start - begin : stop - begin]

    def _mix(self, window: int) -> np.ndarray:
        parts = self._order[window * self.window : (window + 1) * self.window]
        runs = zip(self._firsts[parts].tolist(), self._counts[parts].tolist(), strict=True)
        rows = np.concatenate([np.arange(first, first + count) for first, count in runs])
        return np.random.default_rng((self.seed, self._pass, window)).permutation(rows)
