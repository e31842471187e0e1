"""Checks of labels and inputs that name the first row at fault."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from guidestar.errors import UserError

_ROWS_AT_ONCE = 4096
_CLASSES_WITHOUT_QUESTION = 1000


def _row_name(row: int, rows: Sequence[str] | None) -> str:
    return f"row {row if rows is None else rows[row]} (rows count from 0)"


def check_labels(
    labels: np.ndarray | torch.Tensor | Sequence[int],
    *,
    num_classes: int | None = None,
    rows: Sequence[str] | None = None,
) -> torch.Tensor:
    """Class ids as an int64 tensor `[n]`, or an error that names the first bad one.

    Args:
        labels: whole numbers of any type, `[n]` or `[n, 1]`.
        num_classes: labels must be smaller than this, if it is given.
        rows: names of the rows for error messages; default: their numbers.

    Raises:
        UserError: labels of another shape or type, or one that is NaN, negative, no whole number, or out of range.

    Example:
        >>> check_labels([0.0, 2.0, 1.0], num_classes=3)
        tensor([0, 2, 1])
    """
    values = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise UserError(
            f"`labels` must be one class id a row, shape [n]; found shape {list(values.shape)}. "
            "Turn one-hot labels into ids with argmax."
        )
    if values.dtype.kind not in "biuf":
        raise UserError(f"`labels` must be whole numbers (class ids from 0), found an array of type {values.dtype}.")
    faults: list[tuple[np.ndarray, str]] = []
    if values.dtype.kind == "f":
        faults.append((~np.isfinite(values), "must be finite"))
        with np.errstate(invalid="ignore"):
            faults.append((np.mod(values, 1) != 0, "must be a whole number"))
    faults.append((values < 0, "must not be negative"))
    if num_classes is not None:
        faults.append((values >= num_classes, f"must be in 0 .. {num_classes - 1}"))
    for fault, rule in faults:
        if fault.any():
            row = int(fault.argmax())
            raise UserError(f"`labels`: each label {rule}; found {values[row]} in {_row_name(row, rows)}.")
    return torch.from_numpy(values.astype(np.int64))


def check_finite(inputs: torch.Tensor, *, rows: Sequence[str] | None = None) -> None:
    """Raise if a floating-point input holds NaN or infinity.

    Raises:
        UserError: names the first such row.

    Example:
        >>> check_finite(torch.zeros(3, 2))
    """
    for start in range(0, inputs.shape[0], _ROWS_AT_ONCE):
        finite = torch.isfinite(inputs[start : start + _ROWS_AT_ONCE]).flatten(1).all(1)
        if not bool(finite.all()):
            row = start + int((~finite).nonzero()[0])
            bad = inputs[row].flatten()
            value = bad[~torch.isfinite(bad)][0].item()
            raise UserError(
                f"`inputs` must be finite (as float32); found {value} in {_row_name(row, rows)}. "
                "Remove such rows or fill them in."
            )


def choose_class_names(
    labels: torch.Tensor, given: Sequence[str] | None = None, other: Sequence[str] | None = None
) -> list[str]:
    """The names of the classes: those given, else the other split's, else the numbers 0 .. max(labels).

    Where the other split's classes are mere numbers and these labels go further, the numbers go further too.

    Args:
        labels: class ids, int64 `[n]`.
        given: names that the user wrote down.
        other: names of the split that this one is read for (training, when this is the test split).

    Raises:
        UserError: a label so large that it cannot be a class id (as many classes as rows, and more than 1,000).

    Example:
        >>> choose_class_names(torch.tensor([0, 2]))
        ['0', '1', '2']
    """
    if given is not None:
        return list(given)
    highest = int(labels.max()) if labels.numel() else -1
    if other is not None and (highest < len(other) or list(other) != [str(k) for k in range(len(other))]):
        return list(other)
    if other is None and highest >= max(labels.numel(), _CLASSES_WITHOUT_QUESTION):
        raise UserError(
            f"`labels` must be class ids 0 .. classes - 1; found {highest} in {_row_name(int(labels.argmax()), None)} "
            f"among {labels.numel()} rows. Number the classes from 0, or give `class_names`."
        )
    return [str(k) for k in range(highest + 1)]
