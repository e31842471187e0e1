"""Checks on what goes into a store, and on the rows that are asked of it."""

import operator
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch

from guidestar.errors import UserError
from guidestar.reference.meta import LOSSES

Values: TypeAlias = torch.Tensor | np.ndarray
Index: TypeAlias = int | slice | Sequence[int] | torch.Tensor | np.ndarray

_SHOWN = 10  # rows named in an error


def name_rows(rows: np.ndarray | list[int]) -> str:
    """A few row numbers in words.

    Args:
        rows: Row numbers.

    Example:
        >>> name_rows(list(range(5, 20)))
        '5, 6, 7, 8, 9, 10, 11, 12, 13, 14, ... (15 in all)'
    """
    shown = ", ".join(str(int(row)) for row in rows[:_SHOWN])
    return shown if len(rows) <= _SHOWN else f"{shown}, ... ({len(rows):,} in all)"


def as_rows(index: Index, num_rows: int) -> np.ndarray:
    """Row numbers as int64, checked against the number of rows.

    Args:
        index: An int, a slice, a list, an integer tensor or an integer array.
        num_rows: How many rows there are; negative numbers are out of range, because -1 is a common mark for "none".

    Raises:
        TypeError: The index is not made of integers.
        IndexError: A row is out of range.

    Example:
        >>> as_rows(slice(1, 4), 10).tolist()
        [1, 2, 3]
    """
    if isinstance(index, slice):
        return np.arange(*index.indices(num_rows), dtype=np.int64)
    if isinstance(index, torch.Tensor):
        array = index.detach().cpu().numpy()
    elif isinstance(index, np.ndarray | list | tuple | range):
        array = np.asarray(index)
        if array.size == 0:
            array = array.astype(np.int64)
    else:
        array = np.asarray(operator.index(index))  # pyright: ignore[reportArgumentType]  (or a TypeError that says so)
    if array.dtype.kind not in "iu":
        raise TypeError(f"`index` must hold integers, found {array.dtype}. Turn a mask into rows with `nonzero`.")
    rows = array.astype(np.int64, copy=False)
    # Seen as unsigned, a negative number is larger than any row: one pass checks both ends.
    if rows.size and rows.view(np.uint64).max() >= num_rows:
        bad = rows[(rows < 0) | (rows >= num_rows)].reshape(-1)
        raise IndexError(f"`index` must be between 0 and {num_rows - 1}, found rows {name_rows(bad)}.")
    return rows


def as_array(values: Values) -> np.ndarray:
    """Values as a NumPy array on the CPU.

    Args:
        values: A tensor of any type on any device, or an array.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach()
        return (values.float() if values.dtype == torch.bfloat16 else values).cpu().numpy()
    return np.asarray(values)


def checked_cast(name: str, values: np.ndarray, dtype: np.dtype, rows: np.ndarray) -> np.ndarray:
    """Values in a store's type, refused where that would lose them.

    Args:
        name: The array's name.
        values: What to store, [m, ...].
        dtype: The type to store it in.
        rows: The rows that the values belong to, for the error message.

    Raises:
        UserError: A value is NaN, a loss is infinite, a float is too large for the type, or an integer changes.

    Example:
        >>> checked_cast("loss", np.array([0.5, 2.0]), np.dtype("float32"), np.array([0, 1]))
        array([0.5, 2. ], dtype=float32)
    """
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.ascontiguousarray(values.astype(dtype, copy=False))
    if dtype.kind != "f":
        if not np.array_equal(cast, values):
            bad = name_rows(rows[_any_in_row(cast != values)])
            raise UserError(f"`{name}` must hold values that {dtype} can represent; it cannot for rows {bad}.")
        return cast
    if np.isfinite(cast).all():
        return cast
    bad_rows = rows[_any_in_row(np.isnan(cast))]
    if len(bad_rows):
        raise UserError(
            f"`{name}` is NaN for rows {name_rows(bad_rows)}: a reference with such values cannot be used. "
            "Look at these rows' inputs, at the reference's weights, or score with `precision` fp32."
        )
    bad_rows = rows[_any_in_row(np.isinf(cast) & np.isfinite(values))]
    if len(bad_rows):
        raise UserError(
            f"`{name}` is too large for {dtype} (limit {np.finfo(dtype).max:g}) in rows {name_rows(bad_rows)}. "
            f"Store `{name}` as float32 in a new folder."
        )
    if name in LOSSES:
        bad = name_rows(rows[_any_in_row(np.isinf(cast))])
        raise UserError(f"`{name}` is infinite for rows {bad}: the reference gives their label no probability at all.")
    return cast


def _any_in_row(mask: np.ndarray) -> np.ndarray:
    return np.asarray(mask.reshape(len(mask), -1).any(axis=1))
