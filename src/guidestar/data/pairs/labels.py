"""Class ids from the values of a label column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from guidestar.errors import UserError


def class_ids(
    values: Sequence[Any] | np.ndarray | torch.Tensor,
    *,
    given: Sequence[str] | None = None,
    other: Sequence[str] | None = None,
    key: Callable[[int], str] = str,
) -> tuple[torch.Tensor, list[str]]:
    """Class ids int64 `[n]`, and the names of the classes.

    With `given`, whole numbers are ids and texts are names among them; with `other`, every value is a name among them;
    otherwise the distinct values, sorted, are the classes.

    Args:
        values: one label a row: texts or whole numbers.
        given: names that the user wrote down.
        other: the names of the training data, when these are the labels of the test data.
        key: position -> the name of the row in error messages.

    Raises:
        UserError: a label is missing, neither a text nor a whole number, or of no known class; names the first row.

    Example:
        >>> class_ids(["shoe", "bag", "shoe"])
        (tensor([1, 0, 1]), ['bag', 'shoe'])
    """
    found = values.tolist() if isinstance(values, np.ndarray | torch.Tensor) else list(values)
    labels = [_label(value, row, key) for row, value in enumerate(found)]
    if given is not None:
        ids = {name: number for number, name in enumerate(given)}
        chosen = [
            _among(label, ids, label if isinstance(label, int) else -1, row, key) for row, label in enumerate(labels)
        ]
        return torch.tensor(chosen, dtype=torch.int64), list(given)
    if other is not None:
        names = list(other)
    else:
        # Numbers in the order of numbers, then texts.
        names = [str(label) for label in sorted(set(labels), key=lambda label: (isinstance(label, str), label))]
    ids = {name: number for number, name in enumerate(names)}
    chosen = [_among(str(label), ids, -1, row, key) for row, label in enumerate(labels)]
    return torch.tensor(chosen, dtype=torch.int64), names


def _label(value: Any, row: int, key: Callable[[int], str]) -> int | str:
    """A label without the accidents of file formats: 3.0 is 3, and bytes are text."""
    if isinstance(value, np.generic | torch.Tensor):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int):
        return int(value)
    missing = value is None or value == "" or isinstance(value, float)
    rule = "each row needs one" if missing else "must be a text or a whole number"
    raise UserError(f"`label`: {rule}; found {value!r} in {key(row)}. Correct it, or leave `label` out.")


def _among(label: int | str, ids: dict[str, int], number: int, row: int, key: Callable[[int], str]) -> int:
    if 0 <= number < len(ids):
        return number
    if isinstance(label, str) and label in ids:
        return ids[label]
    shown = ", ".join(list(ids)[:8]) + (", ..." if len(ids) > 8 else "")
    raise UserError(
        f"`label`: {label!r} in {key(row)} is none of the {len(ids)} classes ({shown}). Correct it, or name all classes "
        "with `class_names`."
    )
