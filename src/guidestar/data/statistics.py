"""Mean and standard deviation of a split's inputs."""

from __future__ import annotations

import torch

from guidestar.data.split import Split

_ROWS_AT_ONCE = 512


def mean_std(split: Split, max_rows: int = 10_000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation by channel (images) or column (tables), constant ones with standard deviation 1.

    Args:
        split: the data; evenly spaced rows are used when there are more than `max_rows`.
        max_rows: how many rows to look at.

    Example:
        >>> from guidestar.data import ArraySplit
        >>> mean_std(ArraySplit(torch.tensor([[0.0, 5.0], [2.0, 5.0]]), [0, 1]))
        ([1.0, 5.0], [1.0, 1.0])
    """
    step = -(-len(split) // max_rows)
    rows = list(range(0, len(split), step))
    channels = split.input_shape[0]
    count, total, squares = 0, torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        inputs, _, _ = split.__getitems__(rows[start : start + _ROWS_AT_ONCE])
        values = inputs.to(torch.float64).reshape(len(inputs), channels, -1)
        count += len(inputs) * values.shape[2]
        total += values.sum((0, 2))
        squares += values.square().sum((0, 2))
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    # A constant channel leaves rounding noise of the size of float32's resolution.
    std = torch.where(std > 1e-6 * mean.abs().clamp(min=1e-6), std, torch.ones_like(std))
    return mean.tolist(), std.tolist()
