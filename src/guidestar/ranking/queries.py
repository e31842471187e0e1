"""Batches of queries with lists of items: their checks, the relevant items as anchors, and the ideal DCG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from guidestar import distributed
from guidestar.risks.base import as_mask
from guidestar.state import Counter, math_dtype

#: Above this relevance 2^y leaves float32.
LARGEST_RELEVANCE = 126


@dataclass(frozen=True)
class Anchors:
    """The relevant items of each query, padded to P, the most that a query has.

    Attributes:
        scores: `[Q, P]`, with gradient.
        relevance: `[Q, P]`.
        rows: int64 `[Q, P]`, the row of each pair in memory, 0 where padded; or None.
        active: bool `[Q, P]`, false where padded and in queries that have nothing to learn from.
    """

    scores: Tensor
    relevance: Tensor
    rows: Tensor | None
    active: Tensor


@dataclass(frozen=True)
class QueryBatch:
    """Checked lists of items, one a query.

    Attributes:
        scores: `[Q, M]`, float32 or float64; 0 where masked.
        relevance: `[Q, M]`, of the same dtype; 0 where masked.
        mask: bool `[Q, M]` or None (all items count).
        learnable: bool `[Q]`: the query has a relevant item and at least one more item.
        idle: bool `[Q]`: the query is there and has nothing to learn from. (Not one that a mask `[Q]` takes out.)
        item_weights: `[Q, M]`, how many items of the data each stands for, or None (as many as any other).
    """

    scores: Tensor
    relevance: Tensor
    mask: Tensor | None
    learnable: Tensor
    idle: Tensor
    item_weights: Tensor | None = None

    def weights(self) -> Tensor | None:
        """1 for each item that counts, `[Q, M]`, or None (all); a list without items gets ones, so that no mean is 0/0.

        With `item_weights`, these.
        """
        if self.item_weights is not None:
            return self.item_weights
        if self.mask is None:
            return None
        return (self.mask | ~self.mask.any(-1, keepdim=True)).to(self.scores.dtype)

    def sizes(self) -> Tensor:
        """Number of items of each list, `[Q]`, at least 1."""
        if self.mask is None:
            return self.scores.new_full(self.scores.shape[:1], max(self.scores.shape[1], 1))
        return self.mask.sum(-1).clamp(min=1).to(self.scores.dtype)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the items that count of `values` `[Q, M]`, `[Q]`."""
        weights = self.weights()
        return values.mean(-1) if weights is None else (values * weights).sum(-1) / weights.sum(-1)

    def count_idle(self, empty: Counter) -> None:
        """Count, over all ranks, the queries with nothing to learn from; a batch without any query counts as one."""
        flags = distributed.gather(torch.stack([self.learnable, self.idle], dim=1))
        idle = flags[:, 1]
        empty.add(torch.cat([idle, ~flags.any().reshape(1)]))

    def anchors(self, index: Tensor | None, *, over_ranks: bool) -> Anchors:
        """The relevant items of the queries that have something to learn from.

        In eager mode they are moved to the front, so that P is the largest number of relevant items (over all ranks,
        whose trackers exchange equal shapes); a compiled loss takes P = M.

        Args:
            index: int64 `[Q, M]` or None; not looked at where an item is no anchor.
            over_ranks: whether the ranks have to agree on P.
        """
        active = (self.relevance > 0) & self.learnable.unsqueeze(-1)
        if torch.compiler.is_compiling():
            rows = None if index is None else torch.where(active, index, 0)
            return Anchors(self.scores, self.relevance, rows, active)
        query, column = active.nonzero(as_tuple=True)
        counts = torch.bincount(query, minlength=len(active))
        widest = counts.max() if len(counts) else counts.sum()
        if over_ranks and distributed.world_size() > 1:
            widest = distributed.gather(widest.reshape(1)).max()
        place = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
        columns = counts.new_zeros(len(active), int(widest))
        columns[query, place] = column
        kept = torch.arange(int(widest), device=query.device) < counts.unsqueeze(-1)
        if columns.numel() == 0:  # not even an item to pad with
            nothing = self.scores[:, :0]
            return Anchors(nothing, nothing, None if index is None else columns[:, :0], kept[:, :0])
        rows = None if index is None else torch.where(kept, index.gather(1, columns), 0)
        return Anchors(self.scores.gather(1, columns), self.relevance.gather(1, columns), rows, kept)


