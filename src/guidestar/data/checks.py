"""Checks of labels and inputs that name the first row at fault."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from guidestar.errors import UserError

_ROWS_AT_ONCE = 4096


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
    labels: torch.Tensor,
    given: Sequence[str] | None = None,
    other: Sequence[str] | None = None,
    *,
    what: str = "`labels`",
    rows: Sequence[str] | None = None,
    remedy: str = "name all classes with `class_names`",
) -> list[str]:
    """The names of the classes of the data in a source: those given, else the other split's, else the numbers 0 .. C-1.

    Numbers are taken from training labels only, and only if each of 0 .. C-1 occurs: a single wrong label, say 255,
    would otherwise give 256 classes. Names that are given may lack rows.

    Args:
        labels: the class ids of all rows of the source, int64 `[n]`, not negative.
        given: names that the user wrote down.
        other: names of the split that this one is read for (training, when this is the test split).
        what: where the labels are from, for error messages.
        rows: names of the rows for error messages; default: their numbers.
        remedy: how the user can name the classes, for error messages.

    Raises:
        UserError: a class has no training row though a higher one has, or a label is beyond the classes; names the
            first row at fault.

    Example:
        >>> choose_class_names(torch.tensor([0, 2, 1]))
        ['0', '1', '2']
    """
    values = labels.numpy()
    if given is not None:
        check_labels(labels, num_classes=len(given), rows=rows)
        return list(given)
    if other is not None:
        beyond = values >= len(other)
        if beyond.any():
            row = int(beyond.argmax())
            raise UserError(
                f"{what}: {_row_name(row, rows)} has label {values[row]}, but the classes of the training data are "
                f"0 to {len(other) - 1}. Correct it, or {remedy} in the training data."
            )
        return list(other)
    present = np.unique(values)
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if gaps.size:
        first, following = int(gaps[0]), int(present[gaps[0]])
        row = int((values > first).argmax())
        lacking = f"class {first} has" if following == first + 1 else f"classes {first} to {following - 1} have"
        raise UserError(
            f"{what}: {_row_name(row, rows)} has label {values[row]}, but {lacking} no training row; labels must be "
            f"0 to C - 1 for C classes, without gaps. Correct it, or {remedy}."
        )
    return [str(label) for label in present.tolist()]
