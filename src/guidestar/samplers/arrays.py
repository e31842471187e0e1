"""Labels, groups and queries as NumPy arrays, checked once, when a sampler is built."""

from __future__ import annotations

import operator
import zlib
from typing import Any

import numpy as np
import torch


def as_array(values: Any, name: str, dimensions: int) -> np.ndarray:
    """`values` (tensor, array or list) as a NumPy array with this number of dimensions.

    Args:
        values: numbers or booleans.
        name: the argument that holds them, for the message.
        dimensions: 1 or 2.

    Raises:
        TypeError: they are not numbers.
        ValueError: another number of dimensions, or nothing in it.

    Example:
        >>> as_array(torch.tensor([1, 0]), "labels", 1)
        array([1, 0])
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` must hold numbers or booleans, found {array.dtype} in {type(values).__name__}.")
    if array.ndim != dimensions:
        shape = "[n]" if dimensions == 1 else "[n, tasks]"
        raise ValueError(f"`{name}` must have the shape {shape}, found {list(array.shape)}.")
    if array.size == 0:
        raise ValueError(f"`{name}` is empty: shape {list(array.shape)}. A sampler needs at least one row.")
    return array


def binary(labels: Any, dimensions: int, *, missing: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which labels are 1 and which are 0, as two boolean arrays.

    Args:
        labels: 0 and 1, in any dtype.
        dimensions: 1 or 2.
        missing: whether NaN may stand for a label that is not known.

    Raises:
        ValueError: something else than 0 and 1 was found, or a NaN where none may be.

    Example:
        >>> binary([1, 0, 0], 1, missing=False)[0]
        array([ True, False, False])
    """
    array = as_array(labels, "labels", dimensions)
    positive, negative = array == 1, array == 0
    other = array[~(positive | negative)]
    unknown = np.isnan(other) if other.dtype.kind == "f" else np.zeros(other.shape, dtype=bool)
    if not unknown.all():
        found = ", ".join(f"{value:g}" for value in np.unique(other[~unknown])[:5])
        hint = " For labels of -1 and 1, pass `labels > 0`." if -1 in other else ""
        raise ValueError(f"`labels` must be 0 or 1. Found also {found} ({(~unknown).sum()} of {array.size}).{hint}")
    if len(other) and not missing:
        raise ValueError(
            f"`labels` is NaN for {len(other)} of {array.size} rows. Leave those rows out of the data set and of `labels`."
        )
    return positive, negative


def integers(values: Any, name: str) -> np.ndarray:
    """Identifiers `[n]`: whole numbers, at least 0.

    Args:
        values: one identifier a row.
        name: the argument, for the message.

    Raises:
        ValueError: a number is negative, broken or missing.

    Example:
        >>> integers([3, 3, 8], "group")
        array([3, 3, 8])
    """
    array = as_array(values, name, 1)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or (array != np.floor(array)).any():
            raise ValueError(f"`{name}` must hold whole numbers; found broken or missing ones.")
        array = array.astype(np.int64)
    if array.dtype.kind != "b" and array.min() < 0:
        raise ValueError(
            f"`{name}` must be at least 0, found {array.min()} in {(array < 0).sum()} of {array.size} rows. "
            "Leave rows without one out of the data set."
        )
    return array


def count(value: Any, name: str, least: int = 1) -> int:
    """`value` as a whole number of at least `least`.

    Args:
        value: what the user gave.
        name: the argument, for the message.
        least: the smallest that is allowed.

    Raises:
        TypeError: it is no integer.
        ValueError: it is smaller.

    Example:
        >>> count(8, "batch_size")
        8
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer, found {value!r}.") from None
    if number < least:
        raise ValueError(f"`{name}` must be at least {least}, found {number}.")
    return number


def rows_of(chosen: np.ndarray) -> np.ndarray:
    """The row numbers at which `chosen` is True, in 4 bytes each where that is enough.

    Example:
        >>> rows_of(np.array([False, True, True])).tolist()
        [1, 2]
    """
    rows = np.flatnonzero(chosen)
    return rows.astype(np.int32) if len(chosen) < 2**31 else rows


def lists_by(identifiers: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The distinct identifiers in order, and the row numbers of each.

    Example:
        >>> names, lists = lists_by(np.array([7, 2, 7]))
        >>> names.tolist(), [rows.tolist() for rows in lists]
        ([2, 7], [[1], [0, 2]])
    """
    names, sizes = np.unique(identifiers, return_counts=True)
    order = np.argsort(identifiers, kind="stable")
    return names, np.split(order, np.cumsum(sizes)[:-1])


def checksum(*arrays: np.ndarray) -> int:
    """A number that tells one data set from another, so that a state is not continued with rows in another order.

    Args:
        arrays: booleans or whole numbers.

    Example:
        >>> checksum(np.array([True, False])) == checksum(np.array([False, True]))
        False
    """
    total = 0
    for array in arrays:
        packed = np.packbits(array) if array.dtype == bool else array.astype(np.int64)
        total = zlib.crc32(packed.tobytes(), total)
    return total


def positives_per_batch(batch_size: int, rate: float, name: str = "batch_size") -> int:
    """`batch_size * rate` to the nearest whole number, with at least one positive and one negative.

    Args:
        batch_size: samples of a batch.
        rate: fraction of positives.
        name: the argument that holds the size, for the message.

    Raises:
        ValueError: the rate is not between 0 and 1, or the batch has no room for both classes.

    Example:
        >>> positives_per_batch(64, 0.1), positives_per_batch(64, 0.001), positives_per_batch(5, 0.5)
        (6, 1, 3)
    """
    count(batch_size, name, least=2)
    if not 0.0 < rate < 1.0:
        raise ValueError(
            f"`rate` is the fraction of positives in a batch and must lie between 0 and 1, both excluded. Found {rate}."
        )
    # Half a sample counts as one; 1e-9 keeps 0.15 * 10 = 1.4999999999999998 on the side where the decimals are.
    return min(max(int(batch_size * rate + 0.5 + 1e-9), 1), batch_size - 1)
