"""Metrics of groups: each group's mean, and the worst group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from guidestar.errors import UserError

Values = torch.Tensor | np.ndarray | Sequence[float]


def per_group(values: Values, groups: Values, num_groups: int | None = None) -> dict[str, Any]:
    """The mean of a number a sample (right or wrong, a loss) within each group, and the groups' sizes.

    A group without samples has no mean. It is listed as absent, and never counts as 0.

    Args:
        values: [n], numbers or bool (whether the prediction is right, say).
        groups: [n], the group of each, whole numbers from 0.
        num_groups: how many groups there are; None is up to the largest that occurs.

    Returns:
        `mean`: {group: mean} of the groups that occur; `size`: {group: number of samples} of all groups; `absent`: the
        list of those without samples. A NaN among a group's values makes its mean NaN.

    Raises:
        UserError: there are no samples, the shapes differ, or a group is out of range.
        TypeError: groups that are not whole numbers.

    Example:
        >>> per_group([True, False, True], [0, 0, 2], num_groups=3)
        {'mean': {0: 0.5, 2: 1.0}, 'size': {0: 2, 1: 0, 2: 1}, 'absent': [1]}
    """
    numbers, group = _checked(values, groups, num_groups)
    count = int(group.max()) + 1 if num_groups is None else num_groups
    sizes = np.bincount(group, minlength=count)
    with np.errstate(invalid="ignore"):  # an infinite loss stays one, and inf - inf is a NaN that is reported
        sums = np.bincount(group, weights=numbers, minlength=count)
    return {
        "mean": {g: float(sums[g] / sizes[g]) for g in range(count) if sizes[g]},
        "size": {g: int(sizes[g]) for g in range(count)},
        "absent": [g for g in range(count) if not sizes[g]],
    }


def worst_group(
    values: Values, groups: Values, num_groups: int | None = None, *, higher_is_better: bool = True
) -> dict[str, Any]:
    """The group with the worst mean: the lowest for an accuracy, the highest for a loss.

    Args:
        values: as for `per_group`.
        groups: as for `per_group`.
        num_groups: as for `per_group`.
        higher_is_better: false for losses and errors.

    Returns:
        `group`, its `value` and `size`; `average`, the mean over the groups that occur, each counting once; `absent`, the
        groups without samples, about which nothing is known. The first of equals is given. A mean that is NaN is the worst.

    Raises:
        UserError, TypeError: as `per_group`.

    Example:
        >>> worst_group([True, False, True], [0, 0, 2], num_groups=3)
        {'group': 0, 'value': 0.5, 'size': 2, 'average': 0.75, 'absent': [1]}
    """
    found = per_group(values, groups, num_groups)
    sign = 1.0 if higher_is_better else -1.0
    means = found["mean"]
    group = min(means, key=lambda g: (not math.isnan(means[g]), sign * means[g] if not math.isnan(means[g]) else 0.0))
    return {
        "group": group,
        "value": means[group],
        "size": found["size"][group],
        "average": sum(means.values()) / len(means),
        "absent": found["absent"],
    }


def _checked(values: Values, groups: Values, num_groups: int | None) -> tuple[np.ndarray, np.ndarray]:
    numbers, group = _array(values).astype(np.float64), _array(groups)
    if numbers.ndim != 1 or numbers.shape != group.shape:
        raise UserError(
            f"`values` and `groups` must both have shape [n], found {list(numbers.shape)} and {list(group.shape)}."
        )
    if len(numbers) == 0:
        raise UserError("`values` must hold at least one sample, found none: metrics of nothing are undefined.")
    if not np.issubdtype(group.dtype, np.integer):
        raise TypeError(f"`groups` must be whole numbers, found {group.dtype}.")
    low, high = int(group.min()), int(group.max())
    if low < 0 or (num_groups is not None and high >= num_groups):
        bound = "0 or more" if num_groups is None else f"in [0, {num_groups})"
        raise UserError(f"`groups` must be {bound}, found {low if low < 0 else high}: check `num_groups`.")
    return numbers, group.astype(np.int64)


def _array(values: Values) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.double() if values.is_floating_point() else values).numpy()  # NumPy has no bfloat16
    return np.asarray(values)