def query_batch(scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> QueryBatch:
    """The checked batch.

    Args:
        scores: `[Q, M]`, floating point.
        relevance: `[Q, M]`, numbers of 0 (not relevant) or more, or bool.
        mask: bool `[Q]` (queries) or `[Q, M]` (items), false where something does not count, or None.

    Raises:
        TypeError: scores that are not floating point, a mask that is not bool.
        ValueError: shapes; relevance on the CPU that is negative, NaN or so large that 2^y overflows.

    Example:
        >>> batch = query_batch(torch.zeros(2, 3), torch.tensor([[1, 0, 0], [0, 0, 0]]))
        >>> batch.learnable, batch.idle
        (tensor([ True, False]), tensor([False,  True]))
    """
    dtype = math_dtype(scores)
    if scores.ndim != 2 or not isinstance(relevance, Tensor) or relevance.shape != scores.shape:
        found = tuple(relevance.shape) if isinstance(relevance, Tensor) else type(relevance).__name__
        raise ValueError(
            "`scores` and `relevance` must both have shape [Q, M], one list of M items for each of Q queries (mask what "
            f"is padded). Found {tuple(scores.shape)} and {found}."
        )
    scores, relevance = scores.to(dtype), relevance.to(device=scores.device, dtype=dtype)
    present = torch.ones(scores.shape[:1], dtype=torch.bool, device=scores.device)
    if mask is not None:
        if not isinstance(mask, Tensor):
            raise TypeError(f"`mask` must be a tensor or None. Found {type(mask).__name__}.")
        if mask.ndim == 1 and mask.shape != scores.shape[:1]:
            raise ValueError(
                f"`mask` must be [Q], one entry a query, or [Q, M]. Found {tuple(mask.shape)} for scores "
                f"{tuple(scores.shape)}."
            )
        if mask.ndim == 1:
            present = as_mask(scores[:, 0], mask) if scores.shape[1] else present
            mask = mask.unsqueeze(-1)
        mask = as_mask(scores, mask)
        scores, relevance = torch.where(mask, scores, 0.0), torch.where(mask, relevance, 0.0)
    _check_relevance(relevance)
    many = scores.shape[1] > 1 if mask is None else mask.sum(-1) > 1
    learnable = (relevance > 0).any(-1) & many
    return QueryBatch(scores, relevance, mask, learnable, present & ~learnable)


def _check_relevance(relevance: Tensor) -> None:
    if relevance.device.type != "cpu" or torch.compiler.is_compiling() or relevance.numel() == 0:
        return
    low, high = (float(bound) for bound in torch.aminmax(relevance))
    if not (low >= 0 and high <= LARGEST_RELEVANCE):  # a NaN is in neither
        raise ValueError(
            f"`relevance` must lie in [0, {LARGEST_RELEVANCE}], 0 for what is not relevant: its gain is 2^y - 1. Found "
            f"values from {low} to {high}. Pass grades such as 0 to 4, and mask what is unknown."
        )


def of_queries(given: Mapping[str, Tensor | None], scores: Tensor) -> list[Tensor | None]:
    """The tensors that have one entry a query, checked, on the device of `scores` (and floats in its dtype).

    Raises:
        ValueError: one is not `[Q]`.

    Example:
        >>> of_queries({"query_sizes": torch.tensor([3, 5])}, torch.zeros(2, 3))
        [tensor([3, 5])]
    """
    found: list[Tensor | None] = []
    for name, tensor in given.items():
        if tensor is not None and (not isinstance(tensor, Tensor) or tensor.shape != scores.shape[:1]):
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"`{name}` must have one entry a query, shape [{len(scores)}]. Found {shape}.")
        found.append(None if tensor is None else tensor.to(scores.device))
    return found


