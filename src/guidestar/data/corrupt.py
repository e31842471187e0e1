"""Controlled changes of a data set: label noise, long tails, and random choices of rows, each from its own seed."""

from __future__ import annotations

import numpy as np
import torch

from guidestar.errors import UserError


def label_noise(labels: torch.Tensor, share: float, num_classes: int, seed: int) -> torch.Tensor:
    """Labels of which exactly round(share n), chosen at random, are each replaced by a random other class.

    Args:
        labels: class ids, int64 `[n]`.
        share: how much to replace, in [0, 1].
        num_classes: number of classes C, at least 2 unless `share` is 0.
        seed: decides which and by what.

    Raises:
        UserError: `share` is out of [0, 1], or there is no other class.

    Example:
        >>> int((label_noise(torch.zeros(10, dtype=torch.int64), 0.3, 5, seed=0) != 0).sum())
        3
    """
    if not 0 <= share <= 1:
        raise UserError(f"`label_noise` must be in [0, 1], found {share}.")
    if share > 0 and num_classes < 2:
        raise UserError(f"`label_noise` needs at least 2 classes, found {num_classes}.")
    generator = np.random.default_rng(seed)
    values = labels.numpy().copy()
    chosen = generator.choice(len(values), size=round(share * len(values)), replace=False)
    if len(chosen):
        # Adding 1 .. C-1 modulo C reaches each other class once.
        values[chosen] = (values[chosen] + generator.integers(1, num_classes, size=len(chosen))) % num_classes
    return torch.from_numpy(values)


def long_tail(labels: torch.Tensor, imbalance: float, num_classes: int, seed: int) -> torch.Tensor:
    """Rows to keep so that class sizes fall exponentially with the class id.

    Class c keeps n_c = n_max imbalance^(-c / (C - 1)) rows (rounded, at least one), where n_max is the size of the
    smallest class, so that the formula can be met. With `imbalance` 1 nothing is asked for and every row is kept.

    Args:
        labels: class ids, int64 `[n]`.
        imbalance: ratio between the largest and the smallest class, at least 1.
        num_classes: number of classes C.
        seed: decides which rows of a class are kept.

    Returns:
        Row numbers in ascending order.

    Raises:
        UserError: `imbalance` is below 1, or a class has no row.

    Example:
        >>> labels = torch.arange(3).repeat_interleave(100)
        >>> labels[long_tail(labels, 100, 3, seed=0)].bincount().tolist()
        [100, 10, 1]
    """
    if not (imbalance >= 1 and np.isfinite(imbalance)):
        raise UserError(f"`imbalance` must be a finite number of at least 1, found {imbalance}.")
    values = labels.numpy()
    if imbalance == 1:
        return torch.arange(len(values))
    sizes = np.bincount(values, minlength=num_classes)
    if sizes.min() == 0:
        raise UserError(f"`imbalance` needs rows of every class; class {int(sizes.argmin())} has none.")
    generator = np.random.default_rng(seed)
    kept = []
    for label in range(num_classes):
        wanted = sizes.min() * imbalance ** (-label / max(num_classes - 1, 1))
        rows = np.flatnonzero(values == label)
        kept.append(generator.choice(rows, size=max(1, round(wanted)), replace=False))
    return torch.from_numpy(np.sort(np.concatenate(kept)))


def stratified_rows(labels: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """A random choice of n rows in which each class keeps its share (largest remainders get the odd rows).

    Args:
        labels: class ids, int64 `[N]`.
        n: how many rows, in 1 .. N.
        seed: decides which.

    Returns:
        Row numbers in ascending order.

    Raises:
        UserError: `n` is out of range.

    Example:
        >>> labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
        >>> labels[stratified_rows(labels, 10, seed=0)].bincount().tolist()
        [6, 3, 1]
    """
    values = labels.numpy()
    if not 1 <= n <= len(values):
        raise UserError(f"`n` must be between 1 and the number of rows, {len(values)}; found {n}.")
    generator = np.random.default_rng(seed)
    classes, sizes = np.unique(values, return_counts=True)
    exact = sizes * (n / len(values))
    take = np.floor(exact).astype(np.int64)
    # Ties between remainders are broken at random, lest the first classes always win.
    order = np.lexsort((generator.random(len(classes)), take - exact))
    take[order[: n - take.sum()]] += 1
    kept = [
        generator.choice(np.flatnonzero(values == label), size=size, replace=False)
        for label, size in zip(classes, take, strict=True)
    ]
    return torch.from_numpy(np.sort(np.concatenate(kept)))


def split_rows(n: int, test_fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows 0 .. n-1 parted at random into training and test rows, round(test_fraction n) of the latter.

    Args:
        n: number of rows.
        test_fraction: share of the test rows, in (0, 1); both parts get at least one row.
        seed: decides which.

    Returns:
        Training rows and test rows, each in ascending order.

    Raises:
        UserError: `test_fraction` is out of (0, 1), or there are fewer than two rows.

    Example:
        >>> train, test = split_rows(8, 0.25, seed=0)
        >>> len(train), len(test)
        (6, 2)
    """
    if not 0 < test_fraction < 1:
        raise UserError(f"`test_fraction` must be between 0 and 1 (both excluded), found {test_fraction}.")
    if n < 2:
        raise UserError(f"`test_fraction` needs at least 2 rows to part, found {n}.")
    order = np.random.default_rng(seed).permutation(n)
    size = min(max(round(test_fraction * n), 1), n - 1)
    return torch.from_numpy(np.sort(order[size:])), torch.from_numpy(np.sort(order[:size]))
