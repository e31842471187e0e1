"""`Cycle`: shuffled passes over a list, cut into batches, such that any batch can be computed from its number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def generator(*key: int) -> np.random.Generator:
    """A generator that depends on `key` alone.

    Example:
        >>> int(generator(0, 1).integers(100)) == int(generator(0, 1).integers(100))
        True
    """
    # With its length in front: NumPy gives (1, 2) and (1, 2, 0) the same numbers.
    return np.random.default_rng((len(key), *key))


class Cycle:
    """An endless row of shuffled passes over `rows`, of which batch `b` takes the places `b * take ... (b+1) * take - 1`.

    Once a pass is used up the list is shuffled again. A batch that spans two passes takes the rest of the one and then
    rows of the next that it does not hold yet, so that **no batch holds a row twice**, while each pass still holds each
    row once. A list that is shorter than a batch is in each batch as a whole, as often as it fits, and cycles through
    the places that are left: how often two of its rows are in a batch differs by one at most.

    The batch is a function of `(key, number)`. Going on to the next one is O(take), and a shuffle once a pass; a jump
    to any other costs two shuffles, and for a list of less than two batches one short shuffle for each pass before it.

    Args:
        rows: the list, without repetitions.
        take: rows of a batch.
        key: numbers that the generator is seeded with.

    Example:
        >>> cycle = Cycle(np.array([3, 5, 8]), 2, key=(0,))
        >>> first, second, third = (cycle.batch(number).tolist() for number in range(3))
        >>> sorted(first + second + third)
        [3, 3, 5, 5, 8, 8]
        >>> len(set(first)), len(set(second)), len(set(third))
        (2, 2, 2)
    """

    def __init__(self, rows: np.ndarray, take: int, key: tuple[int, ...]) -> None:
        self.rows = rows
        self.key = key
        self.whole, self.take = (0, take) if take <= len(rows) else divmod(take, len(rows))
        self._pass = -1
        self._order = rows[:0]

    def batch(self, number: int) -> np.ndarray:
        """The rows of batch `number`.

        Example:
            >>> sorted(Cycle(np.arange(2), 5, key=(0,)).batch(0).tolist())[:2]
            [0, 0]
        """
        number_of_pass, offset = divmod(number * self.take, len(self.rows))
        part = self._pass_number(number_of_pass)[offset : offset + self.take]
        if len(part) < self.take:
            part = np.concatenate([part, self._pass_number(number_of_pass + 1)[: self.take - len(part)]])
        return np.concatenate([*[self.rows] * self.whole, part]) if self.whole else part

    def _pass_number(self, number: int) -> np.ndarray:
        if number != self._pass:
            skips = self._pass < number - 1 and len(self.rows) >= 2 * self.take
            if skips or not 0 <= self._pass < number:
                self._restart(number)
            while self._pass < number:
                self._advance()
        return self._order

    def _shuffled(self, number: int) -> np.ndarray:
        return generator(*self.key, number).permutation(self.rows)

    def _restart(self, number: int) -> None:
        # What a pass moves lies in its first `take` places. With two batches or more in a pass its end is that of the
        # plain shuffle, and the next pass can be computed from it; otherwise each pass depends on all before it.
        self._pass = number - 1 if number > 0 and len(self.rows) >= 2 * self.take else 0
        self._order = self._shuffled(self._pass)

    def _advance(self) -> None:
        self._pass += 1
        order = self._shuffled(self._pass)
        begun = self._pass * len(self.rows) % self.take if self.take else 0  # places that the last pass gave the batch
        if begun:
            head = order[: self.take]
            held = np.isin(head, self._order[-begun:])
            order[: self.take] = np.concatenate([head[~held], head[held]])
        self._order = order


class Cycles:
    """The cycles of one epoch, made when they are first asked for.

    Args:
        seed: the sampler's seed.

    Example:
        >>> cycles = Cycles(seed=0)
        >>> cycle = cycles.get(0, (1,), lambda: np.arange(6), 2)
        >>> cycle is cycles.get(0, (1,), lambda: np.arange(6), 2)
        True
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._epoch = -1
        self._cycles: dict[tuple[int, ...], Cycle] = {}

    def get(self, epoch: int, name: tuple[int, ...], rows: Callable[[], np.ndarray], take: int) -> Cycle:
        """The cycle `name` of `epoch`; `rows` is called if it is not there yet.

        Example:
            >>> Cycles(seed=0).get(0, (0,), lambda: np.arange(1), 1).batch(7)
            array([0])
        """
        if epoch != self._epoch:
            self._epoch, self._cycles = epoch, {}
        if name not in self._cycles:
            self._cycles[name] = Cycle(rows(), take, (self.seed, epoch, *name))
        return self._cycles[name]
