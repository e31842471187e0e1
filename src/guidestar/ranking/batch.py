"""A batch of scores with 0/1 labels: checked, gathered over the ranks, and split into positives and negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guidestar import distributed
from guidestar.state import math_dtype, may_look

#: How many positives and how many negatives each label has, `[L]` each.
Sizes = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Split:
    """The positives and the negatives of each label, padded to the longest.

    A pad repeats the first entry of its side, outside the graph: it can't overflow where the entries don't. The scores
    of labels that lack a class are 0.

    Attributes:
        pos: scores of the positives `[L, P]`.
        pos_mask: which of them are no pads, bool `[L, P]`, or None where nothing is padded.
        neg: scores of the negatives `[L, N]`.
        neg_mask: which of them are no pads, bool `[L, N]`, or None.
        rows: memory rows of the positives, int64 `[L, P]`, 0 at pads; or None without an index.
    """

    pos: Tensor
    pos_mask: Tensor | None
    neg: Tensor
    neg_mask: Tensor | None
    rows: Tensor | None

    def mean_over_positives(self, values: Tensor) -> Tensor:
        """Mean of `values` `[L, P]` over each label's positives, `[L]`; 0 for a label that has none.

        Example:
            >>> split = Split(torch.zeros(1, 2), torch.tensor([[True, False]]), torch.zeros(1, 1), None, None)
            >>> split.mean_over_positives(torch.tensor([[3.0, 5.0]]))
            tensor([3.])
        """
        if self.pos_mask is None:
            return values.mean(-1) if values.shape[-1] else values.sum(-1)
        counted = torch.where(self.pos_mask, values, 0.0)
        return counted.sum(-1) / self.pos_mask.sum(-1).clamp(min=1)


@dataclass(frozen=True)
class BinaryBatch:
    """Scores and labels of L binary tasks over the same B samples, of all ranks where something is learnt.

    Attributes:
        scores: float32 or float64 `[L, B]`; 0 where masked or without a label.
        positive: which count as positive, bool `[L, B]`.
        negative: which count as negative, bool `[L, B]`; neither where masked or without a label.
        rows: memory rows of (sample, label), int64 `[L, B]`, or None without an index.
        learnable: which labels have both classes, bool `[L]`.
        complete: it is known that every label has both classes, and that there is a label.
        sizes: the numbers of positives and of negatives of each label, on a CPU, where it costs nothing to know them.
    """

    scores: Tensor
    positive: Tensor
    negative: Tensor
    rows: Tensor | None
    learnable: Tensor
    complete: bool
    sizes: Sizes | None

    def lacking(self) -> Tensor:
        """Which labels have one class only, bool `[L]`; a label of which nothing counts is one if none has more.

        So a label that the batch was not drawn for is not counted, and a batch of nothing is.

        Example:
            >>> batch = binary_batch(torch.zeros(2, 2), torch.tensor([[1.0, float("nan")]] * 2), learning=False)
            >>> batch.lacking()
            tensor([ True, False])
        """
        known = (self.positive | self.negative).any(1)
        return ~self.learnable & (known | ~known.any())

    def split(self) -> Split:
        """Positives and negatives of each label. Under torch.compile, where shapes are fixed, P = N = B with masks."""
        if (
            self.complete
            and self.sizes is not None
            and len(self.scores) == 1
            and _known(self.sizes) == self.scores.numel()
        ):
            return self._halves(int(self.sizes[0][0]))
        scores, sizes = self.scores, self.sizes or (None, None)
        pos, pos_mask = _compact(self.positive, sizes[0])
        neg, neg_mask = _compact(self.negative, sizes[1])
        if not self.complete:
            scores = torch.where(self.learnable.unsqueeze(1), scores, 0.0)
        rows = None if self.rows is None else self.rows.gather(1, pos)
        if rows is not None and pos_mask is not None:
            rows = torch.where(pos_mask, rows, 0)  # it exists; the number at an entry that isn't positive may not
        return Split(_take(scores, pos, pos_mask), pos_mask, _take(scores, neg, neg_mask), neg_mask, rows)

    def _halves(self, count: int) -> Split:
        """The split of one label of which all is known, on a CPU: the positives first, by one selection."""
        which = self.positive[0].numpy()
        order = torch.from_numpy(np.concatenate((which.nonzero()[0], (~which).nonzero()[0])))
        pos, neg = self.scores.index_select(1, order).split((count, len(order) - count), 1)
        rows = None if self.rows is None else self.rows.index_select(1, order[:count])
        return Split(pos, None, neg, None, rows)

    def mean_over_labels(self, values: Tensor) -> Tensor:
        """Mean of `values` `[L]` over the labels that have both classes; a zero in the graph where none has.

        A NaN among the scores of a label that lacks a class is not hidden either.

        Example:
            >>> batch = binary_batch(torch.zeros(2, 2), torch.tensor([[0, 1], [1, 1]]), learning=False)
            >>> batch.mean_over_labels(torch.tensor([3.0, 5.0]))
            tensor(3.)
        """
        if self.complete:
            return values.mean() if len(values) > 1 else values.squeeze(0)
        total = torch.where(self.learnable, values, 0.0).sum()
        return total / self.learnable.sum().clamp(min=1) + (self.scores * 0.0).sum()


def binary_batch(
    scores: Tensor, labels: Tensor, index: Tensor | None = None, mask: Tensor | None = None, *, learning: bool
) -> BinaryBatch:
    """The batch of a loss over pairs of positives and negatives.

    Args:
        scores: logits `[B]`, or `[B, L]` for L labels.
        labels: 0 or 1 in any dtype, same shape; a NaN is a label that is missing: neither positive nor negative.
        index: row numbers of the samples, int64 `[B]`: with L labels, (sample, label) has the memory row
            `index * L + label`; or `[B, L]`: memory rows as they are.
        mask: which scores count, bool `[B]` (samples) or `[B, L]`.
        learning: training with gradients: the ranks' scores then make one batch.

    Raises:
        TypeError: scores that are not floating point, an index that is not int64, a mask that is not bool.
        ValueError: shapes, or (on the CPU) labels other than 0 and 1.

    Example:
        >>> batch = binary_batch(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 0]), learning=False)
        >>> batch.split().neg
        tensor([[0.1000, 0.3000]])
    """
    dtype = math_dtype(scores)
    _check_shapes(scores, labels, index, mask)
    scores, labels = scores.to(dtype), labels.detach().to(scores.device)
    counted = None if mask is None else _spread(mask.to(scores.device), scores)
    rows = None if index is None else _rows(index.detach().to(scores.device), scores)
    if learning and distributed.world_size() > 1:
        scores, labels = distributed.gather_with_gradient(scores), distributed.gather(labels)
        counted = None if counted is None else distributed.gather(counted)
        rows = None if rows is None else distributed.gather(rows)
    scores, labels = _by_label(scores), _by_label(labels)
    counted = None if counted is None else _by_label(counted)
    rows = None if rows is None else _by_label(rows)
    positive, negative = labels == 1, labels == 0
    sizes = _sizes(positive, negative) if may_look(labels) else None
    complete = sizes is not None and _known(sizes) == labels.numel()
    if counted is not None or not complete:
        known = positive | negative
        if sizes is not None and not complete:
            _check_labels(labels, known, counted)
        known = known if counted is None else known & counted
        positive, negative = positive & known, negative & known
        # Only what counts stays: a NaN that is masked must reach neither the value nor, as 0 * NaN, a gradient.
        scores = torch.where(known, scores, 0.0)
        sizes = None if sizes is None else _sizes(positive, negative)
    if sizes is None:
        learnable, complete = positive.any(1) & negative.any(1), False
    else:
        both = (sizes[0] > 0) & (sizes[1] > 0)
        learnable = torch.from_numpy(both)
        complete = bool(both[0]) if len(both) == 1 else len(both) > 0 and bool(both.all())
    return BinaryBatch(scores, positive, negative, rows, learnable, complete, sizes)


def _by_label(values: Tensor) -> Tensor:
    """`[L, B]` of `[B]` or `[B, L]`."""
    return values.unsqueeze(0) if values.ndim == 1 else values.T


def _spread(mask: Tensor, scores: Tensor) -> Tensor:
    return mask if mask.ndim == scores.ndim else mask.unsqueeze(1).expand(scores.shape)


def _rows(index: Tensor, scores: Tensor) -> Tensor:
    """Memory rows of (sample, label), in the shape of the scores."""
    index = index.to(torch.int64)
    if index.ndim == scores.ndim:
        return index
    return index.unsqueeze(1) * scores.shape[1] + torch.arange(scores.shape[1], device=index.device)


def _sizes(positive: Tensor, negative: Tensor) -> Sizes:
    if len(positive) == 1:  # much faster than with an axis
        return np.array([np.count_nonzero(positive.numpy())]), np.array([np.count_nonzero(negative.numpy())])
    return np.count_nonzero(positive.numpy(), axis=1), np.count_nonzero(negative.numpy(), axis=1)


def _known(sizes: Sizes) -> int:
    """How many scores have a label."""
    return int(sizes[0][0] + sizes[1][0]) if len(sizes[0]) == 1 else int(sizes[0].sum() + sizes[1].sum())


def _compact(which: Tensor, counts: np.ndarray | None) -> tuple[Tensor, Tensor | None]:
    """Positions of the true entries of each row, padded with the first of them, and which are no pads."""
    if counts is not None:
        return _compact_on_cpu(which.numpy(), counts)
    size = which.shape[1]
    order = torch.arange(size, device=which.device)
    if torch.compiler.is_compiling():
        first = which.to(torch.int8).argmax(1, keepdim=True) if size else which.new_zeros((len(which), 1)).long()
        return torch.where(which, order, first), which
    if len(which) == 1:
        return which[0].nonzero().T, None
    found = which.sum(1)
    shortest, longest = torch.stack(found.aminmax()).tolist() if len(found) else (0, 0)
    slots = torch.where(which, which.cumsum(1) - 1, longest)
    places = torch.zeros((len(which), longest + 1), dtype=torch.int64, device=which.device)
    places = places.scatter_(1, slots, order.expand_as(slots))[:, :longest]
    if shortest == longest:
        return places, None
    mask = order[:longest] < found.unsqueeze(1)
    return torch.where(mask, places, places[:, :1]), mask


def _compact_on_cpu(which: np.ndarray, counts: np.ndarray) -> tuple[Tensor, Tensor | None]:
    labels, size = which.shape
    longest = int(counts.max(initial=0))
    found = np.flatnonzero(np.ascontiguousarray(which))  # much faster than nonzero of two dimensions
    if labels == 1:
        return torch.from_numpy(found).unsqueeze(0), None
    starts = np.arange(labels)[:, None] * size
    if len(found) == labels * longest:
        return torch.from_numpy(found.reshape(labels, longest) - starts), None
    mask = np.arange(longest) < counts[:, None]
    places = np.repeat(starts, longest, axis=1)
    places[mask] = found
    places -= starts
    return torch.from_numpy(np.where(mask, places, places[:, :1])), torch.from_numpy(mask)


def _take(scores: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
    taken = scores.gather(1, positions)
    return taken if mask is None else torch.where(mask, taken, taken.detach())


def _check_shapes(scores: Tensor, labels: Tensor, index: Tensor | None, mask: Tensor | None) -> None:
    for name, given in (("labels", labels), ("index", index), ("mask", mask)):
        if not isinstance(given, Tensor) and (given is not None or name == "labels"):
            raise TypeError(f"`{name}` must be a tensor. Found {type(given).__name__}.")
    shape = tuple(scores.shape)
    if scores.ndim not in (1, 2):
        raise ValueError(f"`scores` must be [B], or [B, L] for L labels. Found {shape}.")
    if labels.shape != scores.shape:
        raise ValueError(
            f"`labels` must have the shape of `scores`, {shape}. Found {tuple(labels.shape)}. One output for each label "
            "needs one label each; squeeze or unsqueeze one of the two."
        )
    if index is not None and index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"`index` must be an int64 tensor of row numbers. Found dtype {index.dtype}.")
    if index is not None and index.shape not in (scores.shape, scores.shape[:1]):
        raise ValueError(
            f"`index` must have one row number for each sample, shape {shape[:1]}, or for each score, {shape}. Found "
            f"{tuple(index.shape)}."
        )
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"`mask` must be a bool tensor, true where a score counts. Found dtype {mask.dtype}.")
    if mask is not None and mask.shape not in (scores.shape, scores.shape[:1]):
        raise ValueError(
            f"`mask` must have one entry for each sample, shape {shape[:1]}, or for each score, {shape}. Found "
            f"{tuple(mask.shape)}."
        )


def _check_labels(labels: Tensor, known: Tensor, counted: Tensor | None) -> None:
    """Refuse other labels than 0, 1 and (missing) NaN."""
    other = ~known if counted is None else ~known & counted
    found = labels[other]
    found = found[~found.isnan()] if found.is_floating_point() else found
    if found.numel():
        shown = ", ".join(f"{value:g}" for value in found.unique()[:5].tolist())
        raise ValueError(
            f"`labels` must be 0 or 1 (or NaN where one is missing). Found {shown}. For labels of -1/1 pass (labels > 0), "
            "for classes pass (labels == positive_class)."
        )
