"""`QuerySampler`: queries, and a list of a fixed length of each one's items."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidestar.samplers.arrays import as_array, checksum, count, integers, lists_by
from guidestar.samplers.cycle import Cycles, generator
from guidestar.samplers.position import PositionedSampler


class QuerySampler(PositionedSampler):
    r"""Batch sampler for ranking: queries, and of each a list of `relevant + items` rows, so that a batch is `[Q, M]`.

    An epoch is one pass over the shuffled queries; what does not fill a batch is left out of this epoch. A list is drawn
    without replacement from the rows of its query: `relevant` rows with a relevance above 0, then `items` rows of the
    others. A query

    - with fewer relevant rows than `relevant` gives all that it has, and more of the others in their place;
    - with fewer other rows than that gives all of these, and more relevant rows in their place;
    - with fewer than $M$ rows in all repeats its rows, as evenly as possible; `mask` says which are repetitions;
    - without a relevant row, or with a single row, has nothing to rank: it is never drawn, and is in `excluded`.

    Equations:
        Alg. 33 of the book, steps 3 and 4.

    Args:
        query: number of the query of each row, at least 0; they need not be consecutive.
        relevance: relevance of each row; above 0 is relevant.
        queries_per_batch: queries of a batch, of all ranks together.
        relevant: relevant rows of a list.
        items: other rows of a list.
        seed: the random numbers are a function of it; no other generator is read or moved.
        rank: number of this process; None: that of the process group, 0 without one.
        world: number of processes; None: that of the process group, 1 without one. Queries are divided over the ranks.

    Shapes:
        `query` and `relevance` `[n]`; yields lists of $Q \cdot M$ row numbers, a query after the other, in each the
        relevant rows first (a list with repetitions: in each of them). `scores.view(-1, sampler.length)` is `[Q, M]`,
        with `Q = queries_per_batch / world`.

    State:
        `epoch` and `step` (`state_dict`). `excluded`: the queries that are never drawn.

    Raises:
        TypeError: an argument holds no numbers, or a size is no integer.
        ValueError: the lengths differ; a relevance is NaN or negative; fewer than `queries_per_batch` queries can be
            drawn, or they can't be divided evenly over the ranks.

    Source:
        Z.-H. Qiu, Q. Hu, Y. Zhong, L. Zhang and T. Yang, "Large-scale Stochastic Optimization of NDCG Surrogates for
        Deep Learning with Provable Convergence", ICML 2022.

    Example:
        >>> query = [0, 0, 0, 0, 0, 4, 4, 4]
        >>> relevance = [2, 0, 1, 0, 0, 0, 3, 0]
        >>> sampler = QuerySampler(query, relevance, queries_per_batch=2, relevant=1, items=2)
        >>> [batch] = list(sampler)
        >>> [[relevance[row] > 0 for row in batch[start : start + 3]] for start in (0, 3)]
        [[True, False, False], [True, False, False]]
    """

    def __init__(
        self,
        query: Any,
        relevance: Any,
        queries_per_batch: int,
        relevant: int,
        items: int,
        *,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        super().__init__(seed, rank, world)
        identifiers, values = integers(query, "query"), as_array(relevance, "relevance", 1)
        if len(identifiers) != len(values):
            raise ValueError(
                f"`query` has {len(identifiers)} rows and `relevance` {len(values)}; they must be the same."
            )
        if not (values >= 0).all():
            raise ValueError(f"`relevance` must be at least 0. It is negative or NaN in {(~(values >= 0)).sum()} rows.")
        self.queries = count(queries_per_batch, "queries_per_batch")
        self.relevant, self.items = count(relevant, "relevant"), count(items, "items", least=0)
        #: Rows of a list.
        self.length = self.relevant + self.items
        self._rows = len(values)
        self._checksum = checksum(identifiers, values > 0)
        self._sort(identifiers, values > 0)
        self._share = self.share(self.queries, "queries")
        self.batch_size = self.queries // self.world * self.length
        self._cycles = Cycles(self.seed)

    def _sort(self, identifiers: np.ndarray, relevant: np.ndarray) -> None:
        # Rows by query, in each the relevant ones first: two numbers and a place describe a query.
        order = np.argsort(~relevant, kind="stable")
        names, lists = lists_by(identifiers[order])
        self._lists = [order[places] for places in lists]
        starts = np.cumsum([0] + [len(rows) for rows in lists[:-1]])
        self._relevant = np.add.reduceat(relevant[np.concatenate(self._lists)].astype(np.int64), starts)
        sizes = np.array([len(rows) for rows in lists])
        usable = (self._relevant > 0) & (sizes > 1)
        self.excluded: list[int] = names[~usable].tolist()
        self._usable = np.flatnonzero(usable)
        if self.queries > len(self._usable):
            raise ValueError(
                f"`queries_per_batch` must be at most {len(self._usable)}, found {self.queries}: of the {len(names)} "
                f"queries, {len(self.excluded)} have no relevant row or a single row and can't be drawn."
            )

    def __len__(self) -> int:
        return len(self._usable) // self.queries

    def batch(self, epoch: int, step: int) -> list[int]:
        """This rank's share of batch `step` of `epoch`, a query after the other.

        Args:
            epoch: number of the epoch, from 0.
            step: number of the batch in it, from 0.
        """
        chosen = self._cycles.get(epoch, (), lambda: self._usable, self.queries).batch(step)  # Alg. 33, step 3
        return np.concatenate([self._draw(number, epoch) for number in chosen[self._share].tolist()]).tolist()

    def _draw(self, number: int, epoch: int) -> np.ndarray:
        rows, relevant = self._lists[number], int(self._relevant[number])
        others, random = len(rows) - relevant, generator(self.seed, epoch, 1, number)
        if len(rows) <= self.length:
            whole, rest = divmod(self.length, len(rows))
            return np.concatenate([*[rows] * whole, random.choice(rows, rest, replace=False)])
        asked = max(min(self.relevant, relevant), self.length - others)
        first = random.choice(rows[:relevant], asked, replace=False)
        return np.concatenate(
            [first, random.choice(rows[relevant:], self.length - asked, replace=False)]
        )  # Alg. 33, step 4

    def mask(self, rows: Tensor) -> Tensor:
        """Which of the rows of a batch are not repetitions within their list.

        Args:
            rows: row numbers of a batch, as they came, on any device.

        Shapes:
            `rows` int64 `[Q * M]` or `[Q, M]` -> bool `[Q, M]`.

        Example:
            >>> sampler = QuerySampler([0, 0], [1, 0], queries_per_batch=1, relevant=2, items=1)
            >>> sampler.mask(torch.tensor([0, 1, 0]))
            tensor([[ True,  True, False]])
        """
        lists = rows.reshape(-1, self.length)
        ordered, place = lists.sort(dim=1, stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        return torch.empty_like(first).scatter_(1, place, first)

    def _identity(self) -> dict[str, int]:
        return {
            "queries": self.queries,
            "relevant": self.relevant,
            "items": self.items,
            "rows": self._rows,
            "relevant_rows": int(self._relevant.sum()),
            "checksum of queries and relevance": self._checksum,
        }