def needed_index(index: Tensor | None, scores: Tensor) -> Tensor:
    """`index` beside `scores`, which must have its shape.

    Raises:
        ValueError: it is missing, or of another shape.
        TypeError: it is no tensor of whole numbers.
    """
    if index is None:
        raise ValueError(
            "`index` is needed with gamma < 1: the row in memory of each (query, item) pair, [Q, M]. Pass it, or use "
            "gamma=1 for whole lists."
        )
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
        found = f"dtype {index.dtype}" if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"`index` must be an int64 tensor of row numbers. Found {found}.")
    if index.shape != scores.shape:
        raise ValueError(
            f"`index` must have the shape of `scores`, {tuple(scores.shape)}: one row for each (query, item) pair. "
            f"Found {tuple(index.shape)}."
        )
    return index.to(scores.device)


def list_sizes(name: str, given: Tensor | None, found: Tensor, matters: Tensor) -> Tensor:
    """The sizes of the data, if `given`, or those `found` in the batch, `[Q]`.

    Raises:
        ValueError: one on the CPU is smaller than what was found, in a query that `matters`.

    Example:
        >>> list_sizes("query_sizes", None, torch.tensor([3.0]), torch.tensor([True]))
        tensor([3.])
    """
    if given is None:
        return found
    given = given.to(found)
    if given.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = (matters & ~(given >= found)).nonzero()
        if len(wrong):
            query = int(wrong[0])
            raise ValueError(
                f"`{name}` must not be smaller than the batch's list. Found {float(given[query]):g} for query {query} of "
                f"the batch, which has {float(found[query]):g}. Pass the numbers of the data set, or None for whole "
                "lists."
            )
    return given


def mean_over(total: Tensor, count: Tensor, *, over_ranks: bool) -> Tensor:
    """`total` / `count`, both summed over the ranks first if these learn together; 0 where there is nothing to count.

    Example:
        >>> mean_over(torch.tensor(6.0), torch.tensor(3), over_ranks=False)
        tensor(2.)
    """
    count = count.detach().to(total.dtype)
    count = distributed.mean(count) if over_ranks else count
    average = total / count.clamp(min=torch.finfo(total.dtype).tiny)
    return distributed.mean_value(average) if over_ranks else average


def gains(relevance: Tensor) -> Tensor:
    """$2^y - 1$, without the rounding that the difference has for a small y.

    Example:
        >>> gains(torch.tensor([0.0, 1.0, 3.0]))
        tensor([0., 1., 7.])
    """
    return torch.exp2(relevance) - 1.0


def ideal_dcg(relevance: Tensor, top_k: int | None = None, *, mask: Tensor | None = None) -> Tensor:
    r"""$Z_q$, the largest DCG that a query can have: $\sum_{r \le K} (2^{y_{[r]}} - 1) / \log_2(r + 1)$, y descending.

    Compute it once from whole lists; `NDCGLoss` divides by it.

    Equations:
        the $Z_q$ of 6.34 and the $Z_q^{(K)}$ of 6.36.

    Args:
        relevance: `[..., M]`, numbers of 0 or more.
        top_k: K; None is the whole list. A list that is shorter has its whole DCG.
        mask: bool, broadcastable to `relevance`; false for items that do not count.

    Returns:
        `[...]`, float32 (float64 for float64 relevance); 0 for a query without a relevant item.

    Raises:
        ValueError: `top_k` is not positive; relevance on the CPU that is negative, NaN or too large.
        TypeError: a mask that is not bool.

    Example:
        >>> ideal_dcg(torch.tensor([[0, 3, 1], [0, 0, 0]]))
        tensor([7.6309, 0.0000])
    """
    relevance = relevance.to(torch.float64 if relevance.dtype == torch.float64 else torch.float32)
    if mask is not None:
        relevance = torch.where(as_mask(relevance, mask), relevance, 0.0)
    _check_relevance(relevance)
    count = relevance.shape[-1] if top_k is None else min(check_top_k(top_k), relevance.shape[-1])
    best = torch.topk(relevance, count, dim=-1).values
    ranks = torch.arange(1, count + 1, device=relevance.device, dtype=relevance.dtype)
    return (gains(best) / torch.log2(ranks + 1.0)).sum(-1)


def check_top_k(top_k: int) -> int:
    """`top_k`, if it is a whole number of 1 or more.

    Raises:
        ValueError: it is not.

    Example:
        >>> check_top_k(10)
        10
    """
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"`top_k` must be a whole number, at least 1 (None for the whole list). Found {top_k!r}.")
    return top_k
