"""Rows of memory for the positives alone, for data with many labels of which few are positive."""

from __future__ import annotations

import torch
from torch import Tensor

#: The row number of an entry that is not positive: no row, so that using it by mistake is an error and not a write.
NO_ROW = -1


def positive_rows(labels: Tensor) -> Tensor:
    """Number the positive entries of a data set's labels, so that a memory needs one row for each of them only.

    A loss over positives remembers something of each (sample, label) that is positive. By default its memory has a row
    for every pair of a sample and a label; with `index` `[B, L]` made of these numbers it needs only as many rows as
    there are positives, `rows.max() + 1`: that is `num_rows` with `num_labels=1`. `SOTAsLoss` and `STACOLoss`, which
    also remember something of each label, keep their `num_labels` L and take the L-th part of it, rounded up.

    Equations:
        the rows of u in Alg. 28 and Alg. 30, of nu in Alg. 29.

    Args:
        labels: of the whole data set, `[n]` or `[n, L]`, 0 or 1 in any dtype; a NaN is a label that is missing.

    Returns:
        int64 in the shape of `labels`: 0, 1, 2, ... for the positives in the order of the samples, -1 for the rest.

    Raises:
        ValueError: the labels have another shape, or values other than 0 and 1.

    Example:
        >>> labels = torch.tensor([[0, 1], [1, 1], [0, 0]])
        >>> positive_rows(labels)
        tensor([[-1,  0],
                [ 1,  2],
                [-1, -1]])
    """
    if labels.ndim not in (1, 2):
        raise ValueError(f"`labels` must be [n] or [n, L]. Found {tuple(labels.shape)}.")
    positive = labels == 1
    other = ~(positive | (labels == 0) | labels.isnan())
    if bool(other.any()):
        raise ValueError(
            f"`labels` must be 0 or 1. Found {labels[other][0].item()}. For labels of -1 and 1, pass (labels > 0)."
        )
    flat = positive.reshape(-1)
    return torch.where(flat, flat.cumsum(0) - 1, NO_ROW).reshape(labels.shape)
