"""Plain shuffled batches of row numbers, for the objectives that need no balance of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from guidestar.samplers.cycle import Cycle


def shuffled(rows: int, batch_size: int, seed: int) -> Callable[[int], Iterator[list[int]]]:
    """epoch -> its batches, all of the same size; what does not fill one is the start of the next epoch.

    Args:
        rows: rows of the table.
        batch_size: rows of a batch; all rows if there are fewer.
        seed: of the order.

    Example:
        >>> batches = shuffled(5, 2, seed=0)
        >>> [len(batch) for batch in batches(0)]
        [2, 2]
    """
    take = min(batch_size, rows)
    cycle, steps = Cycle(np.arange(rows), take, (seed,)), rows // take

    def batches(epoch: int) -> Iterator[list[int]]:
        return (cycle.batch(epoch * steps + step).tolist() for step in range(steps))

    return batches
